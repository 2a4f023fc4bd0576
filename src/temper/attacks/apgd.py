"""Auto-PGD: PGD with momentum that chooses its own step size (Croce and Hein 2020, arXiv:2003.01690, algorithm 1)
and its sparse form for L1 (Croce and Hein 2021, arXiv:2103.01208, algorithm 1)."""

import torch
from torch import Tensor

from temper.attacks.losses import Loss, cross_entropy, flipped
from temper.attacks.pgd import Model, input_gradient
from temper.threat import Norm, project, random_point, rows, steepest_step

MOMENTUM = 0.75  # weight of the new step against the last move
RHO = 0.75  # the step is halved when fewer than this share of steps raised the loss
L1_START = 0.2  # share of coordinates that the first L1 steps move


def checkpoints(steps: int, norm: Norm) -> list[int]:
    """The iterations after which the step size is reconsidered.

    Ever shorter periods for Linf and L2 (arXiv:2003.01690, section 3.1), a constant one for L1 (arXiv:2103.01208).
    """
    if norm == "L1":
        period = max(int(0.04 * steps), 1)
        return list(range(period, steps, period))
    first, decrease, shortest = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    points, period = [first], first
    while points[-1] < steps:
        period = max(period - decrease, shortest)
        points.append(points[-1] + period)
    return [point for point in points if point <= steps]


def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: Tensor | float,
    norm: Norm,
    *,
    steps: int,
    keys: Tensor | None,
    loss: Loss = cross_entropy,
    keep_flips: bool = False,
) -> Tensor:
    """Climb the loss by ``steps`` steps whose size needs no tuning.

    Costs ``steps + 1`` forward and ``steps`` backward passes.

    Args:
        model: maps images float [N, ...] in [0, 1] to logits [N, K]; see :func:`temper.attacks.crafting.crafting`.
        x: clean images; y: labels int64 [N] to get away from.
        eps: radius of the ball, one for all or a tensor [N].
        norm: Linf, L2 or L1.
        steps: number of steps, at least 1.
        keys: the samples' random streams, int64 [N], for a random start; None starts at ``x``.
        loss: what to climb.
        keep_flips: return the first iterate that was seen to flip the prediction, where one was; the iterate of the
            highest loss otherwise.

    Returns:
        Images of the shape of ``x``, inside ball and box.
    """
    batch, size = len(x), x.shape[1:].numel()
    radius = torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(batch)
    longest = radius if norm == "L1" else 2 * radius
    length = longest.clone()
    sparsity = torch.full((batch,), 1 - L1_START, device=x.device)
    support = torch.full((batch,), float(size), device=x.device)

    moved = x if keys is None else random_point(x, eps, norm, keys)
    previous = best = kept = moved
    found = torch.zeros(batch, dtype=torch.bool, device=x.device)
    best_loss = torch.full((batch,), -torch.inf, device=x.device)
    best_gradient = gradient = torch.zeros_like(x)
    last_loss = best_loss
    rises = torch.zeros(batch, device=x.device)
    halved = torch.ones(batch, dtype=torch.bool, device=x.device)
    best_at_checkpoint = best_loss
    points, last_point = checkpoints(steps, norm), 0

    for step in range(steps + 1):
        if step < steps:
            logits, losses, gradient = input_gradient(model, moved, y, loss)
        else:  # the last iterate is only judged
            with torch.no_grad():
                logits = model(moved)
                losses = loss(logits, y)
        if keep_flips:
            new = flipped(logits, y) & ~found
            kept, found = torch.where(rows(new, x), moved, kept), found | new
            if found.all():
                return kept
        better = losses > best_loss
        best = torch.where(rows(better, x), moved, best)
        best_gradient = torch.where(rows(better, x), gradient, best_gradient)
        best_loss = torch.where(better, losses, best_loss)
        if step > 0:
            rises += losses > last_loss
        last_loss = losses
        if step == steps:
            break

        if step in points:
            if norm == "L1":
                now = (best != x).flatten(1).sum(1).to(support.dtype)
                stuck = now / support.clamp_min(1) < 0.95  # the support still shrinks: restart with long steps
                length = torch.where(stuck, longest, (length / 1.5).clamp_min(longest / 10))
                sparsity = 1 - (now / size / 1.5).clamp(1 / size, 1)
                support = now
            else:
                few = rises < RHO * (step - last_point)
                still = ~halved & (best_loss <= best_at_checkpoint)
                stuck = few | still
                length = torch.where(stuck, length / 2, length)
                halved, best_at_checkpoint = stuck, best_loss
            moved = torch.where(rows(stuck, x), best, moved)
            previous = torch.where(rows(stuck, x), best, previous)
            gradient = torch.where(rows(stuck, x), best_gradient, gradient)
            rises, last_point = torch.zeros_like(rises), step

        target = project(x, moved + rows(length, x) * steepest_step(gradient, norm, sparsity), eps, norm)
        if norm != "L1" and step > 0:
            target = project(x, moved + MOMENTUM * (target - moved) + (1 - MOMENTUM) * (moved - previous), eps, norm)
        previous, moved = moved, target
    return torch.where(rows(found, x), kept, best)
