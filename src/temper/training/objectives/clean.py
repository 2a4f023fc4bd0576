"""Training without attacks."""

from torch import Tensor

from temper.attacks.attack import Model
from temper.training.objectives.objective import Craft, Objective, ObjectiveSettings, Result, smoothed


def standard(settings: ObjectiveSettings) -> Objective:
    """Cross-entropy on clean images, whatever the epsilon."""

    def objective(model: Model, x: Tensor, y: Tensor, attack: Craft | None) -> Result:
        return smoothed(model(x), y, settings)

    return objective
