"""The nearest flip by steps to the nearest point of the boundary's tangent plane.

Sequential linear programming (quadratic in L2) in a shrinking trust region: where the model is nearly linear around an
image, as robust ones are, a few gradients say where the boundary is nearest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from temper.attacks.attack import Answer, Attack, Model, Problem, State, climb
from temper.attacks.ball import distance, rows, steepest_step, within_box
from temper.attacks.losses import Loss, logit_difference_targeted
from temper.attacks.nearest import TINY, begin, keep_nearer, near_start
from temper.threat import NORMS, Norm

# How far beyond the plane a step aims, as a share of the plane's distance: a flip must be seen to count. Doubled after
# every miss and halved after every flip, between these two, so that a boundary that bends away is crossed all the same.
BEYOND = (0.005, 1.0)
PATIENCE = 4  # misses from the start after which the search first looks for any flip at all
HALVINGS = 16  # of the bracket around a step's radius: far finer than the linear model is right


@dataclass(frozen=True)
class Tangent(Attack):
    """Steps up the logit difference, then takes the step's end back to the smallest ball around ``x`` that, as far as
    the present gradient knows, still reaches the boundary.

    With long steps that is the nearest point of the tangent plane; ever shorter ones keep it where the plane can be
    trusted although the boundary bends.

    Attributes:
        longest, shortest: length of the first step and of the last, geometric between: in Linf and L2 as a share of
            the distance from ``x``; in L1 in pixel units of [0, 1], the change of the pixel with the largest gradient.
        momentum: weight of the directions before in the direction of a step.
        climbs: the logit difference, to ``Problem.target`` or to any class.
    """

    nearest = True

    longest: float = 0.5
    shortest: float = 0.05
    momentum: float = 0.5
    climbs: Loss = logit_difference_targeted

    def begin(self, problem: Problem) -> State:
        """See :class:`Attack`; knows no limit but the box."""
        x = problem.x
        # The first question is about x: it misses, and what the first step aims beyond is the least again.
        beyond = x.new_full((len(x),), BEYOND[0] / 2)
        return begin(problem, near_start(problem)) | {"direction": torch.zeros_like(x), "beyond": beyond}

    def update(self, state: State, answer: Answer, norm: Norm, judge: Model) -> None:
        """See :class:`Attack`."""
        assert answer.gradient is not None
        assert answer.losses is not None
        x, delta = state["x"], state["query"] - state["x"]
        flips = keep_nearer(state, state["query"], answer.logits, norm)
        state["beyond"] = (state["beyond"] * torch.where(flips, 0.5, 2.0)).clamp(*BEYOND)
        # Only the plane counts and not its steepness, which may be tiny where the model is confident.
        scale = distance(answer.gradient, "Linf").clamp_min(TINY)
        normal, value = answer.gradient / rows(scale, x), answer.losses.to(x.dtype) / scale
        state["direction"] = torch.lerp(normal, state["direction"], self.momentum)
        up = _uphill(state["direction"], state["query"], norm)

        length = self._length(state["step"], x)
        if norm != "L1":
            to_plane = value.abs() / distance(normal, NORMS[norm].dual).clamp_min(1)  # at least 1, unless all is 0
            length = length * torch.maximum(distance(delta, norm), to_plane)
        further = 1 + state["beyond"]
        needed = ((normal * delta).flatten(1).sum(1) - value) * further
        # A search that is lost walks on from plane to plane without going back.
        lost = ~state["distance"].isfinite() & (state["step"] >= PATIENCE)
        ahead = further * value.abs() / (normal * up).flatten(1).sum(1).clamp_min(1e-3)
        length, needed = torch.where(lost, ahead, length), torch.where(lost, torch.inf, needed)
        moved = delta + rows(length, x) * up
        state["query"] = (x + _taken_back(moved, x, normal, needed, 2 * length, norm)).clamp(0, 1)
        state["step"] = state["step"] + 1

    def loss(self, logits: Tensor, state: State) -> Tensor:
        """See :class:`Attack`."""
        return climb(self.climbs, logits, state)

    def _length(self, step: Tensor, like: Tensor) -> Tensor:
        """How far to step, after so many steps: [N]."""
        progress = step.to(like.dtype) / max(self.steps - 1, 1)
        return self.longest * (self.shortest / self.longest) ** progress


def _uphill(direction: Tensor, at: Tensor, norm: Norm) -> Tensor:
    """Steepest ascent from ``at``, [N, ...]; in L1 along the gradient, of which the ball then keeps the largest
    coordinates."""
    direction = within_box(direction, at)
    if norm == "L1":
        return direction / rows(distance(direction, "Linf").clamp_min(TINY), direction)
    return steepest_step(direction, norm)


def _taken_back(delta: Tensor, x: Tensor, normal: Tensor, needed: Tensor, farthest: Tensor, norm: Norm) -> Tensor:
    """The perturbations projected on the smallest ball that leaves them across a plane, and on the box: [N, ...].

    Projections on balls are one-parameter families: clipped in Linf, scaled in L2, soft-thresholded in L1. So the ball
    is found by bisection on that parameter, whatever its radius. Where even ``delta`` falls short it stays.

    Args:
        delta: float [N, ...]; x: the images that they are added to.
        normal: w of the plane, [N, ...].
        needed: smallest w.delta that is across, [N].
        farthest: by how much clip, length or threshold may change at most, [N].
    """
    size = distance(delta, "L2" if norm == "L2" else "Linf")

    def projected(share: Tensor) -> Tensor:
        if norm == "L2":
            ball = rows(share, x) * delta
        elif norm == "Linf":
            limit = rows(share * size, x)
            ball = delta.clamp(-limit, limit)
        else:
            ball = delta.sign() * (delta.abs() - rows((1 - share) * size, x)).clamp_min(0)
        return ball.clamp(-x, 1 - x)

    low, high = (1 - farthest / size.clamp_min(TINY)).clamp_min(0), torch.ones_like(size)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        across = (normal * projected(middle)).flatten(1).sum(1) >= needed
        low, high = torch.where(across, low, middle), torch.where(across, middle, high)
    return projected(high)
