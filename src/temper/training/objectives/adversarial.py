"""Adversarial training."""

from torch import Tensor

from temper.attacks.losses import cross_entropy
from temper.training.objectives.objective import Attack, Model, Objective, Result, Settings, smoothed


def adversarial_training(settings: Settings) -> Objective:
    """Cross-entropy on attacked images only (Madry et al. 2018, arXiv:1706.06083, eq. 2.1)."""

    def objective(model: Model, x: Tensor, y: Tensor, attack: Attack | None) -> Result:
        return smoothed(model(attack(x, y, cross_entropy) if attack else x), y, settings.label_smoothing)

    return objective
