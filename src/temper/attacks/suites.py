"""Suites: which attacks with which budgets make up a search. A suite is data, and part of evidence's provenance."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

from temper.attacks.apgd import apgd
from temper.attacks.pgd import Model, pgd
from temper.errors import ArgumentError
from temper.threat import Norm


@dataclass(frozen=True)
class Attack:
    """One attack with its budget; it climbs cross-entropy from a random start.

    Attributes:
        name: unique within its suite; evidence names it.
        method: which function runs.
        steps: forward and backward passes per sample and radius.
    """

    name: str
    method: Literal["apgd", "pgd"]
    steps: int

    def run(self, model: Model, x: Tensor, y: Tensor, eps: Tensor, norm: Norm, keys: Tensor) -> Tensor:
        """Images to try against the model, one per sample: see :func:`temper.attacks.apgd.apgd`."""
        function: Callable[..., Tensor] = {"apgd": apgd, "pgd": pgd}[self.method]
        return function(model, x, y, eps, norm, steps=self.steps, keys=keys, keep_flips=True)


@dataclass(frozen=True)
class Suite:
    """Attacks that are run in turn on what the ones before left standing.

    Attributes:
        name: what ``--suite`` calls it.
        attacks: in order.
        bisections: how often the gap between the largest radius survived and the smallest flip is halved.
    """

    name: str
    attacks: tuple[Attack, ...]
    bisections: int

    def describe(self) -> dict[str, Any]:
        """The suite as plain data, such as JSON can hold."""
        return asdict(self) | {"attacks": [asdict(attack) for attack in self.attacks]}


# 10 steps of APGD-CE are what the Epsilon-Scheduling paper reports (arXiv:2509.23325, section 2).
SUITES = {
    suite.name: suite
    for suite in (
        Suite("apgd", (Attack("apgd-ce", "apgd", 10),), bisections=3),
        Suite("pgd", (Attack("pgd-ce", "pgd", 10),), bisections=3),
    )
}


def get_suite(name: str) -> Suite:
    """The suite of that name; raises ArgumentError if there is none."""
    if name not in SUITES:
        raise ArgumentError("suite", name, f"choose one of {', '.join(SUITES)}")
    return SUITES[name]
