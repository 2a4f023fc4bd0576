"""Norm balls inside the pixel box [0, 1]: measure, project, step, draw.

Shapes: images are float [N, ...] with values in [0, 1]; ``eps`` is a float or a float tensor [N], in pixel units of
[0, 1]. Every function works sample by sample.
"""

from typing import assert_never, overload

import torch
from torch import Tensor

from temper.core import randomness
from temper.threat import NORMS, Norm


@overload
def rows(values: Tensor, like: Tensor) -> Tensor: ...
@overload
def rows(values: float, like: Tensor) -> float: ...
def rows(values: Tensor | float, like: Tensor) -> Tensor | float:
    """Shape a per-sample tensor [N] so that it broadcasts over images ``like`` [N, ...]; floats pass through.

    Numbers take the dtype of ``like``: a float64 radius must not turn float32 images into float64 ones.
    """
    if not isinstance(values, Tensor) or not values.dim():
        return values
    if values.is_floating_point():
        values = values.to(like.dtype)
    return values.view(-1, *[1] * (like.dim() - 1))


def distance(delta: Tensor, norm: Norm) -> Tensor:
    """Length of each sample's perturbation: [N, ...] -> [N], in the dtype of ``delta``."""
    flat = delta.flatten(1)
    if norm == "Linf":
        return flat.abs().amax(1)
    return flat.norm(p=NORMS[norm].order, dim=1)


def project(x: Tensor, moved: Tensor, eps: Tensor | float, norm: Norm) -> Tensor:
    """A point of ball and box near ``moved``: the nearest one for Linf and L1.

    For L2 it is the nearest point of the ball, then of the box; clipping moves towards ``x``, so it stays in the
    ball. L1 is projected on the intersection itself, because doing one after the other loses most of the budget
    (Croce and Hein 2021, arXiv:2103.01208, section 3).
    """
    if norm == "Linf":
        return torch.minimum(torch.maximum(moved, x - rows(eps, x)), x + rows(eps, x)).clamp(0, 1)
    delta = moved - x
    if norm == "L2":
        shrink = (eps / distance(delta, norm).clamp_min(1e-12)).clamp_max(1)
        return (x + delta * rows(shrink, x)).clamp(0, 1)
    if norm == "L1":
        return x + _project_l1(x, delta, eps)
    assert_never(norm)


def exact_distance(x: Tensor, tried: Tensor, norm: Norm) -> Tensor:
    """Distance of each image tried: float64 [N], free of float32's rounding."""
    return distance(tried.double() - x.double(), norm)


def into_ball(x: Tensor, tried: Tensor, eps: Tensor, norm: Norm) -> Tensor:
    """Pull images that rounding left a hair outside their ball (eps: float64 [N]) back inside it."""
    reached = exact_distance(x, tried, norm)
    outside = reached > eps
    if not outside.any():
        return tried
    shrink = (eps / reached * (1 - 1e-6)).to(x.dtype)
    # A fixed slack on top, because adding the shrunken step to x rounds again.
    slack = 6e-8 if norm == "Linf" else 0.0
    delta = (tried - x) * rows(shrink, x)
    delta = delta.sign() * (delta.abs() - slack).clamp_min(0)
    return torch.where(rows(outside, x), (x + delta).clamp(0, 1), tried)


