"""Auto-PGD: PGD with momentum that chooses its own step size (Croce and Hein 2020, arXiv:2003.01690, algorithm 1)
and its sparse form for L1 (Croce and Hein 2021, arXiv:2103.01208, algorithm 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from temper.attacks.attack import Answer, Attack, Model, Problem, State, climb
from temper.attacks.ball import project, random_point, rows, steepest_step
from temper.attacks.losses import Loss, cross_entropy
from temper.threat import Norm

MOMENTUM = 0.75  # weight of the new step against the last move
RHO = 0.75  # the step is halved when fewer than this share of steps raised the loss
L1_START = 0.2  # share of coordinates that the first L1 steps move
WIDE = ((0.0, 3.0), (0.3, 2.0), (0.6, 1.0))  # from which share of a wide L1 run on which multiple of eps is searched


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


@dataclass(frozen=True)
class APGD(Attack):
    """Climbs the loss by steps whose size needs no tuning, and returns the iterate of the highest loss.

    Costs ``steps + 1`` forward and ``steps`` backward passes. Its state notes how much the gradient promised the first
    step to raise the loss, and by how much it rose.

    Attributes:
        climbs: the loss.
        wide: in L1, search balls of 3 and 2 times the radius first and start the next smaller one from what was found
            (arXiv:2103.01208, section 3.3): sparse steps find their way better there. No effect in other norms.
    """

    climbs: Loss = cross_entropy
    wide: bool = False

    @property
    def queries(self) -> int:
        """The last iterate is only judged."""
        return self.steps + 1

    def begin(self, problem: Problem) -> State:
        """See :class:`Attack`."""
        x, norm = problem.x, problem.norm
        _, widths = self._phases(norm)
        eps = problem.eps * widths[0]
        start = x if problem.keys is None else random_point(x, eps, norm, problem.keys)
        lowest = torch.full((len(x),), -torch.inf, device=x.device)
        state = {
            "x": x,
            "y": problem.y,
            "eps": problem.eps,
            "radius": eps,
            "length": _longest(eps, norm),
            "step": problem.y.new_zeros(len(x)),
            "query": start,
            "previous": start,
            "best": start,
            "best_gradient": torch.zeros_like(x),
            "best_loss": lowest,
            "last_loss": lowest,
            "rises": torch.zeros_like(lowest),
            "promised": torch.zeros_like(lowest),
            "risen": torch.zeros_like(lowest),
        }
        if norm == "L1":
            state["sparsity"] = torch.full_like(lowest, 1 - L1_START)
            state["support"] = torch.full_like(lowest, float(x.shape[1:].numel()))
        else:
            state["halved"] = torch.ones_like(lowest, dtype=torch.bool)
            state["best_at_checkpoint"] = lowest
        if problem.target is not None:
            state["target"] = problem.target
        return state

    def update(self, state: State, answer: Answer, norm: Norm, judge: Model) -> None:
        """See :class:`Attack`."""
        assert answer.losses is not None
        self._judge(state, answer)
        if answer.gradient is None:  # the end of a run
            return
        gradient = self._reconsider(state, answer.gradient, norm)
        x, moved, radius, previous = state["x"], state["query"], state["radius"], state["previous"]
        step = rows(state["length"], x) * steepest_step(gradient, norm, state.get("sparsity", 0.0))
        target = project(x, moved + step, radius, norm)
        if norm != "L1":
            momentum = moved + MOMENTUM * (target - moved) + (1 - MOMENTUM) * (moved - previous)
            target = torch.where(rows(state["step"] > 0, x), project(x, momentum, radius, norm), target)
        first = state["step"] == 0
        if first.any():
            promised = (gradient * (target - moved)).flatten(1).sum(1)
            state["promised"] = torch.where(first, promised.to(state["promised"].dtype), state["promised"])
        state["previous"], state["query"], state["step"] = moved, target, state["step"] + 1
        starts, widths = self._phases(norm)
        for start, width in zip(starts[1:], widths[1:], strict=True):
            self._narrow(state, state["step"] == start, width)

    def loss(self, logits: Tensor, state: State) -> Tensor:
        """See :class:`Attack`."""
        return climb(self.climbs, logits, state)

    def _judge(self, state: State, answer: Answer) -> None:
        """Keep the iterate of the highest loss, and count the steps that raised it."""
        x, losses = state["x"], answer.losses
        assert losses is not None
        better = losses > state["best_loss"]
        state["best"] = torch.where(rows(better, x), state["query"], state["best"])
        if answer.gradient is not None:
            state["best_gradient"] = torch.where(rows(better, x), answer.gradient, state["best_gradient"])
        state["best_loss"] = torch.where(better, losses, state["best_loss"])
        state["rises"] = state["rises"] + ((losses > state["last_loss"]) & (state["step"] > 0))
        state["risen"] = torch.where(state["step"] == 1, losses - state["last_loss"], state["risen"])
        state["last_loss"] = losses

    def _reconsider(self, state: State, gradient: Tensor, norm: Norm) -> Tensor:
        """At a row's checkpoint, choose its step length anew; the gradient to step along, of the best point where
        the search goes back to it."""
        starts, _ = self._phases(norm)
        points, periods = _timetable(self.steps, norm, starts)
        step = state["step"]
        now = torch.tensor(points, device=step.device)[step]
        if not now.any():
            return gradient
        x, length = state["x"], state["length"]
        if norm == "L1":
            size = x.shape[1:].numel()
            moved = (state["best"] != x).flatten(1).sum(1).to(state["support"].dtype)
            stuck = moved / state["support"].clamp_min(1) < 0.95  # the support still shrinks: restart with long steps
            longest = _longest(state["radius"], norm)
            shorter = (length / 1.5).clamp_min(longest / 10)
            state["length"] = torch.where(now, torch.where(stuck, longest, shorter), length)
            sparsity = 1 - (moved / size / 1.5).clamp(1 / size, 1)
            state["sparsity"] = torch.where(now, sparsity, state["sparsity"])
            state["support"] = torch.where(now, moved, state["support"])
        else:
            few = state["rises"] < RHO * torch.tensor(periods, device=step.device)[step]
            still = ~state["halved"] & (state["best_loss"] <= state["best_at_checkpoint"])
            stuck = few | still
            state["length"] = torch.where(now & stuck, length / 2, length)
            state["halved"] = torch.where(now, stuck, state["halved"])
            state["best_at_checkpoint"] = torch.where(now, state["best_loss"], state["best_at_checkpoint"])
        state["rises"] = torch.where(now, 0, state["rises"])
        back = rows(now & stuck, x)
        state["query"] = torch.where(back, state["best"], state["query"])
        state["previous"] = torch.where(back, state["best"], state["previous"])
        return torch.where(back, state["best_gradient"], gradient)

    def _narrow(self, state: State, now: Tensor, width: float) -> None:
        """Begin anew in a smaller ball from the best point found in the wider one (L1 only)."""
        if not now.any():
            return
        x = state["x"]
        radius = torch.where(now, state["eps"] * width, state["radius"])
        start = project(x, state["best"], radius, "L1")
        for name in ("query", "previous", "best"):
            state[name] = torch.where(rows(now, x), start, state[name])
        size = float(x.shape[1:].numel())
        support = (start != x).flatten(1).sum(1).to(state["support"].dtype)
        sparsity = 1 - (support / size / 1.5).clamp(1 / size, 1)  # the start's own, as in the authors' code
        state["radius"] = radius
        state["length"] = torch.where(now, _longest(radius, "L1"), state["length"])
        for name, value in {"best_loss": -torch.inf, "last_loss": -torch.inf, "rises": 0.0}.items():
            state[name] = torch.where(now, value, state[name])
        for name, own in {"sparsity": sparsity, "support": support}.items():
            state[name] = torch.where(now, own, state[name])

    def _phases(self, norm: Norm) -> tuple[list[int], list[float]]:
        """First step of every phase, and the multiple of eps that it searches."""
        if norm != "L1" or not self.wide or self.steps < 10:
            return [0], [1.0]
        return [int(share * self.steps) for share, _ in WIDE], [width for _, width in WIDE]


def _longest(radius: Tensor, norm: Norm) -> Tensor:
    return radius.clone() if norm == "L1" else 2 * radius


def _timetable(steps: int, norm: Norm, starts: list[int]) -> tuple[list[bool], list[int]]:
    """For every step, whether it is a checkpoint, and how many steps after the one before."""
    points, periods = [False] * (steps + 1), [0] * (steps + 1)
    for start, end in zip(starts, [*starts[1:], steps], strict=True):
        before = 0
        for point in checkpoints(end - start, norm):
            if point < end - start or end == steps:
                points[start + point], periods[start + point] = True, point - before
                before = point
    return points, periods
