"""An epsilon for each sample, which follows the sample's own margin.

The margin is estimated for the price of two looks, before and after the attack: the logit margin, which orders samples
as their input margins do (margin consistency, arXiv:2406.18451), over how far logit margins fell per unit of epsilon in
the attacks so far. Training at a sample's own margin is MMA's idea (Ding et al. 2020, arXiv:1812.02637), epsilons that
grow with what a sample withstands that of IAAT and CAT (Balaji et al. 2019, arXiv:1910.08051; Cheng et al. 2020,
arXiv:2002.06789); these find margins by attacks of their own, or keep them from epoch to epoch.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from temper.attacks.losses import logit_difference
from temper.threat import Threat

AHEAD = 2.0  # of the margin, so that it grows
LEAST, MOST = 0.5, 2.0  # of the epsilon in force
KEPT = 0.9  # of the slope, at every update


def radii(logits: Tensor, labels: Tensor, threat: Threat, values: int, slope: float | None) -> Tensor:
    """The epsilon of each sample, float [N], in pixel units of [0, 1].

    Args:
        logits: of the clean images, [N, K]. labels: int64 [N].
        threat: in force.
        values: of an image: pixels times channels.
        slope: how far logit margins fall per unit of epsilon; None before anything was attacked: all get that in force.
    """
    margins = -logit_difference(logits, labels)
    if slope is None:
        return torch.full_like(margins, threat.eps)
    return (AHEAD / slope * margins).clamp(LEAST * threat.eps, largest_eps(threat, values))


def largest_eps(threat: Threat, values: int) -> float:
    """The largest epsilon of a sample of so many values: twice that in force, and no further than half of the way, as a
    ratio, to where every image can be made grey, and nothing is left to tell it by."""
    grey = {"Linf": 0.5, "L2": 0.5 * math.sqrt(values), "L1": 0.5 * values}[threat.norm]
    return max(threat.eps, min(MOST * threat.eps, math.sqrt(threat.eps * grey)))


def fall(before: Tensor, after: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """By how much logit margins fell in an attack, and the samples' epsilons [N], each summed: float64 [2].

    ``before`` and ``after`` are logits [N, K], ``labels`` int64 [N].
    """
    fell = logit_difference(after, labels) - logit_difference(before, labels)
    return torch.stack([fell.double().sum(), eps.double().sum()]).cpu()


def renewed(slopes: Mapping[str, float], fallen: Mapping[str, Tensor]) -> dict[str, float]:
    """The slope in the norms of an update in which margins fell so far: :func:`fall`, over all samples. None in a norm
    where they did not fall.
    """
    falls = {norm: (sums[0] / sums[1]).item() for norm, sums in fallen.items()}
    return {norm: KEPT * slopes.get(norm, fall) + (1 - KEPT) * fall for norm, fall in falls.items() if fall > 0}
