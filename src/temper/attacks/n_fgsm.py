"""N-FGSM: a step from noise larger than the ball, with no projection (de Jorge et al. 2022, arXiv:2202.01181)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from temper.attacks.attack import Answer, Model, Problem, State
from temper.attacks.ball import rows, steepest_step
from temper.attacks.pgd import PGD
from temper.core import randomness
from temper.threat import Norm

NOISE = 2.0  # k of the paper: noise reaches so many eps


@dataclass(frozen=True)
class NFGSM(PGD):
    """Adds noise from the cube of half side 2 eps, and then one step along the gradient's signs; only the box clips.

    For training alone: its images lie up to 2 eps + step from the clean ones, outside the ball that is trained for.
    """

    norms: ClassVar[tuple[Norm, ...]] = ("Linf",)  # the noise and its size are written for it

    def begin(self, problem: Problem) -> State:
        """See :class:`Attack`."""
        x, state = problem.x, super().begin(problem)
        if problem.keys is not None:
            noise = 2 * randomness.uniform(problem.keys, tuple(x.shape[1:])) - 1
            state["query"] = state["best"] = (x + noise.to(x.dtype) * rows(NOISE * problem.eps, x)).clamp(0, 1)
        return state

    def update(self, state: State, answer: Answer, norm: Norm, judge: Model) -> None:
        """See :class:`Attack`."""
        assert answer.gradient is not None
        length = state["eps"] * (1.0 if self.step_size is None else self.step_size)
        moved: Tensor = state["query"] + rows(length, state["x"]) * steepest_step(answer.gradient, norm)
        state["query"] = state["best"] = moved.clamp(0, 1)
        state["step"] = state["step"] + 1
