"""Losses that attacks climb: functions of (logits [N, K], labels int64 [N]) -> [N], one number per sample.

Targeted ones also take the classes to reach, int64 [N]. Attacks sum losses over the batch, never average: a mean
would shrink each gradient with the batch size and underflow in low precision. All compute in float32 whatever
precision the logits have.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[..., Tensor]
_TOWARDS: set[Loss] = set()


def towards_a_class(loss: Loss) -> Loss:
    """Declare that a loss takes the classes to reach."""
    _TOWARDS.add(loss)
    return loss


def is_targeted(loss: Loss) -> bool:
    """Whether a loss takes the classes to reach, as a third argument."""
    return loss in _TOWARDS


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy per sample [N]."""
    return functional.cross_entropy(logits.float(), labels, reduction="none")


def cross_entropy_with(shares: Tensor) -> Loss:
    """Cross-entropy per sample [N] with soft labels.

    Args:
        shares: of each class, float [N, K]; rows add up to 1.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(logits.float(), shares, reduction="none")

    return loss


def logit_difference(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest other logit minus the label's: above 0 exactly where the prediction has changed (arXiv:1608.04644)."""
    logits = logits.float()
    others = logits.scatter(1, labels[:, None], -torch.inf)
    return others.amax(1) - _of(logits, labels)


@towards_a_class
def logit_difference_targeted(logits: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """The target's logit minus the label's: above 0 where the prediction has changed."""
    logits = logits.float()
    return _of(logits, target) - _of(logits, labels)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio (Croce and Hein 2020, arXiv:2003.01690, eq. 6): the logit difference over the gap
    between the largest and the third largest logit. With 2 classes there is no third: the logit difference alone."""
    difference = logit_difference(logits, labels)
    if logits.shape[1] < 3:
        return difference
    top = logits.float().topk(3, 1).values
    return difference / (top[:, 0] - top[:, 2] + 1e-12)


@towards_a_class
def dlr_targeted(logits: Tensor, labels: Tensor, target: Tensor) -> Tensor:
    """Targeted DLR (arXiv:2003.01690, eq. 7): towards a class, over the gap between the largest logit and the mean of
    the third and fourth. With 3 classes the third alone, with 2 no ratio."""
    difference = logit_difference_targeted(logits, labels, target)
    if logits.shape[1] < 3:
        return difference
    top = logits.float().topk(min(4, logits.shape[1]), 1).values
    return difference / (top[:, 0] - top[:, 2:].mean(1) + 1e-12)


RATIOS: frozenset[Loss] = frozenset({dlr, dlr_targeted})
"""Losses that want the third and the fourth largest logit, and so four classes."""


def kl_divergence(clean_logits: Tensor) -> Loss:
    """KL(clean || moved) per sample, the inner loss of TRADES (Zhang et al. 2019, arXiv:1901.08573, eq. 3).

    Args:
        clean_logits: [N, K], held constant.
    """
    clean = functional.log_softmax(clean_logits.detach().float(), 1)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        moved = functional.log_softmax(logits.float(), 1)
        return functional.kl_div(moved, clean, reduction="none", log_target=True).sum(1)

    return loss


def predicted(logits: Tensor) -> Tensor:
    """The class of the largest logit, the first of those that share it: int64 [N]."""
    return logits.argmax(1)


def flipped(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether another class's logit is larger than the label's: bool [N]. One that only draws level changes nothing,
    or a constant model would flip. NaN logits predict nothing and never count."""
    return (logits.amax(1) > _of(logits, labels)) & torch.isfinite(logits).all(1)


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)
