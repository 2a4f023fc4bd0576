"""What a fine-tuning step minimises: one file an objective, and one line in :data:`OBJECTIVES`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from temper.core.lazily import loaded

if TYPE_CHECKING:
    from torch import Tensor

    from temper.attacks.attack import Model
    from temper.training.objectives.objective import Objective


@dataclass(frozen=True)
class ObjectiveFacts:
    """What there is to know of an objective before it is made; torch is not imported for that.

    Attributes:
        maker: ``module:function`` in this package, which takes ``ObjectiveSettings``.
        attacked: whether it trains on attacked images, and so has an epsilon.
        beta: default weight of its KL term; None if it has none.
        labels: what it reads of a sample: "shares" of the classes, as label smoothing and mixtures of images give them,
            "one" class, or "none".
        random_start: whether its attack must start at random, because its loss has no gradient at the clean image.
        images: images that an update passes, forward and backward, per sample: the attacked one, or both.
        looks: forward passes per sample beside those of attack and update.
    """

    maker: str
    attacked: bool = True
    beta: float | None = None
    labels: Literal["shares", "one", "none"] = "shares"
    random_start: bool = False
    images: int = 1
    looks: int = 0


OBJECTIVES = {
    "at": ObjectiveFacts("adversarial:adversarial_training"),
    "standard": ObjectiveFacts("clean:standard", attacked=False),
    "trades": ObjectiveFacts("trades:trades", beta=6.0, random_start=True, images=2, looks=1),
    "trades-guide": ObjectiveFacts("trades:trades_guide", beta=1.0, images=2),
    "mart": ObjectiveFacts("mart:mart", beta=5.0, labels="one", images=2),
}


def make(
    name: str,
    craft_logits: "Model",
    beta: float | None,
    label_smoothing: float,
    class_weights: "Tensor | None" = None,
) -> "Objective":
    """The objective of a configuration, which has checked the options.

    Args:
        name: in :data:`OBJECTIVES`.
        craft_logits: the model as attacks see it, for an attack that moves away from clean logits.
        beta: weight of the KL term; None takes the objective's own.
        label_smoothing: share of the label spread over all classes.
        class_weights: what the loss of a sample of each class counts, float [K]; None: all the same.
    """
    from temper.training.objectives.objective import ObjectiveSettings

    own = OBJECTIVES[name].beta or 0.0
    settings = ObjectiveSettings(craft_logits, own if beta is None else beta, label_smoothing, class_weights)
    objective: Objective = loaded(f"{__name__}.{OBJECTIVES[name].maker}")(settings)
    return objective
