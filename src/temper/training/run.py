"""A run is a folder: what it was asked, what it did, what came out."""

import json
import logging
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from temper.errors import ArgumentError, RunError
from temper.files import write_json
from temper.training.config import FinetuneConfig, read_config, write_config

log = logging.getLogger(__name__)

CONFIG, RECORD = "config.yaml", "run.json"
PACKAGES = ("temper", "torch", "torchvision", "timm", "lightning-fabric", "numpy")

# What may differ between a run and its resumption: where it runs, not what it computes.
FREE_TO_CHANGE = {"out", "checkpoint_seconds", "loggers"}


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
        """What ``run.json`` says."""
        try:
            content: dict[str, Any] = json.loads((self.folder / RECORD).read_text())
        except (OSError, json.JSONDecodeError):
            raise RunError(f"{self.folder}: is not a run folder (no readable {RECORD})") from None
        return content

    @property
    def finished(self) -> bool:
        """Whether training and evaluation are done."""
        return bool(self.record.get("finished"))

    def history(self) -> list[dict[str, Any]]:
        """The epoch lines of the metrics file."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [row for row in rows if row["kind"] == "epoch"]

    def note(self, **facts: Any) -> None:
        """Add facts to ``run.json``."""
        write_json(self.folder / RECORD, self.record | facts)


def open_run(config: FinetuneConfig, *, resume: bool, force: bool) -> Run:
    """Make the folder of a new run, or find the one to resume.

    Raises:
        RunError: there is a run already and neither ``resume`` nor ``force`` is given, or the run to resume was
            started with another configuration, or the folder holds files that are not a run's.
    """
    folder = config.out
    run = Run(folder)
    if (folder / CONFIG).exists():
        if force:
            shutil.rmtree(folder)
        elif resume:
            _check_same(run, config)
            return run
        else:
            raise RunError(f"{folder}: holds a run already; --resume continues it, --force replaces it")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{folder}: exists and is not a run; choose another out folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError("out", str(folder), f"cannot be made ({error.strerror})") from None
    write_json(folder / RECORD, {"seed": config.seed, "versions": versions(), "finished": False})
    # Last, because a folder with a configuration counts as a run.
    write_config(config, folder / CONFIG)
    return run


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


def _check_same(run: Run, config: FinetuneConfig) -> None:
    before, now = run.config.model_dump(), config.model_dump()
    for key, value in now.items():
        if key not in FREE_TO_CHANGE and before[key] != value:
            raise RunError(
                f"{run.folder}: was started with {key} = {before[key]!r}, not {value!r}; resume with the same "
                "configuration, or choose another out folder"
            )
