"""The commands: they read the call, hand it on, and say how it went."""

import contextlib
import dataclasses
import errno
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic.dataclasses import dataclass

from temper.core.calls import BatchSize, Count, Helpers, Pixels, Precision, Seed, parse
from temper.core.files import WRONG_PLACE
from temper.core.interrupt import Stopped
from temper.errors import ArgumentError, NonFiniteLossError, TemperError, TemperWarning
from temper.text import masked, one_line

if TYPE_CHECKING:
    from temper.training.config import FinetuneConfig

log = logging.getLogger(__name__)

DONE, FAILED, WRONG_CALL, STOPPED = 0, 1, 2, 3

USAGE = """usage: temper COMMAND [OPTIONS]      (temper COMMAND --help tells a command's options)

  demo         fine-tune a bundled network three ways on real images, measure it, and write a report (about 2 minutes)
  finetune     make a pretrained classifier robust on your data
  evaluate     measure how robust a classifier is
  corruptions  measure accuracy under noise, blur, weather and compression
  margins      measure how near decisions are to changing, and fit a detector of brittle ones
  predict      classify images, and say which decisions are brittle
  export       write a model as one ONNX or torch.export file
  bench        compare backbones, losses, schedules and protocols over data sets: plan, run, report, advise
  merge        join evidence tables of one model on one data set
  report       one HTML report of one or several result folders

exit status: 0 done; 1 failed, in part or whole; 2 the call is wrong; 3 stopped early, everything saved, the same
command continues
"""


@dataclass(frozen=True)
class Demo:
    """Fine-tune a small non-robust network on handwritten digits three ways (standard, fixed epsilon,
    Epsilon-Scheduling), measure accuracy against epsilon, and write a report. Needs no download and no account."""

    out: Path = Path("temper-demo")
    """Folder for runs and report; run again, it continues where it stopped."""

    def run(self) -> int:
        """Run the demonstration."""
        from temper.cli.demo import demo

        demo(self.out)
        return DONE


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
        return _say(f"stopped early; {out} keeps what was found, and the same command continues", STOPPED)


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
        return _say(f"stopped early; {out} keeps what was measured, and the same command continues", STOPPED)


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
        return _say(f"stopped early; {out} keeps what was found, and the same command continues", STOPPED)


@dataclass(frozen=True)
class Predict:
    """Classify images: class, confidence (softmax), logit margin, and whether the decision is brittle, which takes a
    detector in the run's folder (temper margins fits one). Images that cannot be read are reported, and the rest is
    classified.

    Example: find uploads -name "*.jpg" | temper predict --run runs/robust --csv - > decisions.csv
    """

    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, folders to search through for some, or - for paths on stdin, one per line."""
    run_: Annotated[str, tyro.conf.arg(name="run")]
    """A run folder; timm:NAME[@weights-file], module:factory, onnx:FILE and bundled work too."""
    json: bool = False
    """Print one JSON object on stdout and nothing else there."""
    csv: bool = False
    """Print a header and a row per image, as they come."""
    batch_size: BatchSize = "auto"
    """Images classified at once; it does not change the result."""
    image_size: Pixels | None = None
    """Height and width in pixels that images are brought to, as in training; the model's own by default."""

    def run(self) -> int:
        """Classify and print."""
        from temper.cli import console
        from temper.core.interrupt import Stop
        from temper.deployment.images import find_images
        from temper.deployment.prediction import Predictor, no_detector, watched

        if self.json and self.csv:
            raise ArgumentError("csv", True, "give --json or --csv, not both")
        paths = find_images(self.images, sys.stdin.buffer if sys.stdin else None)
        stdout = sys.stdout
        # A user's model may print, and a bar takes stdout over while it shows; answers go to stdout itself.
        with contextlib.redirect_stdout(sys.stderr), Stop() as stop:
            predictor = Predictor.load(self.run_, self.image_size)
            if predictor.detector is None:
                _say(no_detector(self.run_), DONE)
            batch = None if self.batch_size == "auto" else self.batch_size
            rows_show_it = self.csv and stdout.isatty()
            outcomes = predictor(paths, batch, lambda: stop.requested)
            seen = watched(outcomes, len(paths), enabled=not rows_show_it)
            if self.csv:
                done, failed = console.write_predictions(seen, stdout)
            else:
                found = list(seen)
                show = console.write_predictions_json if self.json else console.show_predictions
                done, failed = show(found, predictor.summary(), stdout)
        if done < len(paths):
            return _say(f"stopped after {done} of {len(paths)} images", STOPPED)
        return _say(f"{failed} of {done} images could not be classified", FAILED) if failed else DONE


