"""A run is a folder: what it was asked, what it did, what came out."""

import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from temper.core import notebook
from temper.core.claims import FILLED_BY
from temper.core.environment import versions
from temper.core.files import read_json, write_json
from temper.core.places import link
from temper.errors import ArgumentError, DamagedError, RunError
from temper.margins.intervals import Estimate
from temper.text import shown
from temper.training.config import FinetuneConfig, read_config, resolve, write_config
from temper.training.trained import Trained
from temper.training.transfer import Delay

if TYPE_CHECKING:
    from matplotlib.axes import Axes

log = logging.getLogger(__name__)

CONFIG, RECORD = "config.yaml", "run.json"
DELAY, WARNINGS, TRAINED, GIVEN = "delay", "warnings", "trained", "given_schedule"  # in the record

#: What the metrics of an epoch say.
EPOCH = {"epoch", "step", "eps", "lr", "train_loss", "train_accuracy", "validation_accuracy", "seconds"}

# What may differ between a run and its resumption: where it runs and how it is measured, not what it trains.
FREE_TO_CHANGE = {"out", "checkpoint_seconds", "loggers", "evaluation"}

# The names of everything that Temper writes into a run's folder; wandb's and tensorboard's are folders.
OWN = {
    CONFIG, RECORD, "metrics.jsonl", "checkpoints", "model.json", "weights.safetensors", "margins.parquet",
    "journal", "samples.npz", "trained-on.npy", "detector.json", "report.html", "tensorboard", "wandb", "mlflow.db",
    FILLED_BY,
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A fine-tuning run's folder.

    Files: ``config.yaml`` (resolved configuration), ``run.json`` (versions, seed, split, state, results),
    ``metrics.jsonl`` (a line per step and epoch), ``checkpoints/``, ``model.json`` and ``weights.safetensors`` (the
    finished model), ``margins.parquet`` (evidence on the test data), ``samples.npz``, ``report.html``.
    """

    folder: Path

    @property
    def config(self) -> FinetuneConfig:
        """The configuration that the run was started with."""
        return read_config(self.folder / CONFIG)

    @property
    def record(self) -> dict[str, Any]:
        """What ``run.json`` says.

        Raises:
            RunError: it is not there, or was cut short or overwritten.
        """
        path = self.folder / RECORD
        try:
            content = read_json(path)
        except OSError:
            raise RunError(f"{self.folder}: is not a run folder (no readable {RECORD})") from None
        except DamagedError as error:
            raise RunError(f"{error}; restore it, or begin the run again with --force") from None
        if not content.keys() >= {"seed", "versions", "finished"}:
            raise RunError(f"{path}: is no run's record; restore it, or begin the run again with --force")
        return content

    @property
    def finished(self) -> bool:
        """Whether training and evaluation are done."""
        return bool(self.record.get("finished"))

    @property
    def delay(self) -> Delay | None:
        """How long it took to adapt to its task; None before its training is done, or where an epoch is not known."""
        noted = self.record.get(DELAY)
        return None if noted is None else Delay.from_json(noted)

    @property
    def trained(self) -> Trained | None:
        """What its training took, and which moment of it was kept; None before that is done, and of older runs."""
        noted = self.record.get(TRAINED)
        return None if noted is None else Trained.from_json(noted)

    @property
    def warnings(self) -> list[str]:
        """What was warned of while it was trained."""
        noted: list[str] = self.record.get(WARNINGS, [])
        return noted

    def history(self) -> list[dict[str, Any]]:
        """The epoch lines of the metrics file; damaged lines are passed over, which a warning says."""
        path = self.folder / "metrics.jsonl"
        rows = [_metrics(line) for line in (path.read_bytes() if path.exists() else b"").splitlines()]
        if damaged := sum(row is None for row in rows):
            log.warning("%s: %d damaged lines are passed over", path, damaged)
        if not rows and self.finished:
            log.warning("%s: is empty or not there; nothing is known of the training's epochs", path)
        return [row for row in rows if row is not None and row["kind"] == "epoch"]

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw accuracy by epoch, on validation and on training images as trained on, and epsilon behind them.

        Raises:
            RunError: no epoch is finished yet.
        """
        rows = self.history()
        if not rows:
            raise RunError(f"{self.folder}: no epoch is finished yet, so there is nothing to draw")
        from temper.core.drawing import drawing_into
        from temper.report.training_axes import training

        with drawing_into(ax) as axes:
            training(axes, rows, self.config.threats[0].norm)
        return axes

    def _repr_html_(self) -> str:
        record, state = self.record, "finished" if self.finished else "not finished"
        results = [(name, Estimate(**numbers)) for name, numbers in record.get("results", {}).items()]
        facts = [f"epochs: {len(self.history())}, {state}", *(f"warned: {each}" for each in self.warnings)]
        return notebook.page(f"Run {self.folder}", facts, ("measured on the test data", ""), results)

    def note(self, **facts: object) -> None:
        """Add facts to ``run.json``."""
        write_json(self.folder / RECORD, self.record | facts)


def _metrics(line: bytes) -> dict[str, Any] | None:
    """A line of the metrics file; None where it is damaged."""
    try:
        row = json.loads(line.decode())
        whole = isinstance(row, dict) and (row["kind"] == "step" or (row["kind"] == "epoch" and row.keys() >= EPOCH))
    except (ValueError, KeyError):
        return None
    return row if whole else None


def open_run(config: FinetuneConfig, given: str | None = None, *, resume: bool, force: bool) -> Run:
    """Make the folder of a new run, or find the one to resume.

    Args:
        config: resolved.
        given: name of a schedule given in Python, of which the configuration says nothing.
        resume, force: see :func:`temper.runs.finetune.finetune`.

    Raises:
        RunError: there is a run already and neither ``resume`` nor ``force`` is given, or the run to resume was
            started with another configuration or schedule and is not trained to its end, or the folder holds files that
            are not a run's, or a part of a run's.
        ArgumentError: ``resume`` and ``force`` are both given, or the folder cannot be made.
    """
    folder = config.out
    run = Run(folder)
    check_folder(folder, resume=resume, force=force)
    if _holds_run(folder):
        if not force:
            _check_same(run, config)
            _check_given(run, given)
            return run
        return _replaced(config, given)
    return _begun(config, given)


def _replaced(config: FinetuneConfig, given: str | None) -> Run:
    """Begin anew where a run is, which is deleted only when its place is taken."""
    folder = config.out.resolve()
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.replaced-", dir=folder.parent))
    folder.rename(aside)
    try:
        folder.mkdir()
        link(aside / FILLED_BY, folder / FILLED_BY)
    except FileExistsError:
        fix = f"another process began a run there at this very moment; the run that was there is in {aside}"
        raise RunError(f"{config.out}: {fix}") from None
    run = _begun(config, given)
    shutil.rmtree(aside)
    return run


def _begun(config: FinetuneConfig, given: str | None) -> Run:
    folder = config.out
    run = Run(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError("out", str(folder), f"cannot be made ({error.strerror}); choose another folder") from None
    facts = {"seed": config.seed, "versions": versions(), "finished": False}
    write_json(folder / RECORD, facts | ({GIVEN: given} if given else {}))
    # Last, because only a folder with both counts as a run: a crash between the two leaves one that is begun anew.
    write_config(config, folder / CONFIG)
    return run


def check_folder(folder: Path, *, resume: bool, force: bool) -> None:
    """Refuse a folder that holds a run that nobody spoke of, or anything but a run: nothing is ever lost by surprise.

    Raises:
        RunError: see :func:`open_run`.
    """
    if resume and force:
        raise ArgumentError("force", force, "replaces the run that resume continues; give one of the two")
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: is a file; choose another out folder")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    strangers = sorted(name for name in names - OWN if not name.endswith(".part"))
    if strangers or (CONFIG in names and RECORD not in names):
        stranger = strangers[0] if strangers else CONFIG
        raise RunError(f"{folder}: is not a run's folder (it holds {stranger}); choose another out folder")
    rest = sorted(name for name in names - {RECORD, FILLED_BY} if not name.endswith(".part"))
    if rest and CONFIG not in names:  # weights would be taken for those of the new configuration
        raise RunError(
            f"{folder}: holds {rest[0]} of a run but no {CONFIG}; put that back, or choose another out folder"
        )
    if resume and RECORD not in names:
        raise RunError(f"{folder}: there is nothing to resume; leave --resume away to begin")
    if _holds_run(folder) and not (resume or force):
        raise RunError(f"{folder}: holds a run already; --resume continues it, --force replaces it")


def _holds_run(folder: Path) -> bool:
    return (folder / RECORD).exists() and (folder / CONFIG).exists()


def _check_same(run: Run, config: FinetuneConfig) -> None:
    before, now = _flat(resolve(run.config).model_dump()), _flat(config.model_dump())
    for key in before | now:
        free = key == "data.workers" or key.partition(".")[0] in FREE_TO_CHANGE
        was, value = before.get(key), now.get(key)  # some are not there unless they are used
        if not free and was != value:
            raise RunError(
                f"{run.folder}: was started with {key} = {shown(was)}, not {shown(value)}; resume with the same"
                " configuration, or choose another out folder"
            )


def _check_given(run: Run, given: str | None) -> None:
    """A training that goes on needs the schedule that it was begun with."""
    began = run.record.get(GIVEN)
    if began != given and not (run.folder / "model.json").exists():
        how, fix = (f"with the schedule {began} given in Python", "give it again") if began else (
            "with the configured schedule", "give none"
        )  # fmt: skip
        raise RunError(f"{run.folder}: was begun {how}; {fix} to resume it, or choose another out folder")


def _flat(settings: Mapping[str, object], section: str = "") -> dict[str, object]:
    """Settings by their keys, as ``data.train``."""
    flat: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and key != "args":  # a model's arguments are one setting
            flat |= _flat(value, f"{section}{key}.")
        else:
            flat[f"{section}{key}"] = value
    return flat
