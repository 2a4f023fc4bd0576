"""AutoLoRa: natural images through a low-rank branch, attacked ones through the backbone."""

from torch import Tensor

from temper.attacks.attack import Model
from temper.training.objectives.objective import (
    Craft,
    Objective,
    ObjectiveSettings,
    Result,
    attacked,
    both,
    divergence,
    mean,
    smoothed,
)


def autolora(settings: ObjectiveSettings) -> Objective:
    """(1 - A) CE(natural) + A CE(attacked) + beta A KL(natural || attacked), where A is the natural accuracy of the
    branch (arXiv:2310.01818, its automatic scalars; beta is 6 there). The attack climbs cross-entropy.

    The model takes natural and attacked images in one batch, and sends the first half through its branch.
    """
    accuracy = settings.natural_accuracy

    def objective(model: Model, x: Tensor, y: Tensor, attack: Craft | None) -> Result:
        natural_logits, logits = both(model, x, attacked(x, y, attack))
        natural, robust = smoothed(natural_logits, y, settings), smoothed(logits, y, settings)
        apart = mean(divergence(natural_logits, logits), settings.weights(y))
        loss = (1 - accuracy) * natural.loss + accuracy * (robust.loss + settings.beta * apart)
        return Result(loss, logits)

    return objective
