"""What a fine-tuning step minimises: one file an objective, and one line in :data:`OBJECTIVES`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from temper.core.lazily import loaded

if TYPE_CHECKING:
    from torch import Tensor

    from temper.attacks.attack import Model
    from temper.training.objectives.objective import Objective


@dataclass(frozen=True)
class ObjectiveCost:
    """What an objective costs beside its attack.

    Attributes:
        images: images that an update passes, forward and backward, per sample: the attacked one, or both.
        looks: forward passes per sample beside those of attack and update.
        unattacked: images and looks while epsilon is 0.
        rounds: forward passes of each training image per epoch beside those of updates.
    """

    images: int = 1
    looks: int = 0
    unattacked: tuple[int, int] = (1, 0)
    rounds: int = 0


@dataclass(frozen=True)
class ObjectiveFacts:
    """What there is to know of an objective before it is made; torch is not imported for that.

    Attributes:
        maker: ``module:function`` in this package, which takes ``ObjectiveSettings``.
        attacked: whether it trains on attacked images, and so has an epsilon.
        beta: default weight of its KL term, or of the frozen wing's loss; None if it has neither.
        labels: what it reads of a sample: "shares" of the classes, as label smoothing and mixtures of images give them,
            "one" class, or "none".
        random_start: whether its attack must start at random, because its loss has no gradient at the clean image.
        cost: beside its attack.
        asks: what an update asks the classifier for: "logits", those of its "branches" (a low-rank one for natural
            images beside the backbone), those of its "wings" (one with the batch-norm statistics of pretraining), or
            the "embeddings" of its image tower, and those of the tower as it was.
    """

    maker: str
    attacked: bool = True
    beta: float | None = None
    labels: Literal["shares", "one", "none"] = "shares"
    random_start: bool = False
    cost: ObjectiveCost = ObjectiveCost()
    asks: Literal["logits", "branches", "wings", "embeddings"] = "logits"

    @property
    def beside(self) -> str | None:
        """What is trained beside all weights, and so by protocol full alone; None where nothing is."""
        return {"branches": "a low-rank branch", "wings": "a frozen wing's scales and shifts"}.get(self.asks)


_BOTH = ObjectiveCost(images=2)
_BRANCHES = ObjectiveCost(images=2, unattacked=(2, 0), rounds=1)
_EMBEDDINGS = ObjectiveCost(looks=1, unattacked=(1, 1))

OBJECTIVES = {
    "at": ObjectiveFacts("adversarial:adversarial_training"),
    "standard": ObjectiveFacts("clean:standard", attacked=False),
    "trades": ObjectiveFacts("trades:trades", beta=6.0, random_start=True, cost=ObjectiveCost(images=2, looks=1)),
    "trades-guide": ObjectiveFacts("trades:trades_guide", beta=1.0, cost=_BOTH),
    "mart": ObjectiveFacts("mart:mart", beta=5.0, labels="one", cost=_BOTH),
    "autolora": ObjectiveFacts("autolora:autolora", beta=6.0, cost=_BRANCHES, asks="branches"),
    "twins": ObjectiveFacts("twins:twins", beta=1.0, asks="wings"),
    "fare": ObjectiveFacts("fare:fare", labels="none", random_start=True, cost=_EMBEDDINGS, asks="embeddings"),
}


def make(
    name: str,
    craft_logits: "Model",
    beta: float | None,
    label_smoothing: float,
    class_weights: "Tensor | None" = None,
    *,
    natural_accuracy: float = 0.0,
    original: "Model | None" = None,
    head: "Model | None" = None,
) -> "Objective":
    """The objective of a configuration, which has checked the options.

    Args:
        name: in :data:`OBJECTIVES`.
        craft_logits: the model as attacks see it, for an attack that moves away from clean logits.
        beta: weight of the KL term, or of the frozen wing's loss; None takes the objective's own.
        label_smoothing: share of the label spread over all classes.
        class_weights: what the loss of a sample of each class counts, float [K]; None: all the same.
        natural_accuracy, original, head: see :class:`~temper.training.objectives.objective.ObjectiveSettings`.
    """
    from temper.training.objectives.objective import ObjectiveSettings

    own = OBJECTIVES[name].beta or 0.0
    settings = ObjectiveSettings(
        craft_logits, own if beta is None else beta, label_smoothing, class_weights, natural_accuracy, original, head
    )
    objective: Objective = loaded(f"{__name__}.{OBJECTIVES[name].maker}")(settings)
    return objective
