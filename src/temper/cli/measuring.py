"""The commands that measure a model: evaluate, corruptions, margins."""

import contextlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Literal

import tyro
from pydantic.dataclasses import dataclass

from temper.cli import DONE, STOPPED, end
from temper.core.calls import BatchSize, Count, Helpers, Pixels, Precision, Seed
from temper.errors import ArgumentError


@dataclass(frozen=True)
class Evaluate:
    """Measure a classifier: clean accuracy, robust accuracy at each radius, and expected robustness, each with its
    number of samples and 95 % interval. The evidence is kept in OUT: run again, nothing is searched twice, and the
    same command started in several processes at once shares the work.

    Example: temper evaluate --model runs/finetune --data photos/test --threat "Linf:1/255,2/255,4/255"
    """

    model: str
    """A run folder, timm:NAME[@weights-file], module:factory (images float NCHW in [0, 1]), onnx:FILE, bundled, or
    NAME[@weights-file] of the catalogue."""
    data: str
    """FILE.npz, a folder or zip with one folder per class, digits, torchvision:NAME, parquet:DIR, or a name of the
    catalogue, such as flowers-102."""
    threat: tyro.conf.UseAppendAction[tuple[str, ...]]
    """NORM:EPS[,EPS...], as in "Linf:2/255,4/255 L2:0.5"; may be given several times."""
    suite: str = "fast"
    """Attack suite: fast (a fraction of the passes of standard, as many or more on samples with signs of masked
    gradients), standard (AutoAttack's four attacks with its budgets: for numbers to publish), margin (nearest flips of
    all samples, without a radius), apgd (10 steps on cross-entropy, as many papers report) or pgd."""
    limit: Count | None = None
    """Measure at most so many samples, stratified by class."""
    seed: Seed = 0
    """Seed of the sample choice and of the attacks' random starts."""
    batch_size: BatchSize = "auto"
    """Samples attacked at once; it does not change the result."""
    time_budget: str | None = None
    """Stop after so long, as in 90s, 10m or 2h, and report what the evidence supports until then."""
    precision: Precision | None = None
    """Attack only as many samples, drawn by their logit margins, as it takes to know robust accuracy at one threat to
    plus or minus this, as 0.01 for one point."""
    image_size: Pixels | None = None
    """Height and width in pixels that images are brought to, as in training; the model's own by default."""
    out: Path | None = None
    """Folder of the evidence; by default one named after model and data in runs/."""
    json: bool = False
    """Print one JSON object on stdout and nothing else there."""

    def run(self) -> int:
        """Measure, save, and print."""
        from temper.runs.evaluate import evaluate_into

        budget = float("inf") if self.time_budget is None else parse_duration(self.time_budget)
        out = self.out or Path("runs") / _slug(f"evaluate-{self.model}-{self.data}")
        batch = None if self.batch_size == "auto" else self.batch_size
        # A user's model or a data set's download may print; with --json nothing but the object goes to stdout.
        with contextlib.redirect_stdout(sys.stderr if self.json else sys.stdout):
            summary, complete = evaluate_into(
                out, self.model, self.data, self.threat,
                suite=self.suite, limit=self.limit, seed=self.seed, batch_size=batch, time_budget=budget,
                precision=self.precision, image_size=self.image_size,
            )  # fmt: skip
        if self.json:
            sys.stdout.write(json.dumps(summary) + "\n")
        else:
            from temper.cli.console import show_evaluation

            show_evaluation(summary, out)
        if complete:
            return DONE
        return end(f"stopped early; {out} keeps what was found, and the same command continues", STOPPED)


@dataclass(frozen=True)
class Corruptions:
    """Measure accuracy under common corruptions (noise, blur, weather, compression) at severities 1 to 5. What was
    measured is kept in OUT: run again, it continues.

    Example: temper corruptions --model runs/finetune --data photos/test --severity 1,3,5
    """

    model: str
    """A run folder, timm:NAME[@weights-file], module:factory (images float NCHW in [0, 1]), onnx:FILE, bundled, or
    NAME[@weights-file] of the catalogue."""
    data: str
    """FILE.npz, a folder or zip with one folder per class, digits, torchvision:NAME, parquet:DIR, or a name of the
    catalogue, such as flowers-102."""
    corruption: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Names such as fog or gaussian_noise; may be given several times. By default the 15 of ImageNet-C."""
    severity: str | None = None
    """Severities, as in 1,3,5; by default all five."""
    preset: Literal["imagenet-c", "guide"] = "imagenet-c"
    """imagenet-c measures each corruption on all images; guide (arXiv:2508.14079) gives each image one of 11, at
    severity 3, in blocks."""
    baseline: str | None = None
    """What the mean corruption error is taken against: alexnet (ImageNet only), or the folder of another model."""
    limit: Count | None = None
    """Measure at most so many samples, stratified by class."""
    seed: Seed = 0
    """Seed of the sample choice and of the corruptions."""
    batch_size: BatchSize = "auto"
    """Images classified at once; it does not change the result."""
    workers: Helpers = 0
    """Processes that corrupt images."""
    image_size: Pixels | None = None
    """Height and width in pixels that images are brought to, as in training; the model's own by default."""
    out: Path | None = None
    """Folder of the results; by default one named after model and data in runs/."""
    json: bool = False
    """Print one JSON object on stdout and nothing else there."""

    def run(self) -> int:
        """Measure, save, and print."""
        from temper.runs.corruptions import corruptions_into

        out = self.out or Path("runs") / _slug(f"corruptions-{self.model}-{self.data}")
        with contextlib.redirect_stdout(sys.stderr if self.json else sys.stdout):
            summary, complete = corruptions_into(
                out, self.model, self.data,
                names=self.corruption, severities=_severities(self.severity), preset=self.preset,
                baseline=self.baseline, limit=self.limit, seed=self.seed,
                batch_size=None if self.batch_size == "auto" else self.batch_size, workers=self.workers,
                image_size=self.image_size,
            )  # fmt: skip
        if self.json:
            sys.stdout.write(json.dumps(summary) + "\n")
        else:
            from temper.cli.console import show_corruptions

            show_corruptions(summary)
        if complete:
            return DONE
        return end(f"stopped early; {out} keeps what was measured, and the same command continues", STOPPED)


