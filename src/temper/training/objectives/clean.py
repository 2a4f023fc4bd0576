"""Training without attacks."""

from torch import Tensor

from temper.training.objectives.objective import Attack, Model, Objective, Result, Settings, smoothed


def standard(settings: Settings) -> Objective:
    """Cross-entropy on clean images, whatever the epsilon."""

    def objective(model: Model, x: Tensor, y: Tensor, attack: Attack | None) -> Result:
        return smoothed(model(x), y, settings.label_smoothing)

    return objective
