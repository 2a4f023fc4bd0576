"""The metrics of a training run: a line of JSON per step and epoch."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from lightning_fabric import Fabric
from torch import Tensor

from temper.core.files import written
from temper.training.checkpoints import Progress

log = logging.getLogger(__name__)


def _keep_rows(path: Path, counted: int) -> None:
    """Cut the metrics file to the whole rows among the first ``counted`` bytes: what came after is written again.

    Rows that are lost or damaged stay lost, which a warning says; training does not depend on them.
    """
    content = path.read_bytes()[:counted] if path.exists() else b""
    rows = [row for row in content.splitlines(keepends=True) if row.endswith(b"\n") and _is_row(row)]
    kept = b"".join(rows)
    if len(kept) < counted:
        log.warning(f"{path}: lacks {counted - len(kept)} of {counted} bytes before the checkpoint; training goes on")
    with path.open("ab") as file:
        if kept == content:
            file.truncate(len(kept))
            return
    with written(path) as unfinished:
        unfinished.write_bytes(kept)


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:  # of bytes that are no UTF-8, too
        return False


class Metrics:
    """The run's metrics file, and the experiment trackers if there are any."""

    def __init__(self, path: Path, fabric: Fabric, keep_bytes: int) -> None:
        self._fabric = fabric
        self._file = None
        if fabric.is_global_zero:
            _keep_rows(path, keep_bytes)
            self._file = path.open("ab")

    def step(
        self,
        progress: Progress,
        epoch: int,
        eps: float,
        lr: float,
        sums: Tensor,
        norm: str | None = None,
        eps_mean: float | None = None,
    ) -> None:
        """Note an update of the weights.

        ``norm`` is the one that its batch was attacked in, where one was drawn; ``eps_mean`` is that of the samples'
        epsilons, in the first norm, where they have their own.
        """
        samples, correct, loss = sums.tolist()
        row = {"loss": loss / samples, "accuracy": correct / samples, "eps": eps, "lr": lr}
        row |= {} if eps_mean is None else {"eps_mean": eps_mean}
        self._write({"kind": "step", "step": progress.step, "epoch": epoch, **row, **({"norm": norm} if norm else {})})
        self._fabric.log_dict({f"step/{name}": value for name, value in row.items()}, step=progress.step)

    def epoch(
        self,
        progress: Progress,
        eps: float,
        lr: float,
        loss: float,
        accuracy: float,
        validation: float,
        robust: float | None,
        seconds: float,
    ) -> None:
        """Note a finished epoch; ``robust`` is None where no robust accuracy was measured after it."""
        row = {
            "train_loss": loss,
            "train_accuracy": accuracy,
            "validation_accuracy": validation,
            **({} if robust is None else {"robust_validation_accuracy": robust}),
            "eps": eps,
            "lr": lr,
        }
        self._write(
            {
                "kind": "epoch",
                "epoch": progress.epoch,
                "step": progress.step,
                **row,
                "seconds": round(seconds, 3),
            }
        )
        self._fabric.log_dict({f"epoch/{name}": value for name, value in row.items()}, step=progress.step)

    def flush(self) -> int:
        """Write everything to the disk, before a checkpoint counts it; returns the length of the file."""
        if self._file is None:
            return 0
        self._file.flush()
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def _write(self, row: Mapping[str, object]) -> None:
        if self._file is not None:
            self._file.write((json.dumps(row) + "\n").encode())
