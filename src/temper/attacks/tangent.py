"""The nearest flip by steps to the nearest point of the boundary's tangent plane.

Sequential linear programming (quadratic for L2): where the model is nearly linear around an image, as robust ones are,
a few gradients say where the boundary is nearest.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from temper.attacks.attack import Answer, Attack, Model, Problem, State, climb
from temper.attacks.losses import Loss, logit_difference_targeted
from temper.attacks.nearest import begin, keep_nearer
from temper.threat import Norm, distance, rows, steepest_step, within_box

DUAL: dict[Norm, Norm] = {"Linf": "L1", "L2": "L2", "L1": "Linf"}  # measures gradients
HALVINGS = 16  # of the bracket around a step's radius: far finer than the linear model is right


@dataclass(frozen=True)
class Tangent(Attack):
    """Steps up the logit difference, then takes the step's image back to the smallest ball around ``x`` that still
    reaches the boundary, as far as the present gradient knows.

    With long steps that is the nearest point of the tangent plane; shorter and shorter ones keep it where the plane
    can be trusted, as the boundary bends.

    Attributes:
        longest, shortest: length of the first step and of the last; geometric between. In Linf and L2 as shares of
            the distance to the boundary, in L1 in pixel units of [0, 1] for the pixel of the largest gradient.
        momentum: weight of the gradients before in the direction of a step.
        beyond: how far beyond the plane a step aims, as a share of its distance: a flip must be seen to count.
        climbs: the logit difference, to ``Problem.target`` or to any class.
    """

    nearest = True

    longest: float = 0.5
    shortest: float = 0.05
    momentum: float = 0.5
    beyond: float = 0.005
    v1: bool=True
    v2: bool=True
    v3: bool=True
    factor: float = 2.0
    most: float = 1.0
    climbs: Loss = logit_difference_targeted

    @property
    def targeted(self) -> bool:
        """See :class:`Attack`."""
        return self.climbs is logit_difference_targeted

    def begin(self, problem: Problem) -> State:
        """See :class:`Attack`; knows no limit but the box."""
        return begin(problem) | {
            "direction": torch.zeros_like(problem.x),
            "beyond": problem.x.new_full((len(problem.x),), self.beyond),
        }

    def update(self, state: State, answer: Answer, norm: Norm, judge: Model) -> None:
        """See :class:`Attack`."""
        assert answer.gradient is not None
        assert answer.losses is not None
        x, delta = state["x"], state["query"] - state["x"]
        flips = keep_nearer(state, state["query"], answer.logits, norm)
        beyond = torch.where(flips, state["beyond"] / self.factor, state["beyond"] * self.factor)
        state["beyond"] = beyond.clamp(self.beyond, self.most)
        # Only the plane counts, not the model's scale, and a confident model's gradients are tiny.
        scale = distance(answer.gradient, "Linf").clamp_min(1e-30)
        normal, value = answer.gradient / rows(scale, x), answer.losses.to(x.dtype) / scale
        state["direction"] = torch.lerp(normal, state["direction"], self.momentum)
        length = self._length(state["step"], x)
        if norm != "L1":
            length = length * torch.maximum(
                distance(delta, norm), value.abs() / distance(normal, DUAL[norm]).clamp_min(1e-30)
            )
        direction = state["direction"]
        if self.v1 and norm != "Linf":
            direction = within_box(direction, state["query"])
        up = _uphill(direction, norm)
        lost = ~state["distance"].isfinite()
        if self.v2:
            newton = value.abs() / (normal * up).flatten(1).sum(1).clamp_min(1e-3) * 1.05
            length = torch.where(lost, newton, length)
        moved = delta + rows(length, x) * up
        needed = ((normal * delta).flatten(1).sum(1) - value) * (1 + state["beyond"])
        if self.v2:
            needed = torch.where(lost, torch.inf, needed)
        size = distance(moved, "L2" if norm == "L2" else "Linf").clamp_min(1e-30)
        low = (1 - 2 * length / size).clamp_min(0) if self.v3 else torch.zeros_like(needed)
        state["query"] = (x + _taken_back(moved, x, normal, needed, norm, low)).clamp(0, 1)
        state["step"] = state["step"] + 1

    def loss(self, logits: Tensor, state: State) -> Tensor:
        """See :class:`Attack`."""
        return climb(self.climbs, logits, state)

    def _size(self, delta: Tensor, value: Tensor, normal: Tensor, norm: Norm) -> Tensor:
        """Roughly the distance of the boundary from x."""
        return torch.maximum(distance(delta, norm), value.abs() / distance(normal, DUAL[norm]).clamp_min(1e-30))

    def _length(self, step: Tensor, like: Tensor) -> Tensor:
        """How far to step, after so many steps: [N]."""
        progress = step.to(like.dtype) / max(self.steps - 1, 1)
        return self.longest * (self.shortest / self.longest) ** progress


def _uphill(direction: Tensor, norm: Norm) -> Tensor:
    """Steepest ascent, [N, ...]; in L1 the gradient itself, of which the ball then takes the largest coordinates."""
    if norm == "L1":
        return direction / rows(distance(direction, "Linf").clamp_min(1e-30), direction)
    return steepest_step(direction, norm)


def _taken_back(delta: Tensor, x: Tensor, normal: Tensor, needed: Tensor, norm: Norm, low: Tensor) -> Tensor:
    """The perturbations [N, ...] projected on the smallest ball, then on the box, that leaves them across a plane.

    Projections on balls are one-parameter families (clipping in Linf, scaling in L2, soft thresholds in L1), so the
    radius is found by bisection on that parameter. Where even ``delta`` falls short of the plane, it stays.

    Args:
        delta: float [N, ...]; x: the images they are added to.
        normal: w of the plane, [N, ...].
        needed: smallest w.delta that is across, [N].
    """
    largest = rows(distance(delta, "Linf"), x)

    def projected(share: Tensor) -> Tensor:
        part = rows(share, x)
        if norm == "Linf":
            ball = delta.clamp(-part * largest, part * largest)
        elif norm == "L2":
            ball = part * delta
        else:
            ball = delta.sign() * (delta.abs() - (1 - part) * largest).clamp_min(0)
        return ball.clamp(-x, 1 - x)

    high = torch.ones_like(needed)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        across = (normal * projected(middle)).flatten(1).sum(1) >= needed
        low, high = torch.where(across, low, middle), torch.where(across, middle, high)
    return projected(high)
