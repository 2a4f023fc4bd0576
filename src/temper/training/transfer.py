"""Suboptimal transfer and delayed adaptation as numbers (arXiv:2509.23325, section 3).

All accuracies here are clean ones, shares in [0, 1]; epochs count from 1.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from temper.margins.intervals import Estimate, exact

#: Section 3: a run has adapted to its task with the first validation accuracy above this.
ADAPTED = 0.05


@dataclass(frozen=True)
class Validation:
    """What accuracies on validation data are judged by.

    Attributes:
        n: number of images.
        chance: accuracy of always naming the commonest class among them: what takes no learning. With classes of one
            size that is 1 / classes.
    """

    n: int
    chance: float

    @classmethod
    def of(cls, labels: NDArray[np.int64]) -> "Validation":
        """Of the labels [N] of the validation data."""
        return cls(len(labels), int(np.bincount(labels).max()) / len(labels))

    @property
    def passing(self) -> float:
        """The accuracy that ends the delay once it is exceeded.

        5 %, as in the paper, whose tasks have 100 to 257 classes. Where guessing comes near that (few classes, or a
        common one), twice chance; and where there is no room for twice (chance above a third), halfway to 1.
        """
        return max(ADAPTED, min(2 * self.chance, (1 + self.chance) / 2))

    def interval(self, accuracy: float) -> tuple[float, float]:
        """The exact 95 % interval of an accuracy on these images."""
        return exact(round(accuracy * self.n), self.n)

    def at_chance(self, accuracy: float) -> bool:
        """Whether an accuracy cannot be told from guessing: its interval reaches down to chance."""
        return self.interval(accuracy)[0] <= self.chance

    @property
    def tells(self) -> bool:
        """Whether there are images enough to tell an accuracy that passes from chance."""
        count = math.floor(self.passing * self.n) + 1
        return count <= self.n and not self.at_chance(count / self.n)


@dataclass(frozen=True)
class Delay:
    """How long a run took to adapt to its task.

    Attributes:
        epochs: the first epoch whose validation accuracy passes. Its interval holds the epochs at which that cannot be
            told for sure from so many images.
        censored: no epoch passed; as in the paper, ``epochs`` is then their number.
        passing: the accuracy that had to be exceeded.
        chance: of guessing, see :class:`Validation`.
    """

    epochs: Estimate
    censored: bool
    passing: float
    chance: float

    def to_json(self) -> dict[str, object]:
        """Under its attributes' names."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Delay":
        """What :meth:`to_json` gave."""
        return cls(**{**values, "epochs": Estimate(**values["epochs"])})

    def __str__(self) -> str:
        first, last = f"{self.epochs.low:.0f}", f"{self.epochs.high:.0f}"
        doubt = f" ({first} to {last})" if first != last else ""
        when = f"none of {self.epochs.value:.0f} epochs" if self.censored else f"epoch {self.epochs.value:.0f}{doubt}"
        return f"{when} above {self.passing:.1%}"


def delay(accuracies: Sequence[float], validation: Validation) -> Delay:
    """The delay of a run (section 3; figure 8).

    Args:
        accuracies: on the validation data, after each epoch of the whole training.
        validation: what they were measured on.
    """
    passing = validation.passing
    return Delay(first_above(passing, accuracies, validation), max(accuracies) <= passing, passing, validation.chance)


def first_above(level: float, accuracies: Sequence[float], validation: Validation) -> Estimate:
    """The first epoch whose accuracy exceeds a level, the last one where none does; its interval holds the epochs that
    so many images leave open, each taken by itself."""

    def first(exceeds: Sequence[float]) -> float:
        return float(next((epoch for epoch, each in enumerate(exceeds, start=1) if each > level), len(exceeds)))

    ends = [validation.interval(accuracy) for accuracy in accuracies]
    low, high = first([end for _, end in ends]), first([end for end, _ in ends])
    return Estimate(first(accuracies), low, high, validation.n)


def severity(standard: Estimate, own: Estimate) -> Estimate:
    """How suboptimal a transfer is (section 3; figure 1): the clean accuracy that standard fine-tuning of the same
    backbone on the same data, for as many epochs, has beyond this run's, on the same images.

    Of two accuracies alone: the interval takes them as independent (Zou and Donner 2008), and on the same images, where
    two runs mostly err alike, is wider than need be. :func:`temper.margins.comparison.clean_change` has the paired one
    where every image's decision is known.
    """
    value = standard.value - own.value
    below = math.hypot(standard.value - standard.low, own.high - own.value)
    above = math.hypot(standard.high - standard.value, own.value - own.low)
    return Estimate(value, value - below, value + above, min(standard.n, own.n))


def task(config: Mapping[str, Any]) -> str:
    """What runs have in common whose clean accuracies tell a severity: backbone, data, what is trained, epochs, seed.

    Args:
        config: a configuration's values as JSON has them.
    """
    data = {key: value for key, value in config["data"].items() if key != "workers"}
    shared = [config[key] for key in ("model", "protocol", "epochs", "seed")]
    return json.dumps([data, *shared], sort_keys=True)
