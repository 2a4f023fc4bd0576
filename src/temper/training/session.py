"""A training: what is trained, by which process, and what that reports to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from temper.attacks.crafting import Pair
from temper.core.interrupt import Stop
from temper.core.progress import Bar
from temper.data import Dataset, Pixels
from temper.data.joined import joined
from temper.models import Classifier
from temper.training.checkpoints import Progress
from temper.training.config import FinetuneConfig
from temper.training.drawing import Source
from temper.training.metrics import Metrics
from temper.training.schedules import EpsilonSchedule
from temper.training.selection import RobustEpoch
from temper.training.splits import Splits


@dataclass(frozen=True)
class Task:
    """What is trained: the configuration, the run's folder, and the data.

    ``after_epoch`` is called, in every process, with the classifier and the epoch (from 1) when that is saved; the
    classifier has the averaged weights where there is an average. What it raises ends the training. ``watch`` is told,
    in the first process, the clean and robust validation accuracies so far, after every epoch and before that is saved.
    """

    config: FinetuneConfig
    schedule: EpsilonSchedule
    folder: Path
    splits: Splits
    after_epoch: Callable[[Classifier, int], None] | None = None
    watch: Callable[[Sequence[float], Sequence[RobustEpoch]], None] | None = None

    @property
    def train(self) -> Dataset:
        """The training data, which say how long an epoch is."""
        return self.splits.train

    @property
    def validation(self) -> Dataset:
        """The validation data."""
        return self.splits.validation

    @cached_property
    def images(self) -> Dataset:
        """All images that batches are drawn from: the training data and, behind them, the extra ones."""
        return self.train if self.splits.extra is None else joined(self.train, self.splits.extra)

    @cached_property
    def source(self) -> Source:
        """What batches are drawn from, and how."""
        data, own = self.config.data, len(self.train)
        return Source(self.images.labels, own, data.extra_share or 0.0, data.balance == "sampler")

    @cached_property
    def class_weights(self) -> Tensor | None:
        """What the loss of a sample of each class counts, float [K]; None where all count the same."""
        if self.config.data.balance != "weights":
            return None
        return torch.from_numpy(self.source.class_weights(self.train.num_classes))

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
    """One process at work on a task; ``original`` is the tower before training, where the objective looks at it."""

    fabric: Fabric
    task: Task
    classifier: Classifier
    pairs: list[Pair]
    progress: Progress
    outside: Outside
    original: nn.Module | None = None

    @cached_property
    def pixels(self) -> Pixels:
        """The images as training takes them."""
        return training_pixels(self.task, self.classifier)


def training_pixels(task: Task, classifier: Classifier) -> Pixels:
    """A task's images, augmented, at the classifier's size."""
    config = task.config
    return Pixels(task.images, classifier.image_size, classifier.channels, config.data.augmentation, config.seed)
