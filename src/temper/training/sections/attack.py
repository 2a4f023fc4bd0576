"""The inner attack, and how far it may go, when."""

from operator import not_
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from tyro.constructors import PrimitiveConstructorSpec

from temper.core.calls import Count
from temper.errors import ArgumentError
from temper.threat import parse_norms, parse_radii
from temper.training.inner_attacks import INNER_ATTACKS, InnerAttackFacts
from temper.training.schedules import SCHEDULES
from temper.training.sections.section import Section, unused

if TYPE_CHECKING:
    AttackName = str
    ScheduleName = str
else:  # choices of the command line, from the tables that say what there is
    AttackName, ScheduleName = Literal[tuple(INNER_ATTACKS)], Literal[tuple(SCHEDULES)]

Norms = Annotated[str, BeforeValidator(parse_norms)]
Epsilon = Annotated[
    float | tuple[float, ...],
    BeforeValidator(parse_radii),
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|N/255[,...]",
        instance_from_str=lambda words: parse_radii(words[0]),
        is_instance=lambda value: isinstance(value, float | int | tuple),
        str_from_instance=lambda value: [",".join(map(str, value)) if isinstance(value, tuple) else str(value)],
    ),
]


STEPS = 7  # of attacks that have several


class AttackConfig(Section):
    """The inner attack that crafts the training images."""

    name: AttackName = "apgd"
    """"apgd" (no step size to tune; the paper's) or "pgd"; in a single step "rs-fgsm" or "n-fgsm", for Linf."""
    steps: Count | None = None
    """Steps per training image while epsilon is above 0 (7; single-step attacks have 1): each a forward and a backward
    pass (apgd: a forward more)."""
    step_size: float | None = Field(None, ge=1e-9, le=1e6)
    """PGD's step as a share of the epsilon in force; 2.5 / steps by default; rs-fgsm 1.25, n-fgsm 1."""
    steps_follow: bool = Field(False, exclude_if=not_)
    """Take fewer steps while less than eps is in force: that share of them, rounded up."""
    random_start: bool | None = None
    """Start at a random point of the ball; by default PGD and TRADES do, APGD does not."""
    union: Literal["e-at", "max", "avg"] | None = Field(None, exclude_if=unused)
    """Of several norms: "e-at" (default) attacks each batch in one, drawn by running robust error; "max" trains on the
    worst image of all, "avg" on all of them."""

    @property
    def facts(self) -> InnerAttackFacts:
        """What there is to know of the attack."""
        return INNER_ATTACKS[self.name]

    @property
    def length(self) -> int:
        """Steps of the attack: those given, or its own."""
        return self.steps or (1 if self.facts.single else STEPS)

    @model_validator(mode="after")
    def _only_what_it_has(self) -> Self:
        facts, name = self.facts, self.name
        if facts.single and self.length != 1:
            raise ArgumentError(
                "steps", self.steps, f"attack {name} has one step; leave it out, or take attack.name pgd"
            )
        if facts.single and self.steps_follow:
            raise ArgumentError("steps_follow", True, f"attack {name} has one step; leave it out")
        if facts.single and self.random_start is False:
            fix = f"attack {name} starts at random; leave it out, or take attack.name pgd with one step"
            raise ArgumentError("random_start", False, fix)
        if self.step_size is not None and facts.stride is None:
            raise ArgumentError("step_size", self.step_size, f"attack {name} chooses its own step_size; leave it out")
        return self

    def completed(self, *, random_start: bool, norms: int) -> Self:
        """With the defaults that depend on other values.

        Args:
            random_start: whether the objective needs one. norms: that the training is in.
        """
        stride = None if self.steps_follow else self.facts.stride
        own = {
            "steps": self.length,
            "step_size": stride and stride / self.length,
            "random_start": self.facts.random_start or random_start,
            "union": "e-at" if norms > 1 else None,
        }
        return self.filled(own)


class ScheduleConfig(Section):
    """Which share of eps training asks for, and when."""

    name: ScheduleName = "hinge"
    """"hinge" is Epsilon-Scheduling: 0 before start, linear until end, then the whole eps. "margin" is linear, and each
    sample has an epsilon of its own by how large its margin looks, for two looks at it."""
    start: float | None = Field(None, ge=0)
    """T1 of hinge (0.25) and abrupt (0.25): at most 1 a share of the training, above 1 epochs."""
    end: float | None = Field(None, ge=0)
    """T2 of hinge (0.75), linear (0.75) and margin (0.25), as start."""
    patience: Count | None = None
    """auto: epochs without progress after which validation accuracy has converged (5)."""
    tolerance: float | None = Field(None, ge=0, le=1)
    """auto: rise in validation accuracy that counts as progress (0.02)."""
    function: str | None = None
    """custom: "module:function", called with (epoch, epochs), returns a share in [0, 1]."""
    per: Literal["step", "epoch"] = "step"
    """Move epsilon at every step, or once per epoch as in the paper."""

    @property
    def individual(self) -> bool:
        """Whether each sample has an epsilon of its own."""
        return self.name == "margin"

    @model_validator(mode="after")
    def _only_its_own_options(self) -> Self:
        for option in ("start", "end", "patience", "tolerance", "function"):
            if getattr(self, option) is not None and option not in SCHEDULES[self.name]:
                fix = f"schedule {self.name} has no option {option}; leave it out"
                raise ArgumentError(option, getattr(self, option), fix)
        if self.name == "custom" and self.function is None:
            raise ArgumentError("function", None, "schedule custom needs function, as module:function")
        return self

    def completed(self) -> Self:
        """With the schedule's own defaults."""
        return self.filled(SCHEDULES[self.name])
