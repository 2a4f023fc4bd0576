"""Scores that stand in for the input margin: of logits, free of charge, the lower the more brittle.

Each is a function of logits [N, K] to one number per row, so it works on a batch and on every batch of a stream.
Facts and formulas: arXiv:2406.18451, section 2 and appendix A.
"""

import torch
from torch import Tensor

from temper.errors import ArgumentError
from temper.threat import NORMS, Norm

# Differences of the head's weights are measured in the norm dual to that of the perturbation.


def logit_margin(logits: Tensor) -> Tensor:
    """The largest logit less the second largest (arXiv:2406.18451, eq. 4): [N, K] -> [N].

    Raises:
        ArgumentError: not [N, K] with at least 2 classes, or not numbers.
    """
    top = _checked(logits).topk(2, 1).values
    return top[:, 0] - top[:, 1]


def probability_margin(logits: Tensor) -> Tensor:
    """The largest softmax probability less the second largest: [N, K] -> [N]; see :func:`logit_margin` for errors."""
    top = _checked(logits).softmax(1).topk(2, 1).values
    return top[:, 0] - top[:, 1]


def max_probability(logits: Tensor) -> Tensor:
    """The largest softmax probability: [N, K] -> [N]; see :func:`logit_margin` for errors."""
    return _checked(logits).softmax(1).amax(1)


class FeatureMargin:
    """The exact distance from a feature to the nearest hyperplane between the predicted class and another
    (arXiv:2406.18451, eq. 2): min over j of (f_i - f_j) / ||w_i - w_j||_q, q dual to p.

    The distances between weights are computed once: K x K numbers.

    Args:
        weight: of the head, float [K, M].
        norm: p, in which the distance is measured.

    Raises:
        ArgumentError: a single class.
    """

    def __init__(self, weight: Tensor, norm: Norm) -> None:
        if weight.dim() < 2 or len(weight) < 2:
            raise ArgumentError("weight", tuple(weight.shape), "a feature margin needs a head [K, M], K at least 2")
        flat = weight.detach().flatten(1).float()
        if not torch.isfinite(flat).all():
            raise ArgumentError("weight", tuple(weight.shape), "holds NaN or infinity; load the model's weights again")
        self.norm = norm
        self.pairs = torch.cdist(
            flat, flat, p=NORMS[NORMS[norm].dual].order, compute_mode="donot_use_mm_for_euclid_dist"
        )

    def __call__(self, logits: Tensor) -> Tensor:
        """[N, K] -> [N]; see :func:`logit_margin` for errors."""
        logits = _checked(logits)
        if logits.shape[1] != len(self.pairs):
            raise ArgumentError("logits", tuple(logits.shape), f"the head has {len(self.pairs)} classes")
        first = logits.argmax(1)
        gaps = logits.gather(1, first[:, None]) - logits
        apart = self.pairs.to(logits.device)[first]
        # Two classes of equal weights have no hyperplane between them, and neither has a class with itself. The 1 keeps
        # their quotients, which nobody looks at, from making the gradient of the others nan.
        margins = gaps / torch.where(apart > 0, apart, 1)
        return margins.masked_fill(apart == 0, torch.inf).amin(1)


def equidistance(weight: Tensor, norm: Norm) -> Tensor:
    """The distances ||w_i - w_j||_q of all pairs of classes, float [K (K - 1) / 2]; were they all equal, feature and
    logit margin would rank alike (arXiv:2406.18451, eq. 3)."""
    pairs = FeatureMargin(weight, norm).pairs
    upper = torch.triu_indices(len(pairs), len(pairs), 1)
    return pairs[upper[0], upper[1]]


def _checked(logits: Tensor) -> Tensor:
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ArgumentError("logits", tuple(logits.shape), "must be [N, K] with at least 2 classes")
    if not torch.isfinite(logits).all():
        row = int((~torch.isfinite(logits)).any(1).nonzero()[0])
        raise ArgumentError("logits", f"row {row}", "holds NaN or infinity; a score needs finite logits")
    return logits.double()  # as evidence tables have them: a decision at the threshold must not depend on rounding
