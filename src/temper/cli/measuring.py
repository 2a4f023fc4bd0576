"""The commands that measure a model: evaluate, corruptions, margins."""

import contextlib
import json
import os
import re
import sys
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Generic, Literal, Protocol, TypeVar

import tyro
from pydantic.dataclasses import dataclass

from temper.cli import DONE, STOPPED, end
from temper.core.calls import BatchSize, Count, Helpers, PixelCount, Precision, Seed
from temper.errors import ArgumentError

if TYPE_CHECKING:
    from temper.runs.results import CorruptionsResult, EvaluationResult, MarginsResult


@dataclass(frozen=True)
class SubjectOptions:
    """What is measured."""

    model: str
    """A run folder, timm:NAME[@weights-file], module:factory (images float NCHW in [0, 1]), onnx:FILE, torch:FILE,
    torchvision:NAME, hf:FOLDER, bundled, or NAME[@weights-file] of the catalogue."""
    data: str
    """FILE.npz, a folder or zip with one folder per class, digits, mnist-5k, torchvision:NAME, parquet:DIR,
    webdataset:DIR, hf:ORG/NAME, or a name of the catalogue, such as flowers-102."""
    limit: Count | None = None
    """Measure at most so many samples, stratified by class."""
    seed: Seed = 0
    """Seed of all that is random: the choice of samples, corruptions, starts of attacks, what is held out."""
    image_size: PixelCount | None = None
    """Height and width in pixels that images are brought to, as in training; the model's own by default."""
    batch_size: BatchSize = "auto"
    """Images in a batch; it does not change the result."""

    @property
    def batch(self) -> int | None:
        """Images in a batch; None where that is left to Temper."""
        return None if self.batch_size == "auto" else self.batch_size


@dataclass(frozen=True)
class OutputOptions:
    """Where the results go."""

    out: Path | None = None
    """Folder of the results; by default one named after model and data in runs/."""
    json: bool = False
    """Print one JSON object on stdout and nothing else there."""

    def folder(self, about: str) -> Path:
        """Where the results go: what was asked for, or a folder in runs/ that is named after what they are about."""
        return self.out or Path("runs") / re.sub(r"[^A-Za-z0-9._-]+", "-", about.replace(os.sep, "-")).strip("-")

    def reserved(self) -> AbstractContextManager[object]:
        """Inside, a user's model or a data set's download may print: with --json that does not go to stdout."""
        return contextlib.redirect_stdout(sys.stderr if self.json else sys.stdout)


class CommandResult(Protocol):
    """What a measurement comes to."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""

    def to_json(self) -> dict[str, object]:
        """As one JSON object."""


R = TypeVar("R", bound=CommandResult)


class Measuring(ABC, Generic[R]):
    """A command that measures a model and keeps what it finds in a folder."""

    name: ClassVar[str]
    subject: Annotated[SubjectOptions, tyro.conf.OmitArgPrefixes]
    output: Annotated[OutputOptions, tyro.conf.OmitArgPrefixes]

    @abstractmethod
    def measure(self, out: Path) -> R:
        """Measure, and save into ``out``."""

    @abstractmethod
    def show(self, result: R, out: Path) -> None:
        """Print for a person what :meth:`measure` gave."""

    def run(self) -> int:
        """Measure, save, and print."""
        out = self.output.folder(f"{self.name}-{self.subject.model}-{self.subject.data}")
        with self.output.reserved():
            result = self.measure(out)
        if self.output.json:
            sys.stdout.write(json.dumps(result.to_json()) + "\n")
        else:
            self.show(result, out)
        if result.complete:
            return DONE
        return end(f"stopped early; {out} keeps what was found, and the same command continues", STOPPED)


@dataclass(frozen=True)
class EffortOptions:
    """How much is asked of the model."""

    time_budget: str | None = None
    """Stop after so long, as in 90s, 10m or 2h, and report what the evidence supports until then."""
    precision: Precision | None = None
    """Attack only as many samples, drawn by their logit margins, as it takes to know robust accuracy at one threat to
    plus or minus this, as 0.01 for one point."""
    eot: Count | None = None
    """Passes for each answer of a model that is random (dropout at test time, noise, random resizing), by the mean of
    whose logits it is attacked; its decisions are then those that most draws agree on. More find more, for more."""


@dataclass(frozen=True)
class Evaluate(Measuring["EvaluationResult"]):
    """Measure a classifier: clean accuracy, robust accuracy at each radius, and expected robustness, each with its
    number of samples and 95 % interval. The evidence is kept in OUT: run again, nothing is searched twice, and the
    same command started in several processes at once shares the work.

    Example: temper evaluate --model runs/finetune --data photos/test --threat "Linf:1/255,2/255,4/255"
    """

    name = "evaluate"
    subject: Annotated[SubjectOptions, tyro.conf.OmitArgPrefixes]
    """What is measured."""
    threat: tyro.conf.UseAppendAction[tuple[str, ...]]
    """NORM:EPS[,EPS...], as in "Linf:2/255,4/255 L2:0.5"; may be given several times."""
    suite: str = "fast"
    """Attack suite: fast (a fraction of the passes of standard, as many or more on samples with signs of masked
    gradients), standard (AutoAttack's four attacks with its budgets: for numbers to publish), margin (nearest flips of
    all samples, without a radius), apgd (10 steps on cross-entropy, as many papers report) or pgd."""
    effort: Annotated[EffortOptions, tyro.conf.OmitArgPrefixes] = EffortOptions()
    """How much is asked of the model."""
    save_adversarial: bool = False
    """Keep each sample's nearest adversarial image, at full precision, in OUT/adversarial/NORM.npz."""
    output: Annotated[OutputOptions, tyro.conf.OmitArgPrefixes] = OutputOptions()
    """Where the results go."""

    def measure(self, out: Path) -> "EvaluationResult":
        """See :class:`Measuring`."""
        from temper.runs.evaluate import evaluate_into

        subject = self.subject
        return evaluate_into(
            out, subject.model, subject.data, self.threat,
            suite=self.suite, limit=subject.limit, seed=subject.seed, batch_size=subject.batch,
            time_budget=_budget(self.effort.time_budget), precision=self.effort.precision, eot=self.effort.eot,
            image_size=subject.image_size, save_adversarial=self.save_adversarial,
        )  # fmt: skip

    def show(self, result: "EvaluationResult", out: Path) -> None:
        """See :class:`Measuring`."""
        from temper.cli.console import show_evaluation

        show_evaluation(result, out)


