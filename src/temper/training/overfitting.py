"""Catastrophic overfitting of single-step training: when to say so, and what to do about it.

A network can learn to withstand the one step that it is trained on and nothing else: its accuracy under PGD falls to
about 0 within an epoch, while that on its single-step images rises (Wong et al. 2020, arXiv:2001.03994).
"""

from collections.abc import Sequence

from temper.training.selection import RobustEpoch, best
from temper.training.transfer import Validation

NAME = "catastrophic overfitting"
FALL = 0.5  # of the best robust accuracy that is left

ADVICE = (
    "take attack.name pgd with more steps, or a smaller eps (n-fgsm withstands larger ones than other single steps);"
    " validation.keep best keeps an epoch before it"
)


def due(measured: Sequence[RobustEpoch], validation: Validation) -> bool:
    """Whether to warn now: once, after the first measurement that shows a collapse.

    Args:
        measured: robust accuracies so far.
        validation: what they were measured on.
    """
    collapsed = [_collapsed(measured[: count + 1], validation) for count in range(len(measured))]
    return bool(collapsed) and collapsed[-1] and not any(collapsed[:-1])


def _collapsed(measured: Sequence[RobustEpoch], validation: Validation) -> bool:
    """Whether robust accuracy fell to half its best or less, by more than so many images leave open, while accuracy on
    the images trained on rose."""
    now, top = measured[-1], best(measured)
    surely = validation.interval(now.validation)[1] < validation.interval(top.validation)[0]
    return surely and now.validation <= FALL * top.validation and now.training > top.training


def words(measured: Sequence[RobustEpoch], validation: Validation) -> str:
    """What is the matter and what to do, in one line."""
    now, top = measured[-1], best(measured)
    return (
        f"{NAME}: robust validation accuracy (PGD) fell from {top.validation:.1%} after epoch {top.epoch} to"
        f" {now.validation:.1%} after epoch {now.epoch} ({validation.n} images), while accuracy on the single-step"
        f" training images rose from {top.training:.1%} to {now.training:.1%}: the model withstands that step alone;"
        f" {ADVICE}"
    )
