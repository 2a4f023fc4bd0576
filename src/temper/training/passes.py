"""Passes that a training takes, counted from its configuration: each one forward or backward, of one image."""

from collections.abc import Sequence

from temper.attacks.losses import cross_entropy
from temper.training import inner_attacks
from temper.training.checkpoints import Progress
from temper.training.config import FinetuneConfig
from temper.training.objectives import OBJECTIVES
from temper.training.selection import best
from temper.training.session import Task
from temper.training.trained import Passes, Trained

ROBUST_STEPS = 10  # of the PGD that validation runs


def of_update(config: FinetuneConfig, share: float, *, individual: bool = False, perturbed: bool = False) -> Passes:
    """Passes of one image in an update of the weights, while ``share`` of the target epsilon is in force.

    ``individual``: whether each sample has its own. ``perturbed``: whether the gradient is taken once more, at weights
    that were moved.
    """
    objective, own = OBJECTIVES[config.objective.name], config.attack
    if not objective.attacked or share == 0:
        images, looks = objective.cost.unattacked
        return Passes(images + looks, images)
    steps = inner_attacks.steps_at(own.length, share) if own.steps_follow else own.length
    attack = inner_attacks.make(own.name, steps, own.step_size, cross_entropy)
    forward, backward = attack.passes()
    forward += 2 * individual  # looks before and after it
    looks, images, norms = objective.cost.looks, objective.cost.images * (2 if perturbed else 1), len(config.threats)
    if own.union == "max":  # attacks in all norms, and looks at what they found
        forward, backward, looks = norms * forward, norms * backward, looks + norms
    if own.union == "avg":  # an attack and an update in each
        forward, backward, looks, images = norms * forward, norms * backward, norms * looks, norms * images
    return Passes(images + looks + forward, images + backward)


def count_update(progress: Progress, each: Passes, samples: float) -> None:
    """Count an update of so many images, each of which took so many passes."""
    new = (1, samples, samples * each.forward, samples * each.backward)
    progress.counted = [a + b for a, b in zip(progress.counted, new, strict=True)]


def of_validation(epochs: Sequence[int], clean: Sequence[float], images: int, norms: int) -> Passes:
    """Passes of measuring robust accuracy after epochs: in each norm PGD and a look for every image that is right.

    Args:
        epochs: after which it is measured. clean: accuracy after every epoch. images: validation images.
        norms: that the training is in.
    """
    right = norms * sum(round(clean[epoch - 1] * images) for epoch in epochs)
    return Passes(len(epochs) * images + right * (ROBUST_STEPS + 1), right * ROBUST_STEPS)


def trained(task: Task, progress: Progress) -> Trained | None:
    """What a task's training took, when it is done; None where a Temper that counted nothing began it."""
    updates, images, forward, backward = progress.counted
    if updates != progress.step:
        return None
    measured = tuple(progress.robust)
    return Trained(
        epochs=progress.epoch,
        kept=best(measured).epoch if task.config.validation.keep == "best" else progress.epoch,
        robust=measured,
        updates=progress.step,
        images=round(images),
        passes=Passes(forward, backward),
        validation=of_validation(
            [each.epoch for each in measured], progress.validation, len(task.validation), len(task.config.threats)
        ),
    )
