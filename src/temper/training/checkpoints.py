"""Checkpoints: everything that the next step depends on, in one folder that is whole or not there."""

import io
import json
import logging
import os
import pickle
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from temper.errors import RunError
from temper.training.selection import RobustEpoch

log = logging.getLogger(__name__)

OPTIONAL = ("average", "best")  # of a checkpoint's weights

# What reading a file that was cut short or overwritten can raise, in JSON, safetensors and torch's own format.
DAMAGE = (OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError)


@dataclass
class Tally:
    """What a training counts as it goes.

    Attributes:
        counted: updates that were counted, the images they were made of, and their forward and backward passes.
        attacked: where norms are drawn, of each how many samples were attacked in it and how many of them were wrong.
        slopes: where samples have epsilons of their own, how far logit margins fall per unit of epsilon, in each norm.
    """

    counted: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    attacked: dict[str, list[int]] = field(default_factory=dict)
    slopes: dict[str, float] = field(default_factory=dict)


@dataclass
class Progress(Tally):
    """Where training is. All randomness derives from (seed, epoch, step, sample), so no generator state is kept.

    Attributes:
        step: finished updates of the weights.
        epoch: finished epochs.
        validation: validation accuracy after each finished epoch.
        epoch_sums: running sums of the unfinished epoch (samples, correct, loss).
        robust: what was measured of the robustness after epochs.
        natural_accuracy: of a low-rank branch, measured as the unfinished epoch began.
        metrics_bytes: length of the metrics file that belongs to this state.
    """

    step: int = 0
    epoch: int = 0
    validation: list[float] = field(default_factory=list)
    epoch_sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    metrics_bytes: int = 0
    robust: list[RobustEpoch] = field(default_factory=list)
    natural_accuracy: float = 0.0

    def __post_init__(self) -> None:
        self.robust = [RobustEpoch(*each) for each in self.robust]  # JSON has lists


@dataclass(frozen=True)
class Checkpoint:
    """A saved moment of training; ``best`` are the weights of the best epoch so far, where those are kept."""

    progress: Progress
    model: dict[str, Tensor]
    average: dict[str, Tensor] | None
    optimiser: dict[str, Any]
    best: dict[str, Tensor] | None = None


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write ``folder/epoch-E-step-N`` and then remove all but it and the one before, to fall back on."""
    progress = checkpoint.progress
    final = folder / f"epoch-{progress.epoch:05d}-step-{progress.step:08d}"
    for left_by_a_crash in folder.glob(".epoch-*.part"):
        shutil.rmtree(left_by_a_crash)
    unfinished = folder / f".{final.name}.part"
    unfinished.mkdir(parents=True)
    try:
        _write(checkpoint, unfinished)
        if final.exists():  # perhaps damaged: training fell back behind it and came here again
            shutil.rmtree(final)
        unfinished.rename(final)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    saved = _saved(folder)
    place = saved.index(final)
    for other in saved[: max(place - 1, 0)] + saved[place + 1 :]:  # later ones were fallen back behind
        shutil.rmtree(other)
    return final


def _write(checkpoint: Checkpoint, folder: Path) -> None:
    """Fill a folder and flush it to the disk; all through Python's own files, so that a full disk is an OSError."""
    (folder / "model.safetensors").write_bytes(save(contiguous(checkpoint.model)))
    for name in OPTIONAL:
        if (state := getattr(checkpoint, name)) is not None:
            (folder / f"{name}.safetensors").write_bytes(save(contiguous(state)))
    optimiser = io.BytesIO()
    torch.save(checkpoint.optimiser, optimiser)
    (folder / "optimiser.pt").write_bytes(optimiser.getbuffer())
    (folder / "progress.json").write_text(json.dumps(asdict(checkpoint.progress)))
    for path in folder.iterdir():
        with path.open("rb") as written:
            os.fsync(written.fileno())


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint below ``folder``, or None."""
    return max(_saved(folder), default=None)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; tensors come through safetensors and torch's weights-only loader."""
    files = {name: path / f"{name}.safetensors" for name in OPTIONAL}
    return Checkpoint(
        progress=Progress(**json.loads((path / "progress.json").read_text())),
        model=load_file(path / "model.safetensors"),
        optimiser=torch.load(path / "optimiser.pt", weights_only=True, map_location="cpu"),
        **{name: load_file(file) if file.exists() else None for name, file in files.items()},
    )


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint below ``folder`` that can be read, or None where there is none at all.

    A damaged one is named in a warning, and the one before is taken.

    Raises:
        RunError: there are checkpoints, and none can be read.
    """
    saved = _saved(folder)
    for path in reversed(saved):
        try:
            return load_checkpoint(path)
        except DAMAGE as error:
            log.warning(f"{path}: is damaged ({type(error).__name__}) and left aside; training goes back before it")
    if saved:
        raise RunError(f"{folder}: no checkpoint of this run can be read; begin again with --force")
    return None


def _saved(folder: Path) -> list[Path]:
    return sorted(folder.glob("epoch-*"))


def contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A copy on the CPU."""
    # safetensors stores plain row-major tensors; clones also part tensors that share memory.
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
