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

log = logging.getLogger(__name__)

# What reading a file that was cut short or overwritten can raise, in JSON, safetensors and torch's own format.
DAMAGE = (OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError)


@dataclass
class Progress:
    """Where training is. All randomness derives from (seed, epoch, step, sample), so no generator state is kept.

    Attributes:
        step: finished updates of the weights.
        epoch: finished epochs.
        validation: validation accuracy after each finished epoch.
        epoch_sums: running sums of the unfinished epoch (samples, correct, loss).
        metrics_bytes: length of the metrics file that belongs to this state.
    """

    step: int = 0
    epoch: int = 0
    validation: list[float] = field(default_factory=list)
    epoch_sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    metrics_bytes: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A saved moment of training."""

    progress: Progress
    model: dict[str, Tensor]
    average: dict[str, Tensor] | None
    optimiser: dict[str, Any]


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
    (folder / "model.safetensors").write_bytes(save(_contiguous(checkpoint.model)))
    if checkpoint.average is not None:
        (folder / "average.safetensors").write_bytes(save(_contiguous(checkpoint.average)))
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
    average = path / "average.safetensors"
    return Checkpoint(
        progress=Progress(**json.loads((path / "progress.json").read_text())),
        model=load_file(path / "model.safetensors"),
        average=load_file(average) if average.exists() else None,
        optimiser=torch.load(path / "optimiser.pt", weights_only=True, map_location="cpu"),
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


def _contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors stores plain row-major tensors; clones also part tensors that share memory.
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
