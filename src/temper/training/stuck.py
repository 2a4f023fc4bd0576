"""A training that does not learn: when to say so, and what to do about it."""

import math
from collections.abc import Callable, Sequence

from temper.training.transfer import Validation

#: Share of its epochs after which a run has to have learned something: T1 of the paper's schedule, by which standard
#: fine-tuning of its worst case had 90 % of its final accuracy (arXiv:2509.23325, section 6).
PATIENCE = 0.25

NOT_EPSILON = (
    "epsilon was 0 until now and is not the reason: change optimiser.backbone_lr and optimiser.head_lr, check the"
    " labels and model.mean and model.std, or train longer"
)
FIXED = (
    "take Epsilon-Scheduling (schedule.name hinge), which asks for the task before robustness, a warm-up (schedule.name"
    " linear), or a smaller eps"
)
RISING = "take Epsilon-Scheduling (schedule.name hinge), which begins with epsilon 0, or a smaller eps"
TOO_EARLY = (
    "epsilon rose before the task was learned: let it rise later (a larger schedule.start), change"
    " optimiser.backbone_lr and optimiser.head_lr, or train longer"
)
TOO_STEEP = (
    "it was learned with epsilon 0 and lost since: let epsilon rise more slowly (a larger schedule.end), or to less"
)


def due(accuracies: Sequence[float], validation: Validation, epochs: int) -> bool:
    """Whether to warn now that a run is no better than guessing: once, after the first epoch of which that is true.

    It is true of an epoch behind a quarter of all whose accuracy cannot be told from chance, where there are images
    enough to tell.

    Args:
        accuracies: clean ones on the validation data, after each epoch so far.
        validation: what they were measured on.
        epochs: of the whole training.
    """
    first = math.ceil(PATIENCE * epochs)
    late = [validation.at_chance(accuracy) for accuracy in accuracies[first - 1 :]]
    return validation.tells and bool(late) and late[-1] and not any(late[:-1])


def words(accuracies: Sequence[float], shares: Sequence[float], validation: Validation, epochs: int) -> str:
    """What is the matter and what to do, in one line.

    Args:
        accuracies, validation, epochs: as in :func:`due`.
        shares: of the target epsilon in force at the end of each epoch so far; 0 for an objective without attack.
    """
    again = "still" if all(map(validation.at_chance, accuracies)) else "back"
    return (
        f"after epoch {len(accuracies)} of {epochs} validation accuracy is {again} at chance ({accuracies[-1]:.1%} of"
        f" {validation.n} images; always naming their commonest class gives {validation.chance:.1%});"
        f" {_advice(accuracies, shares, validation.at_chance)}"
    )


def _advice(accuracies: Sequence[float], shares: Sequence[float], at_chance: Callable[[float], bool]) -> str:
    before = next((place for place, share in enumerate(shares) if share > 0), len(shares))  # epochs with epsilon 0
    if before == len(shares):
        return NOT_EPSILON
    if before == 0:
        return FIXED if min(shares) == 1 else RISING
    return TOO_EARLY if all(map(at_chance, accuracies[:before])) else TOO_STEEP
