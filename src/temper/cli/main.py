"""The commands: they read the call, hand it on, and say how it went."""

import contextlib
import dataclasses
import errno
import itertools
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic.dataclasses import dataclass

from temper import distribution
from temper.cli import DONE, FAILED, STOPPED, WRONG_CALL, end
from temper.cli.deploying import App, Export, Predict
from temper.cli.diagnosing import Diagnose
from temper.cli.env import Env
from temper.cli.measuring import Corruptions, Evaluate, Margins
from temper.cli.merging import Merge
from temper.core.calls import parse
from temper.core.files import WRONG_PLACE
from temper.core.interrupt import Stopped
from temper.errors import ArgumentError, NonFiniteLossError, TemperError, TemperWarning
from temper.text import masked, one_line

if TYPE_CHECKING:
    from temper.training.config import FinetuneConfig

log = logging.getLogger(__name__)


USAGE = """usage: temper COMMAND [OPTIONS]      (temper COMMAND --help tells a command's options)

  demo         see fixed epsilon fail to transfer and Epsilon-Scheduling cure it, on real images (about 2 minutes)
  diagnose     foretell whether fixed epsilon fails on your data, and which schedule to take
  finetune     make a pretrained classifier robust on your data
  evaluate     measure how robust a classifier is
  corruptions  measure accuracy under noise, blur, weather and compression
  margins      measure how near decisions are to changing, and fit a detector of brittle ones
  predict      classify images, and say which decisions are brittle
  export       write a model as one ONNX or torch.export file
  app          a page in your browser: drop an image, see how near its decision is to changing
  bench        compare backbones, losses, schedules and protocols over data sets: plan, run, report, advise
  merge        join evidence tables of one model on one data set, and other tools' adversarial images
  report       one HTML report of one or several result folders
  env          versions, devices, threads and precision here: what an issue needs

exit status: 0 done; 1 failed, in part or whole; 2 the call is wrong; 3 stopped early, everything saved, the same
command continues
"""


@dataclass(frozen=True)
class Demo:
    """Fine-tune a small non-robust network on handwritten digits three ways (standard, fixed epsilon,
    Epsilon-Scheduling), measure accuracy against epsilon, write a report, and say in words what was seen. Nothing is
    downloaded."""

    out: Path = Path("temper-demo")
    """Folder for runs and report; run again, it continues where it stopped."""

    def run(self) -> int:
        """Run the demonstration."""
        from temper.cli.demo import demo

        demo(self.out)
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
        """YAML file, or a preset: paper (as arXiv:2509.23325 trains) or temper (a shorter ramp, docs/study.md).
        Every other option overrides it. A run's own config.yaml repeats that run."""
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
    from temper.cli.console import (
        show_run,  # what trains takes seconds to import, which a wrong call need not wait for
    )
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
    "diagnose": Diagnose,
    "evaluate": Evaluate,
    "corruptions": Corruptions,
    "margins": Margins,
    "predict": Predict,
    "export": Export,
    "app": App,
    "merge": Merge,
    "report": Report,
    "env": Env,
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
        return end("error: stdout is closed; send it to a file, or to /dev/null", WRONG_CALL)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _plain_warnings():
            status = _run(words)
        _flush()
        return status
    except Stopped as stopped:
        return end(str(stopped), STOPPED)
    except NonFiniteLossError as error:
        return end(f"error: {error}", FAILED)
    except TemperError as error:
        return end(f"error: {_with_option(error, words)}", WRONG_CALL)
    except KeyboardInterrupt:
        return end("stopped; what was saved is kept, and the same command continues", STOPPED)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; torch itself is not imported just for its name
            log.exception("temper: error: %s; the lines below say where", type(error).__name__)
            return FAILED
        return end("error: the GPU's memory is full; lower --micro-batch (finetune) or --batch-size (others)", FAILED)
    except OSError as error:
        with contextlib.suppress(OSError):
            _flush()
        return end(f"error: {_os_error(error)}", WRONG_CALL if error.errno in WRONG_PLACE else FAILED)
    except Exception as error:  # a mistake of Temper's, or of a user's model
        log.exception("temper: error: %s; the lines below say where", type(error).__name__)
        return FAILED


def _with_option(error: TemperError, words: Sequence[str]) -> TemperError:
    """An error that begins with a file or folder as an error of the option that named it, where one did."""
    if isinstance(error, ArgumentError):
        return error
    for word, after in itertools.pairwise([*words, ""]):
        option, _, value = word.partition("=")
        value, (place, colon, rest) = value or after, str(error).partition(": ")
        if option.startswith("--") and colon and value == place:
            return ArgumentError(option.removeprefix("--"), value, rest)
    return error


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
        sys.stdout.write(f"temper {distribution.version()}\n")
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
                end(f"warning: {message}", DONE)
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