@dataclass(frozen=True)
class Margins:
    """Measure how near a classifier's decisions are to changing (the input margins of all samples), how well free
    scores such as the logit margin tell the brittle ones, and fit a detector that lets at most a share ALPHA of brittle
    decisions pass. Everything is kept in OUT: run again, nothing is searched twice. The detector of a run folder is
    also put beside its weights, for temper predict and temper export.

    Example: temper margins --model runs/robust --data photos/test --threat Linf:4/255 --adaptive
    """

    model: str
    """A run folder, timm:NAME[@weights-file], module:factory (images float NCHW in [0, 1]), onnx:FILE, bundled, or
    NAME[@weights-file] of the catalogue."""
    data: str
    """FILE.npz, a folder or zip with one folder per class, digits, torchvision:NAME, parquet:DIR, or a name of the
    catalogue, such as flowers-102."""
    threat: str
    """NORM:EPS, as in Linf:8/255: a decision is brittle if an image so near is classified otherwise."""
    alpha: float = 0.05
    """Largest share of brittle decisions that the detector may let pass."""
    adaptive: bool = False
    """Also attack the detectors, as someone would who knows the score and the threshold."""
    pseudo_margin: bool = False
    """Also learn a margin from the features of training images, for models whose logit margin says little."""
    train_data: str | None = None
    """Images that the pseudo-margin is learned from; by default the training part of DATA."""
    limit: Count | None = None
    """Measure at most so many samples, stratified by class."""
    seed: Seed = 0
    """Seed of the sample choice, of the split between fitting and judging, and of the attacks' random starts."""
    batch_size: BatchSize = "auto"
    """Samples attacked at once; it does not change the result."""
    time_budget: str | None = None
    """Stop the search for margins after so long, as in 90s, 10m or 2h; the same command continues."""
    image_size: Pixels | None = None
    """Height and width in pixels that images are brought to, as in training; the model's own by default."""
    out: Path | None = None
    """Folder of the results; by default one named after model and data in runs/."""
    json: bool = False
    """Print one JSON object on stdout and nothing else there."""

    def run(self) -> int:
        """Measure, save, and print."""
        from temper.runs.margins import margins_into

        budget = float("inf") if self.time_budget is None else parse_duration(self.time_budget)
        out = self.out or Path("runs") / _slug(f"margins-{self.model}-{self.data}")
        with contextlib.redirect_stdout(sys.stderr if self.json else sys.stdout):
            summary, complete = margins_into(
                out, self.model, self.data, self.threat,
                alpha=self.alpha, adaptive=self.adaptive, pseudo_margin=self.pseudo_margin, train_data=self.train_data,
                limit=self.limit, seed=self.seed, batch_size=None if self.batch_size == "auto" else self.batch_size,
                time_budget=budget, image_size=self.image_size,
            )  # fmt: skip
        if self.json:
            sys.stdout.write(json.dumps(summary) + "\n")
        elif complete:
            from temper.cli.console import show_margins

            show_margins(summary, out)
        if complete:
            return DONE
        return end(f"stopped early; {out} keeps what was found, and the same command continues", STOPPED)


def parse_duration(text: str) -> float:
    """Seconds in ``90``, ``90s``, ``10m`` or ``2h``; raises ArgumentError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not match or float(match[1]) == 0:
        raise ArgumentError("time-budget", text, "write a time above 0 such as 90s, 10m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _severities(text: str | None) -> tuple[int, ...]:
    """The numbers in ``1,3,5``; none for None."""
    try:
        return tuple(int(word) for word in text.split(",")) if text else ()
    except ValueError:
        raise ArgumentError("severity", text, "write numbers from 1 to 5, for example 1,3,5") from None


def _slug(text: str) -> str:
    """A folder name from free text."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.replace(os.sep, "-")).strip("-")
