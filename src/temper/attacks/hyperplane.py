"""The nearest point of a hyperplane inside the pixel box, in Linf, L2 or L1 (the projections that FAB is built of:
Croce and Hein 2020, arXiv:1907.02044, appendix)."""

import torch
from torch import Tensor

from temper.threat import Norm

TINY = 1e-30  # stands in for 0 in denominators


def step_to_plane(x: Tensor, normal: Tensor, value: Tensor, norm: Norm) -> Tensor:
    """The shortest perturbation that takes each image onto its plane without leaving the box.

    The plane is given by its value at ``x`` and not by an offset from the origin, which would have to be subtracted
    again from a sum of the same size and would cost digits just where an attack needs them, near the plane.

    Args:
        x: float [N, ...] in [0, 1].
        normal: w, float [N, ...].
        value: w.x + b, float [N], at each image.
        norm: in which the perturbation is short.

    Returns:
        delta [N, ...] with w.(x + delta) + b = 0. Where the plane misses the box: the step to the corner that comes
        closest to it. Pixels of weight 0 stay as they are.
    """
    flat, value = x.flatten(1), value[:, None].to(x.dtype)
    slope = normal.flatten(1) * -value.sign()  # up is towards the plane
    size = slope.abs()
    # The largest weight becomes 1 first: the squares of a confident model's tiny gradients underflow.
    largest = size.amax(1, keepdim=True).clamp_min(TINY)
    size, gap = size / largest, value.abs() / largest
    # No pixel of the shortest step moves away from the plane, and none goes beyond its face of the box.
    room = torch.where(slope > 0, 1 - flat, flat).clamp_min(0) * (size > 0)
    if norm == "L1":
        moves = _largest_weights_first(size, room, gap)
    else:
        moves = _together(size, room, gap, torch.ones_like(size) if norm == "Linf" else size)
    return (slope.sign() * moves).view_as(x)


def _together(size: Tensor, room: Tensor, gap: Tensor, rate: Tensor) -> Tensor:
    """Moves min(t * rate, room) with the smallest t for which their sum weighted by ``size`` closes the gap.

    This is optimal with rate 1 for Linf, where all pixels move alike, and with the weights as rates for L2, where the
    pixels of an optimum move in proportion to their weights unless their faces stop them. Were it known which pixels
    reach their faces, t would be a quotient. So start with those that have no room, and add those that t takes beyond
    theirs: t only grows from round to round, so they stay full, and when none is added t is exact. Less than ten
    rounds are usual, and no row's result depends on how many the others need.
    """
    reach, gain = size * room, size * rate
    full = room <= 0
    while True:
        missing = gap - torch.where(full, reach, 0).sum(1, keepdim=True)
        t = missing / torch.where(full, 0, gain).sum(1, keepdim=True).clamp_min(TINY)
        grown = full | (t * rate >= room)
        if torch.equal(grown, full):
            return torch.where(full, room, t.clamp_min(0) * rate)
        full = grown


def _largest_weights_first(size: Tensor, room: Tensor, gap: Tensor) -> Tensor:
    """Moves of the least sum: the pixel of the largest weight goes all the way, then the next, until the gap is
    closed."""
    size, order = size.sort(1, descending=True)
    room = room.gather(1, order)
    closed = (size * room).cumsum(1)
    missing = gap - torch.cat([torch.zeros_like(gap), closed[:, :-1]], 1)
    moves = torch.minimum((missing / size).clamp_min(0), room)
    return torch.zeros_like(moves).scatter(1, order, torch.where(size > 0, moves, 0))
