"""Adversarial training."""

from torch import Tensor

from temper.attacks.attack import Model
from temper.training.objectives.objective import Craft, Objective, ObjectiveSettings, Result, attacked, smoothed


def adversarial_training(settings: ObjectiveSettings) -> Objective:
    """Cross-entropy on attacked images only (Madry et al. 2018, arXiv:1706.06083, eq. 2.1)."""

    def objective(model: Model, x: Tensor, y: Tensor, attack: Craft | None) -> Result:
        return smoothed(model(attacked(x, y, attack)), y, settings)

    return objective