@dataclass(frozen=True)
class Corruptions(Measuring["CorruptionsResult"]):
    """Measure accuracy under common corruptions (noise, blur, weather, compression) at severities 1 to 5. What was
    measured is kept in OUT: run again, it continues.

    Example: temper corruptions --model runs/finetune --data photos/test --severity 1,3,5
    """

    name = "corruptions"
    subject: Annotated[SubjectOptions, tyro.conf.OmitArgPrefixes]
    """What is measured."""
    corruption: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Names such as fog or gaussian_noise; may be given several times. By default the 15 of ImageNet-C."""
    severity: str | None = None
    """Severities, as in 1,3,5; by default all five."""
    preset: Literal["imagenet-c", "guide"] = "imagenet-c"
    """imagenet-c measures each corruption on all images; guide (arXiv:2508.14079) gives each image one of 11, at
    severity 3, in blocks."""
    baseline: str | None = None
    """What the mean corruption error is taken against: alexnet (ImageNet only), or the folder of another model."""
    workers: Helpers = 0
    """Processes that corrupt images."""
    output: Annotated[OutputOptions, tyro.conf.OmitArgPrefixes] = OutputOptions()
    """Where the results go."""

    def measure(self, out: Path) -> "CorruptionsResult":
        """See :class:`Measuring`."""
        from temper.runs.corruptions import corruptions_into

        subject = self.subject
        return corruptions_into(
            out, subject.model, subject.data,
            names=self.corruption, severities=_severities(self.severity), preset=self.preset, baseline=self.baseline,
            limit=subject.limit, seed=subject.seed, batch_size=subject.batch, workers=self.workers,
            image_size=subject.image_size,
        )  # fmt: skip

    def show(self, result: "CorruptionsResult", out: Path) -> None:
        """See :class:`Measuring`."""
        from temper.cli.console import show_corruptions

        show_corruptions(result)


@dataclass(frozen=True)
class PseudoMarginOptions:
    """What is learned from training images."""

    pseudo_margin: bool = False
    """Also learn a margin from the features of training images, for models whose logit margin says little."""
    train_data: str | None = None
    """Images that the pseudo-margin is learned from; by default the training part of DATA."""


@dataclass(frozen=True)
class Margins(Measuring["MarginsResult"]):
    """Measure how near a classifier's decisions are to changing (the input margins of all samples), how well free
    scores such as the logit margin tell the brittle ones, and fit a detector that lets at most a share ALPHA of brittle
    decisions pass. Everything is kept in OUT: run again, nothing is searched twice. The detector of a run folder is
    also put beside its weights, for temper predict and temper export.

    Example: temper margins --model runs/robust --data photos/test --threat Linf:4/255 --adaptive
    """

    name = "margins"
    subject: Annotated[SubjectOptions, tyro.conf.OmitArgPrefixes]
    """What is measured."""
    threat: str
    """NORM:EPS, as in Linf:8/255: a decision is brittle if an image so near is classified otherwise."""
    alpha: float = 0.05
    """Largest share of brittle decisions that the detector may let pass."""
    adaptive: bool = False
    """Also attack the detectors, as someone would who knows the score and the threshold."""
    time_budget: str | None = None
    """Stop the search for margins after so long, as in 90s, 10m or 2h; the same command continues."""
    learning: Annotated[PseudoMarginOptions, tyro.conf.OmitArgPrefixes] = PseudoMarginOptions()
    """What is learned from training images."""
    output: Annotated[OutputOptions, tyro.conf.OmitArgPrefixes] = OutputOptions()
    """Where the results go."""

    def measure(self, out: Path) -> "MarginsResult":
        """See :class:`Measuring`."""
        from temper.runs.margins import margins_into

        subject = self.subject
        return margins_into(
            out, subject.model, subject.data, self.threat,
            alpha=self.alpha, adaptive=self.adaptive, pseudo_margin=self.learning.pseudo_margin,
            train_data=self.learning.train_data, limit=subject.limit, seed=subject.seed, batch_size=subject.batch,
            time_budget=_budget(self.time_budget), image_size=subject.image_size,
        )  # fmt: skip

    def show(self, result: "MarginsResult", out: Path) -> None:
        """See :class:`Measuring`."""
        from temper.cli.console import show_margins

        show_margins(result, out)


def _budget(text: str | None) -> float:
    """Seconds; no end for None."""
    return float("inf") if text is None else parse_duration(text)


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
