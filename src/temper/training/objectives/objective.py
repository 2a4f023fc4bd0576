"""What objectives are made of: their types, and the terms that several share.

``model`` maps images float [N, C, H, W] in [0, 1] to logits [N, K] and is in train mode; ``attack(x, y, loss)``
returns images of the shape of ``x`` that climb ``loss`` within the epsilon in force, or is None while that is 0:
then nothing is attacked, and every objective is what remains of it for x_adv = x. Labels ``y`` are int64 [N], or soft:
float [N, K], rows that add up to 1, of images that are mixtures.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from temper.attacks.attack import Model
from temper.attacks.losses import Loss, cross_entropy, cross_entropy_with

Craft = Callable[[Tensor, Tensor, Loss], Tensor]


@dataclass(frozen=True)
class Result:
    """What one objective computed: the scalar loss to minimise and the logits [N, K] it judged training by."""

    loss: Tensor
    logits: Tensor


Objective = Callable[[Model, Tensor, Tensor, Craft | None], Result]


@dataclass(frozen=True)
class ObjectiveSettings:
    """What an objective is made with.

    Attributes:
        craft_logits: the model as attacks see it (eval mode), for an attack that moves away from clean logits.
        beta: weight of the KL term, or of the frozen wing's loss, for those that have one.
        label_smoothing: share of the label spread over all classes.
        class_weights: what the loss of a sample of each class counts, float [K]; None where all count the same.
        natural_accuracy: of the low-rank branch on the training images, for those that have one.
        original: the image tower as it was before it was trained, for those that match its embeddings.
        head: what takes an embedding to logits [N, K], for those.
    """

    craft_logits: Model
    beta: float
    label_smoothing: float
    class_weights: Tensor | None = None
    natural_accuracy: float = 0.0
    original: Model | None = None
    head: Model | None = None

    def weights(self, y: Tensor) -> Tensor | None:
        """What the loss of each sample counts [N]; None where all count the same."""
        if self.class_weights is None:
            return None
        weights = self.class_weights.to(y.device)
        return weights[y] if y.dim() == 1 else y @ weights


def largest(y: Tensor) -> Tensor:
    """The class with the largest share of each label, int64 [N]: the label itself unless it is soft."""
    return y if y.dim() == 1 else y.argmax(1)


def attacked(x: Tensor, y: Tensor, attack: Craft | None) -> Tensor:
    """Images that climb cross-entropy with the labels, each class by its share of a soft one; ``x`` without attack."""
    if attack is None:
        return x
    return attack(x, largest(y), cross_entropy if y.dim() == 1 else cross_entropy_with(y))


def mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of losses [N], each times what it counts."""
    return losses.mean() if weights is None else (losses * weights).mean()


def smoothed(logits: Tensor, y: Tensor, settings: ObjectiveSettings) -> Result:
    """Cross-entropy with smoothed labels."""
    weights = settings.weights(y)
    reduction, share = "mean" if weights is None else "none", settings.label_smoothing
    loss = functional.cross_entropy(logits.float(), y, label_smoothing=share, reduction=reduction)
    return Result(mean(loss, weights), logits)


def both(model: Model, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of clean and attacked images from one pass, so that batch norm sees both and DDP reduces once."""
    clean, attacked = model(torch.cat([x, x_adv])).chunk(2)
    return clean, attacked


def divergence(clean_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(clean || attacked) per sample [N]."""
    clean = functional.log_softmax(clean_logits.float(), 1)
    attacked = functional.log_softmax(logits.float(), 1)
    return functional.kl_div(attacked, clean, reduction="none", log_target=True).sum(1)
