"""Projected gradient descent (Madry et al. 2018, arXiv:1706.06083)."""

from collections.abc import Callable

import torch
from torch import Tensor

from temper.attacks.losses import Loss, cross_entropy, flipped
from temper.threat import Norm, project, random_point, rows, steepest_step, within_box

Model = Callable[[Tensor], Tensor]


def input_gradient(model: Model, x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """One forward and one backward pass: (logits [N, K], loss [N], gradient [N, ...] of the summed loss)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        losses = loss(logits, y)
        (gradient,) = torch.autograd.grad(losses.sum(), x)
    return logits.detach(), losses.detach(), gradient


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Tensor | float,
    norm: Norm,
    *,
    steps: int,
    keys: Tensor | None,
    step_size: float | None = None,
    loss: Loss = cross_entropy,
    keep_flips: bool = False,
) -> Tensor:
    """Climb the loss by ``steps`` steps of steepest ascent inside ball and box.

    Costs ``steps`` forward and backward passes.

    Args:
        model: maps images float [N, ...] in [0, 1] to logits [N, K]; see :func:`temper.attacks.crafting.crafting`.
        x: clean images; y: labels int64 [N] to get away from.
        eps: radius of the ball, one for all or a tensor [N].
        norm: Linf, L2 or L1.
        steps: number of steps, at least 1.
        keys: the samples' random streams, int64 [N], for a random start; None starts at ``x``.
        step_size: length of a step as a share of eps, so that it follows a schedule; 2.5 / steps by default, which
            reaches any point of the ball and back.
        loss: what to climb.
        keep_flips: return the first iterate that was seen to flip the prediction, where one was; the last otherwise.

    Returns:
        Images of the shape of ``x``, inside ball and box.
    """
    length = eps * (2.5 / steps if step_size is None else step_size)
    moved = x if keys is None else random_point(x, eps, norm, keys)
    kept, found = x, torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for _ in range(steps):
        logits, _, gradient = input_gradient(model, moved, y, loss)
        if keep_flips:
            new = flipped(logits, y) & ~found
            kept, found = torch.where(rows(new, x), moved, kept), found | new
            if found.all():
                return kept
        if norm != "Linf":  # there every coordinate has its own length, so that clipping costs the others nothing
            gradient = within_box(gradient, moved)
        moved = project(x, moved + rows(length, x) * steepest_step(gradient, norm), eps, norm)
    return torch.where(rows(found, x), kept, moved)