@dataclass(frozen=True)
class Export:
    """Write a model as one file that runs without Temper: images in, logits, logit margin and brittle or not out, with
    the normalisation inside. The file is checked against the model before it is kept.

    Example: temper export --run runs/robust --format onnx --out robust.onnx
    """

    run_: Annotated[str, tyro.conf.arg(name="run")]
    """A run folder; timm:NAME[@weights-file], module:factory, onnx:FILE and bundled work too."""
    format: Literal["onnx", "torch"]
    """onnx, or torch for torch.export."""
    out: Path
    """The file to write, .onnx or .pt2."""
    detector: Path | None = None
    """A detector's JSON file; by default the run's own."""
    image_size: Pixels | None = None
    """Height and width in pixels of the file's images; the model's own by default."""

    def run(self) -> int:
        """Write, check, and say what was written."""
        from temper.cli.console import show_export
        from temper.deployment.exporting import export
        from temper.deployment.prediction import no_detector

        done = export(self.run_, self.format, self.out, self.detector, self.image_size)
        show_export(done)
        if "brittle" not in done.outputs:
            _say(f"{no_detector(self.run_)} (the file has no output brittle)", DONE)
        return DONE


@dataclass(frozen=True)
class Merge:
    """Join evidence tables of one model on one data set: per sample the nearest flip that any of them found, and per
    suite the largest radius survived. Any order and number of them, repeats too, gives the same table.

    Example: temper merge here/margins.parquet there --out both/margins.parquet
    """

    tables: tyro.conf.Positional[tuple[Path, ...]]
    """Parquet files, or folders of evaluations."""
    out: Path
    """The Parquet file to write."""

    def run(self) -> int:
        """Merge, write, and say how many samples there are."""
        from temper.cli.console import say
        from temper.core.files import target
        from temper.runs.evaluate import merge_tables

        if not self.tables:
            raise ArgumentError("TABLE", (), "name at least one margins.parquet, or a folder that holds one")
        target(self.out)  # before the tables are read
        merged = merge_tables(self.tables, self.out)
        say(f"{self.out}: {len(merged)} samples, {', '.join(merged.norms)}")
        return DONE


@dataclass(frozen=True)
class Report:
    """Write one HTML report of one or several result folders, side by side."""

    folders: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs or evaluations."""
    out: Path = Path("report.html")
    """The file to write."""

    def run(self) -> int:
        """Write the report and print its path."""
        from temper.cli.console import say
        from temper.core.files import target
        from temper.runs.views import report

        if not self.folders:
            raise ArgumentError("DIR", (), "name at least one folder of a run or evaluation")
        target(self.out)
        say(str(report(self.folders, self.out, "Temper report")))
        return DONE


def finetune_call(base: "FinetuneConfig | None" = None) -> type[Any]:
    """What ``temper finetune`` takes: every setting of a configuration, by default those of ``base``."""
    from temper.training.config import FinetuneConfig

    @dataclasses.dataclass(frozen=True)
    class Finetune:
        """Fine-tune a pretrained classifier on your data, robustly: the epsilon of the adversarial training follows a
        schedule (Epsilon-Scheduling, arXiv:2509.23325), so that the task is learned before robustness is asked for.

        Example: temper finetune --data.train photos --model.name timm:resnet18.a1_in1k --eps 4/255 --out runs/robust
        """

        config: Path | None = None
        """YAML file; every other option overrides it. A run's own config.yaml repeats that run."""
        resume: bool = False
        """Continue the run in OUT where it stopped."""
        force: bool = False
        """Replace a run that is in OUT."""
        run: Annotated[FinetuneConfig, tyro.conf.arg(name="")] = dataclasses.field(
            default_factory=lambda: base or FinetuneConfig()
        )

    return Finetune


