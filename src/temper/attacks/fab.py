"""FAB, fast adaptive boundary: walks along the decision boundary to the nearest flip (Croce and Hein 2020,
arXiv:1907.02044, algorithm 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from temper.attacks.attack import Answer, Attack, Model, Problem, State, climb
from temper.attacks.ball import distance, random_point, rows
from temper.attacks.hyperplane import step_to_plane
from temper.attacks.losses import logit_difference_targeted
from temper.attacks.nearest import begin, keep_nearer
from temper.threat import Norm


@dataclass(frozen=True)
class FABTargeted(Attack):
    """FAB towards one class, ``Problem.target``.

    Takes the boundary to it for a plane, steps onto it with a bias towards ``x``, and from a flip goes back some way to
    ``x``. In every step one forward pass asks and another judges the new point; one backward pass, however many
    classes.

    Attributes:
        alpha_max: largest weight of the point near ``x`` against the point near the present one.
        eta: how far steps onto the plane are extended, so that they end beyond it.
        beta: share of the way from ``x`` to a flip at which the search goes on.
    """

    nearest = True

    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    @property
    def targeted(self) -> bool:
        """See :class:`Attack`."""
        return True

    def passes(self) -> tuple[int, int]:
        """See :class:`Attack`."""
        forward, backward = super().passes()
        return forward + self.steps, backward

    def begin(self, problem: Problem) -> State:
        """See :class:`Attack`; with keys, at a random point within half of eps."""
        start = problem.x
        if problem.keys is not None:
            # An infinite eps gives noise no scale: clipped to the box, noise without a limit is a black and white image
            # that has nothing to do with x. So such a run starts at x, like the first one.
            radius = torch.where(problem.eps.isfinite(), problem.eps / 2, 0)
            start = random_point(problem.x, radius, problem.norm, problem.keys)
        return begin(problem, start)

    def update(self, state: State, answer: Answer, norm: Norm, judge: Model) -> None:
        """See :class:`Attack`."""
        x, query = state["x"], state["query"]
        keep_nearer(state, query, answer.logits, norm)  # going back, or a random start, may have ended in a flip
        assert answer.gradient is not None
        assert answer.losses is not None
        value = answer.losses.to(answer.gradient.dtype)  # of the boundary at the query: below 0 on the label's side
        new = self._towards_boundary(state, answer.gradient, value, norm)
        back = rows(keep_nearer(state, new, judge(new), norm), x)
        state["query"] = torch.where(back, x + self.beta * (new - x), new)
        state["step"] = state["step"] + 1

    def _towards_boundary(self, state: State, normal: Tensor, value: Tensor, norm: Norm) -> Tensor:
        """The next point: between the query and ``x``, both projected on the plane and a little beyond."""
        x, query = state["x"], state["query"]
        at_x = value + (normal * (x - query)).flatten(1).sum(1)
        step, step_from_x = step_to_plane(query, normal, value, norm), step_to_plane(x, normal, at_x, norm)
        length, length_from_x = distance(step, norm), distance(step_from_x, norm)
        alpha = (length / (length + length_from_x).clamp_min(1e-12)).clamp_max(self.alpha_max)
        return torch.lerp(query + self.eta * step, x + self.eta * step_from_x, rows(alpha, x)).clamp(0, 1)

    def loss(self, logits: Tensor, state: State) -> Tensor:
        """See :class:`Attack`."""
        return climb(logit_difference_targeted, logits, state)
