"""The nearest flip by a few steps towards each of several classes, and many from the nearest flips that they found.

Which class is nearest, and which part of its boundary, shows after a few steps; most of the steps of a long run towards
every class would go into flips that are not the nearest one. (Successive halving in one round: Jamieson and Talwalkar
2016, arXiv:1502.07943.)
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from temper.attacks.attack import Answer, Attack, Model, Problem, State, climb
from temper.attacks.ball import random_point, rows
from temper.attacks.fmn import FMN
from temper.attacks.losses import Loss, logit_difference_targeted
from temper.attacks.nearest import begin
from temper.attacks.tangent import Tangent
from temper.threat import Norm

FINISH = Tangent(22, longest=0.3, shortest=0.02)
INNER = "inner "  # before the names of what a run remembers for itself


@dataclass(frozen=True)
class Scout(FMN):
    """FMN towards one class with steps as long as the ball is wide.

    Steps of a fixed length are short in a large ball and long in a small one; in few steps only those that fit it come
    round the ball. In Linf the cube's half diagonal is its width.

    Attributes:
        length: of the first step, as a share of the ball's width.
    """

    gamma: float = 0.2
    climbs: Loss = logit_difference_targeted

    def lengths(self, state: State, norm: Norm) -> Tensor:
        """See :class:`temper.attacks.fmn.FMN`."""
        diagonal = state["x"][0].numel() ** 0.5  # of the box: no step need be longer
        width = state["radius"] * (diagonal if norm == "Linf" else 1)
        return super().lengths(state, norm) * width.clamp_max(diagonal)


@dataclass(frozen=True)
class Funnel(Attack):
    """Short runs from the image towards the first of the classes, then long ones from the nearest flips found.

    Of the long ones, those of Tangent end very near the part of the boundary that they were led to, and those of FMN
    leave it for a nearer one. Where the short runs found no flip to go on from, the long ones go from the image towards
    the first classes.

    Attributes:
        classes: how many are looked at.
        scouts: the short runs towards each of them from the image, of as many steps each.
        strays: such runs from random points instead, as far as the nearest flip that was found before; from the image
            where there are no keys.
        finishes: the long runs, of as many steps each: from the nearest flip, from the next one, and so on.
        steps: of all runs together.
    """

    nearest = True

    steps: int = field(init=False)
    classes: int = 5
    scouts: tuple[Attack, ...] = (Scout(6),)
    strays: tuple[Attack, ...] = (Scout(6), Tangent(6))
    finishes: tuple[Attack, ...] = (FINISH, FINISH, Scout(22, gamma=0.5), Scout(22, gamma=0.5))

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", self.short * self.shorts + self.kept * self.long)

    @property
    def kept(self) -> int:
        """How many flips are gone on from: one by each long run."""
        return len(self.finishes)

    @property
    def long(self) -> int:
        """Steps of a long run."""
        (steps,) = {each.steps for each in self.finishes}
        return steps

    @property
    def short(self) -> int:
        """Steps of a short run."""
        (steps,) = {each.steps for each in self.shorter}
        return steps

    @property
    def shorter(self) -> tuple[Attack, ...]:
        """The kinds of short runs, in their order: each goes towards all classes before the next one does."""
        return self.scouts + self.strays

    @property
    def shorts(self) -> int:
        """How many short runs there are."""
        return self.classes * len(self.shorter)

    @property
    def attacks(self) -> tuple[Attack, ...]:
        """What its runs are, run by run."""
        return (*(each for each in self.shorter for _ in range(self.classes)), *self.finishes)

    @property
    def targeted(self) -> bool:
        """See :class:`Attack`."""
        return True

    def among(self, classes: int) -> "Funnel":
        """See :class:`Attack`."""
        few = min(self.classes, classes)
        return replace(self, classes=few, finishes=self.finishes[: few * len(self.shorter)])

    def passes(self) -> tuple[int, int]:
        """See :class:`Attack`."""
        return sum(run.passes()[0] for run in self.attacks), self.steps

    def describe(self) -> dict[str, object]:
        """See :class:`Attack`."""
        shorter = {name: [each.describe() for each in getattr(self, name)] for name in ("scouts", "strays")}
        return super().describe() | shorter | {"finishes": [each.describe() for each in self.finishes]}

    def begin(self, problem: Problem) -> State:
        """See :class:`Attack`; knows no limit but the box. Without rivals it goes for the target alone."""
        x, rivals = problem.x, problem.rivals
        if rivals is None:
            assert problem.target is not None
            rivals = problem.target[:, None]
        state = begin(problem, x) | ({} if problem.keys is None else {"keys": problem.keys})
        state |= {
            "rivals": rivals[:, : self.classes],
            "held": x[:, None].repeat_interleave(self.kept, 1),
            "held distance": x.new_full((len(x), self.kept), torch.inf),
            "held target": rivals[:, torch.arange(self.kept, device=x.device) % rivals.shape[1]],
        }
        return state | self._run(state, problem.norm, rivals[:, 0], state["query"])

    def update(self, state: State, answer: Answer, norm: Norm, judge: Model) -> None:
        """See :class:`Attack`."""
        run, asked = self._place(state["step"])
        inner = {name: tensor for name, tensor in state.items() if not name.startswith(INNER)} | {"step": asked}
        inner |= {name.removeprefix(INNER): tensor for name, tensor in state.items() if name.startswith(INNER)}
        after = dict(inner)
        kinds = [*dict.fromkeys(self.attacks)]  # runs of one kind are updated together
        kind = torch.tensor([kinds.index(each) for each in self.attacks], device=run.device)[run]
        for number, attack in enumerate(kinds):
            mask = kind == number
            if mask.any():
                own = dict(inner)
                attack.update(own, answer, norm, judge)
                after = {name: torch.where(rows(mask, tensor), own[name], tensor) for name, tensor in after.items()}
        state["query"], state["step"] = after["query"], state["step"] + 1
        state.update({name: after[name.removeprefix(INNER)] for name in state if name.startswith(INNER)})
        nearer = state[INNER + "distance"] < state["distance"]
        for name in ("best", "distance"):
            state[name] = torch.where(rows(nearer, state[name]), state[INNER + name], state[name])
        over = self._place(state["step"])[0] > run
        if over.any():
            self._hold(state, over & (run < self.shorts))
            self._begin_next(state, over, norm)

    def loss(self, logits: Tensor, state: State) -> Tensor:
        """See :class:`Attack`."""
        return climb(logit_difference_targeted, logits, state)

    def _place(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """Which run a step belongs to, and how many steps of it were before: int64 [N] each."""
        short, long = self.short, self.long
        beyond = step - self.shorts * short
        run = torch.where(beyond < 0, step // short, self.shorts + beyond // long)
        return run, torch.where(beyond < 0, step % short, beyond % long)

    def _run(self, state: State, norm: Norm, target: Tensor, start: Tensor) -> State:
        """What a run remembers for itself, before its first question."""
        problem = Problem(state["x"], state["y"], state["eps"], norm, None, target)
        every = dict.fromkeys(self.attacks)
        fresh = {name: tensor for each in every for name, tensor in each.begin(problem).items()}
        own = [name for name in fresh if name not in ("x", "y", "eps", "step", "query", "target")]
        return {"query": start, "target": target} | {INNER + name: fresh[name] for name in own}

    def _hold(self, state: State, over: Tensor) -> None:
        """Keep the flips of the short runs that are over, if they are among the nearest."""
        length = torch.cat([state["held distance"], state[INNER + "distance"][:, None]], 1)
        length, order = length.sort(dim=1, stable=True)
        images = torch.cat([state["held"], state[INNER + "best"][:, None]], 1)
        targets = torch.cat([state["held target"], state["target"][:, None]], 1).gather(1, order)
        images = images[torch.arange(len(order), device=order.device)[:, None], order]
        for name, held in (("held", images), ("held distance", length), ("held target", targets)):
            state[name] = torch.where(rows(over, held), held[:, : self.kept], state[name])

    def _begin_next(self, state: State, over: Tensor, norm: Norm) -> None:
        """The next run of the rows whose run is over: towards a class, or from one of the flips held."""
        run, _ = self._place(state["step"])
        every, scouts = torch.arange(len(run), device=run.device), run < self.shorts
        rival = run % self.classes
        place = (run - self.shorts).clamp(0, self.kept - 1)
        target = torch.where(scouts, state["rivals"][every, rival], state["held target"][every, place])
        length = torch.where(scouts, torch.inf, state["held distance"][every, place])
        start = torch.where(rows(length.isfinite(), state["x"]), state["held"][every, place], state["x"])
        fresh = self._run(state, norm, target, start) | {INNER + "best": start, INNER + "distance": length}
        stray = scouts & (run >= self.classes * len(self.scouts))
        if "keys" in state and stray.any():
            nearest = state["held distance"][:, 0]
            radius = torch.where(nearest.isfinite(), nearest, 0)
            point = random_point(state["x"], radius, norm, state["keys"] + 2 * run)  # it draws from the next key, too
            fresh["query"] = torch.where(rows(stray, point), point, start)
        for name, tensor in fresh.items():
            state[name] = torch.where(rows(over, tensor), tensor, state[name])
