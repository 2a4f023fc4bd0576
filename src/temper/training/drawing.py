"""Which samples make up the batches of an epoch: a function of seed and epoch alone, the same in every process."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]

_EXTRA = 2  # what a stream is for


@dataclass(frozen=True)
class Source:
    """What batches are drawn from: the training data and, behind them, the extra ones.

    Attributes:
        labels: int64 [N + M].
        own: N, the number of training samples, which say how long an epoch is.
        share: of every batch that is extra.
        balanced: whether all classes are drawn equally often, in both parts.
    """

    labels: NDArray[np.int64]
    own: int
    share: float = 0.0
    balanced: bool = False

    def batches(self, steps: int, seed: int, epoch: int) -> list[Positions]:
        """Positions of the samples in each of ``steps`` batches of an epoch, whose sizes differ by at most one.

        An epoch has as many samples as there are training data. With extra ones it is passed on as many updates, and
        so a share of the training data only, anew in every epoch (arXiv:2103.01946, 2110.09468).
        """
        labels = self.labels[: self.own]
        order = even(labels, self.own, seed, epoch) if self.balanced else _shuffled(self.own, seed, epoch)
        batches = np.array_split(order, steps)
        counts = [round(self.share * len(batch)) for batch in batches]
        if not sum(counts):
            return batches
        extra = self._extra(sum(counts), seed, epoch)
        parts = np.split(extra, np.cumsum(counts)[:-1])
        mixed = [np.concatenate([batch[len(part) :], part]) for batch, part in zip(batches, parts, strict=True)]
        rng = np.random.default_rng((seed, epoch, _EXTRA, _EXTRA))
        return [rng.permutation(batch) for batch in mixed]  # neighbours are mixed, and processes take every n-th

    def _extra(self, count: int, seed: int, epoch: int) -> Positions:
        labels = self.labels[self.own :]
        if self.balanced:
            return self.own + even(labels, count, seed, epoch, _EXTRA)
        return self.own + _chain(np.arange(len(labels)), count, np.random.default_rng((seed, epoch, _EXTRA)))

    def class_weights(self, classes: int) -> NDArray[np.float32]:
        """What a sample of each class counts, so that all classes count the same in an epoch: float32 [classes].

        The mean over the samples of an epoch is 1. A class without samples counts nothing.
        """
        parts = [(self.labels[: self.own], 1 - self.share), (self.labels[self.own :], self.share)]
        drawn = sum(share * np.bincount(part, minlength=classes) / len(part) for part, share in parts if len(part))
        frequency = np.asarray(drawn)
        there = frequency > 0
        return np.where(there, 1 / (np.where(there, frequency, 1) * there.sum()), 0).astype(np.float32)


def _shuffled(count: int, *stream: int) -> Positions:
    return np.random.default_rng(stream).permutation(count)


def _chain(positions: Positions, count: int, rng: np.random.Generator) -> Positions:
    """``count`` of the positions in random order, each as often as any other but for one."""
    rounds = -(-count // len(positions))
    return np.concatenate([positions[:0], *(rng.permutation(positions) for _ in range(rounds))])[:count]


def even(labels: NDArray[np.int64], count: int, *stream: int) -> Positions:
    """``count`` positions in random order, of every class that is there as many as of any other but for one.

    Within a class, each sample is there as often as any other but for one.
    """
    rng = np.random.default_rng(stream)
    classes = rng.permutation(np.unique(labels))  # which of them get one more is drawn too
    chosen = []
    for place, label in enumerate(classes):
        members = np.flatnonzero(labels == label)
        wanted = count // len(classes) + (place < count % len(classes))
        chosen.append(_chain(members, wanted, rng))
    return rng.permutation(np.concatenate(chosen))


def repeats(batches: Sequence[Positions]) -> list[Positions]:
    """How often each sample stood in the epoch before: the same shape as the batches.

    A sample that is drawn again is augmented anew.
    """
    order = np.concatenate(batches)
    place = np.argsort(order, kind="stable")
    first = np.flatnonzero(np.diff(order[place], prepend=-1))
    before = np.empty_like(order)
    before[place] = np.arange(len(order)) - np.repeat(first, np.diff(first, append=len(order)))
    return np.split(before, np.cumsum([len(batch) for batch in batches])[:-1])