def _finetune(arguments: list[str]) -> int:
    """Options come from the YAML file first and the command line second, through one schema."""
    from temper.training.config import read_config

    path = _option(arguments, "--config")
    call = parse(finetune_call(read_config(Path(path)) if path else None), arguments, "temper finetune")
    from temper.cli.console import show_run  # what trains takes seconds to import, which a wrong call need not wait for
    from temper.runs.finetune import finetune

    show_run(finetune(call.run, resume=call.resume, force=call.force))
    return DONE


def _option(arguments: Sequence[str], name: str) -> str | None:
    """The value of ``--name VALUE`` or ``--name=VALUE`` in a command line, if it is there."""
    for position, argument in enumerate(arguments):
        if argument == name and position + 1 < len(arguments):
            return arguments[position + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return None


COMMANDS = {
    "demo": Demo,
    "evaluate": Evaluate,
    "corruptions": Corruptions,
    "margins": Margins,
    "predict": Predict,
    "export": Export,
    "merge": Merge,
    "report": Report,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    with _logged():
        return _status(arguments)


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """Log to stderr while a command runs, unless whoever calls it in its own process has arranged for the log."""
    handler, root = logging.StreamHandler(sys.stderr), logging.getLogger()
    handler.setFormatter(_OneLine())
    logging.getLogger("temper").setLevel(logging.INFO)
    if not root.handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


def _status(arguments: Sequence[str] | None) -> int:
    if sys.stdout is None:
        return _say("error: stdout is closed; send it to a file, or to /dev/null", WRONG_CALL)
    try:
        with _plain_warnings():
            status = _run(list(sys.argv[1:] if arguments is None else arguments))
        _flush()
        return status
    except Stopped as news:
        return _say(str(news), STOPPED)
    except NonFiniteLossError as error:
        return _say(f"error: {error}", FAILED)
    except TemperError as error:
        return _say(f"error: {error}", WRONG_CALL)
    except KeyboardInterrupt:
        return _say("stopped; what was saved is kept, and the same command continues", STOPPED)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; torch itself is not imported just for its name
            log.exception("temper: error: %s; the lines below say where", type(error).__name__)
            return FAILED
        return _say("error: the GPU's memory is full; lower --micro-batch (finetune) or --batch-size (others)", FAILED)
    except OSError as error:
        with contextlib.suppress(OSError):
            _flush()
        return _say(f"error: {_os_error(error)}", WRONG_CALL if error.errno in WRONG_PLACE else FAILED)
    except Exception as error:  # a mistake of Temper's, or of a user's model
        log.exception("temper: error: %s; the lines below say where", type(error).__name__)
        return FAILED


class _OneLine(logging.Formatter):
    """A record as a line of its message: what is logged may hold names from outside. A traceback follows it."""

    def format(self, record: logging.LogRecord) -> str:
        line = one_line(record.getMessage())
        return f"{line}\n{masked(self.formatException(record.exc_info))}" if record.exc_info else line


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return DONE if words else WRONG_CALL
    command, rest = words[0], words[1:]
    if command == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"temper {version('temper')}\n")
        return DONE
    if command == "finetune":
        return _finetune(rest)
    if command == "bench":
        from temper.cli.bench import bench

        return bench(rest)
    if command not in COMMANDS:
        raise ArgumentError("COMMAND", command, f"choose one of {', '.join(['finetune', 'bench', *COMMANDS])}")
    return parse(COMMANDS[command], rest, f"temper {command}").run()


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Temper's own warnings are one line, like its errors; other packages' are shown as ever."""
    with warnings.catch_warnings():
        before = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, TemperWarning):
                _say(f"warning: {message}", DONE)
            else:
                before(message, category, *where, **more)

        warnings.showwarning = show
        yield


def _flush() -> None:
    """Flush stdout where a failure can still be told; what is stuck would make noise at Python's exit."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        error.filename = "stdout"
        raise


def _say(message: str, status: int) -> int:
    sys.stderr.write(f"temper: {one_line(message)}\n")
    return status


def _os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    again = "the same command continues (finetune: with --resume)"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full; free some space, and {again}"
    if error.errno == errno.EFBIG:
        return f"{where}larger than this shell's limit on files; raise it (ulimit -f), and {again}"
    if error.errno in WRONG_PLACE and where:
        return f"{where}{error.strerror}; choose another place"
    return f"{where}{error.strerror or error}"


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
