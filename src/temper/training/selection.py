"""Which moment of a training is kept, by its robust accuracy on the validation data, and when more is not worth while.

Adversarial training overfits: robust accuracy on images that are not trained on falls again, while on those that are it
goes on rising (Rice et al. 2020, arXiv:2002.11569, who keep the best on held-out images).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class RobustEpoch(NamedTuple):
    """An epoch after which robust accuracy was measured.

    Attributes:
        epoch: from 1.
        validation: share of the validation images that are right, and still are after PGD at the target epsilon.
        training: share of the epoch's training images that were right as they were trained on.
        share: of the target epsilon in force at its end; 1 for an objective without attack.
    """

    epoch: int
    validation: float
    training: float
    share: float


@dataclass
class Kept:
    """The weights of the best epoch so far, on the CPU; None before there is one, or where the last ones are kept."""

    state: "dict[str, Tensor] | None" = None


def due(epoch: int, epochs: int, every: int | None) -> bool:
    """Whether robust accuracy is measured after this epoch: every so many, and the last one."""
    return every is not None and (epoch % every == 0 or epoch == epochs)


def best(measured: Sequence[RobustEpoch]) -> RobustEpoch:
    """The epoch of the highest robust accuracy, the first of equals; of one measurement at least."""
    return max(measured, key=lambda each: each.validation)


def spent(measured: Sequence[RobustEpoch], first: int, patience: int) -> bool:
    """Whether training has gone on for ``patience`` measurements without a better one.

    Only those count that were made with the whole epsilon in force and in the last phase of training, which begins with
    epoch ``first``: before that all is still to come.
    """
    if not measured:
        return False
    since = max(best(measured).epoch + 1, first)
    return sum(each.epoch >= since and each.share == 1 for each in measured) >= patience
