"""What objectives are made of: their types, and the terms that several share.

``model`` maps images float [N, C, H, W] in [0, 1] to logits [N, K] and is in train mode; ``attack(x, y, loss)``
returns images of the shape of ``x`` that climb ``loss`` within the epsilon in force, or is None while that is 0:
then nothing is attacked, and every objective is what remains of it for x_adv = x.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from temper.attacks.attack import Model
from temper.attacks.losses import Loss

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
        beta: weight of the KL term, for those that have one.
        label_smoothing: share of the label spread over all classes.
    """

    craft_logits: Model
    beta: float
    label_smoothing: float


def smoothed(logits: Tensor, y: Tensor, label_smoothing: float) -> Result:
    """Cross-entropy with smoothed labels."""
    return Result(functional.cross_entropy(logits.float(), y, label_smoothing=label_smoothing), logits)


def both(model: Model, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of clean and attacked images from one pass, so that batch norm sees both and DDP reduces once."""
    clean, attacked = model(torch.cat([x, x_adv])).chunk(2)
    return clean, attacked


def divergence(clean_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(clean || attacked) per sample [N]."""
    clean = functional.log_softmax(clean_logits.float(), 1)
    attacked = functional.log_softmax(logits.float(), 1)
    return functional.kl_div(attacked, clean, reduction="none", log_target=True).sum(1)
