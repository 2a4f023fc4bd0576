"""FMN, fast minimum-norm: shrinks and widens a ball around the boundary while it searches it (Pintor et al. 2021,
arXiv:2102.12827, algorithm 1)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from temper.attacks.attack import Answer, Attack, Model, Problem, State, climb
from temper.attacks.ball import distance, project, rows, steepest_step, within_box
from temper.attacks.losses import Loss, logit_difference
from temper.attacks.nearest import TINY, begin, keep_nearer, near_start
from temper.threat import NORMS, Norm


@dataclass(frozen=True)
class FMN(Attack):
    """Climbs the logit difference inside a ball that shrinks at every flip and grows where there is none.

    Attributes:
        length: the first step's, in L2 and pixel units of [0, 1]; steps shrink to a hundredth of it.
        gamma: the ball's first change of size as a share of its radius; shrinks to a fiftieth of it.
        climbs: the logit difference, to any class or to ``Problem.target``.
    """

    nearest = True

    length: float = 1.0
    gamma: float = 0.05
    climbs: Loss = logit_difference

    def begin(self, problem: Problem) -> State:
        """See :class:`Attack`; knows no limit but the box."""
        return begin(problem, near_start(problem)) | {"radius": problem.x.new_full((len(problem.x),), torch.inf)}

    def update(self, state: State, answer: Answer, norm: Norm, judge: Model) -> None:
        """See :class:`Attack`."""
        assert answer.gradient is not None
        assert answer.losses is not None
        x, moved, radius = state["x"], state["query"], state["radius"]
        flips = keep_nearer(state, moved, answer.logits, norm)
        gamma = self._annealed(self.gamma, 0.02, state)
        # Until the first flip the radius is what a linear model would need. The paper takes just that, and of pixels at
        # the faces of the box too; rounding and clipping would keep some boundaries out of reach for ever.
        gradient = within_box(answer.gradient, moved)
        slope = distance(gradient, NORMS[norm].dual).clamp_min(TINY)
        guess = distance(moved - x, norm) + answer.losses.abs().to(x.dtype) / slope
        wider = torch.where(state["distance"].isfinite(), radius, guess) * (1 + gamma)
        narrower = torch.minimum(radius * (1 - gamma), state["distance"])
        state["radius"] = torch.where(flips, narrower, wider)
        step = rows(self.lengths(state, norm), x) * steepest_step(gradient, "L2")
        state["query"] = project(x, moved + step, state["radius"], norm)
        state["step"] = state["step"] + 1

    def loss(self, logits: Tensor, state: State) -> Tensor:
        """See :class:`Attack`."""
        return climb(self.climbs, logits, state)

    def lengths(self, state: State, norm: Norm) -> Tensor:
        """L2 lengths of the next steps, in pixel units of [0, 1]: [N]."""
        return self._annealed(self.length, 0.01, state)

    def _annealed(self, first: float, last: float, state: State) -> Tensor:
        """A cosine from ``first`` down to the share ``last`` of it at the end of the run: [N]."""
        progress = state["step"].to(state["x"].dtype) / self.steps
        return first * (last + (1 - last) * (1 + torch.cos(math.pi * progress)) / 2)
