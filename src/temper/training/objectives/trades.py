"""TRADES, as its authors have it and as arXiv:2508.14079 has it."""

import torch
from torch import Tensor

from temper.attacks.attack import Model
from temper.attacks.losses import kl_divergence
from temper.training.objectives.objective import (
    Craft,
    Objective,
    ObjectiveSettings,
    Result,
    attacked,
    both,
    divergence,
    largest,
    mean,
    smoothed,
)


def trades(settings: ObjectiveSettings) -> Objective:
    """CE(clean) + beta * KL(clean || attacked), the attack climbing the same KL (arXiv:1901.08573, eq. 5; beta is
    1 / lambda there, and 6 in its experiments)."""

    def objective(model: Model, x: Tensor, y: Tensor, attack: Craft | None) -> Result:
        if attack is None:
            return smoothed(model(x), y, settings)
        with torch.no_grad():
            clean = settings.craft_logits(x)
        return _trades(model, x, attack(x, largest(y), kl_divergence(clean)), y, settings)

    return objective


def trades_guide(settings: ObjectiveSettings) -> Objective:
    """TRADES as in arXiv:2508.14079: the inner attack climbs cross-entropy with the true label, beta is 1, and
    gradients flow through the clean branch of the KL too."""

    def objective(model: Model, x: Tensor, y: Tensor, attack: Craft | None) -> Result:
        if attack is None:
            return smoothed(model(x), y, settings)
        return _trades(model, x, attacked(x, y, attack), y, settings)

    return objective


def _trades(model: Model, x: Tensor, x_adv: Tensor, y: Tensor, settings: ObjectiveSettings) -> Result:
    clean_logits, logits = both(model, x, x_adv)
    clean = smoothed(clean_logits, y, settings).loss
    return Result(clean + settings.beta * mean(divergence(clean_logits, logits), settings.weights(y)), logits)
