"""Attacks that craft training images: one line in :data:`INNER_ATTACKS` for each."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from temper.core.lazily import loaded
from temper.threat import Norm

if TYPE_CHECKING:
    from temper.attacks.attack import Attack
    from temper.attacks.losses import Loss


@dataclass(frozen=True)
class InnerAttackFacts:
    """What there is to know of an attack before it is made; torch is not imported for that.

    Attributes:
        maker: ``module:name``, called with (steps, climbs=loss), and ``step_size`` if it has one.
        random_start: whether it starts at a random point unless told otherwise.
        stride: steps in a row that reach from one end of the ball to the other and back: its default step size is this
            over the number of steps, as a share of epsilon. None if it chooses step sizes itself.
        single: whether it has one step, from a random start, by construction; cheap, and prone to catastrophic
            overfitting.
        norms: that it is made for.
    """

    maker: str
    random_start: bool = False
    stride: float | None = None
    single: bool = False
    norms: tuple[Norm, ...] = ("Linf", "L2", "L1")


INNER_ATTACKS = {
    "apgd": InnerAttackFacts("temper.attacks.apgd:APGD"),
    "pgd": InnerAttackFacts("temper.attacks.pgd:PGD", random_start=True, stride=2.5),
    # Wong et al. 2020, arXiv:2001.03994: a step of 1.25 eps from a random point, projected.
    "rs-fgsm": InnerAttackFacts("temper.attacks.pgd:PGD", random_start=True, stride=1.25, single=True, norms=("Linf",)),
    # de Jorge et al. 2022, arXiv:2202.01181: a step of eps from noise of 2 eps, not projected.
    "n-fgsm": InnerAttackFacts(
        "temper.attacks.n_fgsm:NFGSM", random_start=True, stride=1.0, single=True, norms=("Linf",)
    ),
}


def steps_at(steps: int, share: float) -> int:
    """Steps while ``share`` of the target epsilon is in force, for an attack whose steps follow it: one at least."""
    return max(math.ceil(steps * share - 1e-9), 1)  # rounding is no reason for a step more


def make(name: str, steps: int, step_size: float | None, loss: "Loss") -> "Attack":
    """The attack of that name, which climbs ``loss``; ``step_size`` is a share of epsilon, for those that have one."""
    kind = INNER_ATTACKS[name]
    options = {} if kind.stride is None else {"step_size": step_size}
    attack: Attack = loaded(kind.maker)(steps, climbs=loss, **options)
    return attack
