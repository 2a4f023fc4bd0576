"""Which class is nearest: rivals in the order of their linearised distance (MALT: Melamed et al. 2024,
arXiv:2407.02240, algorithm 1)."""

import torch
from torch import Tensor, nn

from temper.attacks.attack import gradient_of
from temper.attacks.ball import distance
from temper.attacks.verification import filled
from temper.attacks.work import Work
from temper.threat import NORMS, Norm


def linearised_distances(model: nn.Module, work: Work, norm: Norm) -> Tensor:
    """How far each rival's boundary would be if the model were linear around the image: (z_y - z_j) over the dual norm
    of its gradient, float [N, R]; inf where that has no slope or is not finite.

    One forward pass, and a backward pass per rival.

    Args:
        model: images float [N, C, H, W] in [0, 1] to logits [N, K].
        work: images, their classes and R rivals of each.
        norm: Linf, L2 or L1.
    """
    with torch.enable_grad():
        x = filled(work.x).detach().requires_grad_()
        logits = model(x).float()[: len(work)]
        gaps = logits.gather(1, work.y[:, None]) - logits.gather(1, work.rivals)
        slopes = [_slope(gap, x, norm)[: len(work)] for gap in gaps.sum(0)]
    far = gaps.detach() / torch.stack(slopes, 1)
    return torch.where(torch.isfinite(far), far, torch.inf)


def _slope(gap: Tensor, x: Tensor, norm: Norm) -> Tensor:
    """Dual norm of the gradient of a sum of gaps: [N]."""
    gradient = gradient_of(gap, x, keep=True)
    return torch.zeros(len(x), device=x.device) if gradient is None else distance(gradient.float(), NORMS[norm].dual)


def nearest_first(far: Tensor) -> Tensor:
    """Places of the rivals in the order of their distances: int64 [N, R]; of those that are the same, such as unknown,
    the likelier one comes first."""
    return far.sort(dim=1, stable=True).indices
