"""A training: what is trained, by which process, and what that reports to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_fabric import Fabric

from temper.attacks.crafting import Pair
from temper.core.interrupt import Stop
from temper.core.progress import Bar
from temper.data import Dataset, Pixels
from temper.models import Classifier
from temper.training.checkpoints import Progress
from temper.training.config import FinetuneConfig
from temper.training.metrics import Metrics
from temper.training.schedules import EpsilonSchedule


@dataclass(frozen=True)
class Task:
    """What is trained: the configuration, the run's folder, and the data.

    ``after_epoch`` is called, in every process, with the classifier and the epoch (from 1) when that is saved; the
    classifier has the averaged weights where there is an average. What it raises ends the training. ``watch`` is told,
    in the first process, the validation accuracies so far, after every epoch and before that is saved.
    """

    config: FinetuneConfig
    schedule: EpsilonSchedule
    folder: Path
    train: Dataset
    validation: Dataset
    after_epoch: Callable[[Classifier, int], None] | None = None
    watch: Callable[[Sequence[float]], None] | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def steps_per_epoch(self) -> int:
        """Updates of the weights per epoch."""
        return -(-len(self.train) // self.config.batch_size)


@dataclass(frozen=True)
class Outside:
    """What a process reports its work to, and what asks it to stop."""

    metrics: Metrics
    bar: Bar
    stop: Stop


@dataclass(frozen=True)
class Session:
    """One process at work on a task."""

    fabric: Fabric
    task: Task
    classifier: Classifier
    pairs: list[Pair]
    pixels: Pixels
    progress: Progress
    outside: Outside
