"""Projected gradient descent (Madry et al. 2018, arXiv:1706.06083)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from temper.attacks.attack import Answer, Attack, Model, Problem, State, climb
from temper.attacks.ball import project, random_point, rows, steepest_step, within_box
from temper.attacks.losses import Loss, cross_entropy
from temper.threat import NORMS, Norm


@dataclass(frozen=True)
class PGD(Attack):
    """Climbs the loss by steps of steepest ascent inside ball and box, and returns the last iterate.

    Costs ``steps`` forward and backward passes.

    Attributes:
        step_size: length of a step as a share of eps, so that it follows a schedule; 2.5 / steps by default, which
            reaches any point of the ball and back.
        climbs: the loss.
    """

    norms: ClassVar[tuple[Norm, ...]] = tuple(NORMS)  # ball and steepest step are all it asks of a norm

    step_size: float | None = None
    climbs: Loss = cross_entropy

    def begin(self, problem: Problem) -> State:
        """See :class:`Attack`."""
        x, eps = problem.x, problem.eps
        start = x if problem.keys is None else random_point(x, eps, problem.norm, problem.keys)
        state = {"x": x, "y": problem.y, "eps": eps, "query": start, "best": start}
        return state | {"step": problem.y.new_zeros(len(x))}

    def update(self, state: State, answer: Answer, norm: Norm, judge: Model) -> None:
        """See :class:`Attack`."""
        assert answer.gradient is not None
        x, eps, moved, gradient = state["x"], state["eps"], state["query"], answer.gradient
        length = eps * (2.5 / self.steps if self.step_size is None else self.step_size)
        if norm != "Linf":  # there every coordinate has its own length, so that clipping costs the others nothing
            gradient = within_box(gradient, moved)
        state["query"] = state["best"] = project(x, moved + rows(length, x) * steepest_step(gradient, norm), eps, norm)
        state["step"] = state["step"] + 1

    def loss(self, logits: Tensor, state: State) -> Tensor:
        """See :class:`Attack`."""
        return climb(self.climbs, logits, state)
