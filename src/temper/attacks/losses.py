"""Losses that attacks climb: functions of (logits [N, K], labels int64 [N]) -> [N], one number per sample.

Attacks sum them over the batch, never average: a mean would shrink each gradient with the batch size and underflow
in low precision.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy per sample [N], in float32 whatever precision the logits have."""
    return functional.cross_entropy(logits.float(), labels, reduction="none")


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


def flipped(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the prediction differs from the label: bool [N]. NaN logits predict nothing and never count."""
    return (logits.argmax(1) != labels) & torch.isfinite(logits).all(1)