def _project_l1(x: Tensor, delta: Tensor, eps: Tensor | float) -> Tensor:
    """The perturbation nearest to ``delta`` with L1 length at most eps and ``x + perturbation`` in the box.

    The answer is sign(delta) * clamp(|delta| - t, 0, room) with the smallest t >= 0 that fits the budget. Its length
    is piecewise linear in t with kinks where a coordinate starts or stops shrinking, so t is found exactly by
    sorting the kinks.
    """
    flat = delta.flatten(1)
    room = torch.where(flat > 0, 1 - x.flatten(1), x.flatten(1)).clamp_min(0)
    size = flat.abs()
    budget = torch.as_tensor(eps, dtype=x.dtype, device=x.device).expand(len(x)).contiguous()
    capped = torch.minimum(size, room)
    # Going down from t = inf, a coordinate starts to count at t = size (slope +1) and is full at t = size - room.
    kinks, order = torch.cat([size, (size - room).clamp_min(0)], 1).sort(1, descending=True)
    slopes = torch.cat([torch.ones_like(size), -torch.ones_like(size)], 1).gather(1, order).cumsum(1)
    lengths = (slopes[:, :-1] * (kinks[:, :-1] - kinks[:, 1:])).cumsum(1)
    lengths = torch.cat([torch.zeros_like(lengths[:, :1]), lengths], 1)
    last = (torch.searchsorted(lengths, budget[:, None], right=True) - 1).clamp_min(0)
    slope = slopes.gather(1, last).clamp_min(1)
    threshold = kinks.gather(1, last) - (budget[:, None] - lengths.gather(1, last)) / slope
    threshold = torch.where(capped.sum(1, keepdim=True) <= budget[:, None], 0, threshold.clamp_min(0))
    return (flat.sign() * torch.minimum((size - threshold).clamp_min(0), room)).view_as(delta)


def steepest_step(gradient: Tensor, norm: Norm, sparsity: Tensor | float = 0.99) -> Tensor:
    """The step of length 1 in ``norm`` that a loss with this gradient rises fastest along: [N, ...] -> [N, ...].

    Linf: signs. L2: the unit gradient. L1: equal signs on the share ``1 - sparsity`` of the largest coordinates
    instead of the single largest, which would need thousands of steps (SLIDE: Tramer and Boneh 2019,
    arXiv:1904.13000, section 4). Where the gradient is zero the step is zero.
    """
    if norm == "Linf":
        return gradient.sign()
    if norm == "L2":
        # The largest coordinate becomes 1 first: the squares of a confident model's tiny gradients underflow.
        largest = distance(gradient, "Linf")
        gradient = gradient / rows(torch.where(largest > 0, largest, 1), gradient)
        return gradient / rows(distance(gradient, "L2").clamp_min(1), gradient)
    if norm != "L1":
        assert_never(norm)
    size = gradient.flatten(1).abs()
    # The threshold is the smallest coordinate that is kept, one at least; zeros never count.
    kept = ((1 - torch.as_tensor(sparsity, device=size.device)) * size.shape[1]).long().clamp(1, size.shape[1])
    ordered = size.sort(1, descending=True).values
    threshold = ordered.gather(1, (kept - 1).expand(len(size))[:, None])
    chosen = gradient.sign() * (size >= threshold).view_as(gradient)
    return chosen / rows(distance(chosen, "L1").clamp_min(1), gradient)


def within_box(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient without the coordinates that already lie on the face of the box it points out of.

    A step along those is clipped away, and with it the share of the step's length that they were given.
    """
    return torch.where(((x <= 0) & (gradient < 0)) | ((x >= 1) & (gradient > 0)), 0, gradient)


def random_point(x: Tensor, eps: Tensor | float, norm: Norm, keys: Tensor) -> Tensor:
    """A random point of ball and box around each sample, drawn from the samples' own streams ``keys`` (int64 [N]).

    Before the box clips it, the perturbation is uniform in the ball for Linf; for L2 and L1 its direction is
    uniform (in the sense of a normal or a Laplace vector) and its length is eps times a uniform number.
    """
    shape = tuple(x.shape[1:])
    if norm == "Linf":
        delta = (2 * randomness.uniform(keys, shape) - 1) * rows(eps, x)
    else:
        raw = randomness.normal(keys, shape)
        if norm == "L1":
            raw = raw.sign() * -torch.log1p(-randomness.uniform(keys, shape))
        length = randomness.uniform(keys + 1, (1,)).flatten() * eps
        delta = raw * rows(length / distance(raw, norm).clamp_min(1e-12), x)
    return project(x, x + delta.to(x.dtype), eps, norm)
