"""Suites: which attacks with which budgets make up a search. A suite is data, and part of evidence's provenance."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from temper.attacks.apgd import APGD
from temper.attacks.attack import Attack
from temper.attacks.fab import FABTargeted
from temper.attacks.fmn import FMN
from temper.attacks.funnel import Funnel, Scout
from temper.attacks.losses import dlr_targeted, logit_difference, logit_difference_targeted
from temper.attacks.names import check_suite
from temper.attacks.pgd import PGD
from temper.attacks.square import Square
from temper.attacks.tangent import Tangent
from temper.errors import ArgumentError
from temper.threat import NORMS, Norm

FP16 = (torch.float16,)  # 11 digits: enough to tell on which side of the boundary an image lies, nearly always
HALF = (torch.float16, torch.bfloat16)  # 8 digits: enough to climb, where a search is only the first of several


@dataclass(frozen=True)
class Stage:
    """An attack in a suite.

    Attributes:
        name: unique within its suite and norm; evidence names it, and the samples' random streams are named after it.
        attack: what runs, with its budget.
        random_start: start from the samples' random streams instead of from the clean images.
        bears: low precisions that its search may run in where the hardware computes them. Flips are checked at full
            precision all the same.
        norms: in which it runs; other norms may need another budget.
        on: which of the samples that withstood the stages before: all of them; those of which no flip is known at
            larger radii, or which show signs of masked gradients; those that came near a flip, or to its edge, or
            show such signs; those that show such signs; or those without any gradient
            (:mod:`temper.evaluation.masking`).
        towards: which classes a targeted attack goes for, run by run: those that are likeliest on the clean image, or
            those whose boundaries are nearest if the model is taken for linear there (:mod:`temper.attacks.targets`).
    """

    name: str
    attack: Attack
    random_start: bool = True
    bears: tuple[torch.dtype, ...] = ()
    norms: tuple[Norm, ...] = tuple(NORMS)
    on: Literal["all", "whole", "near", "edge", "masked", "flat"] = "all"
    towards: Literal["likeliest", "nearest"] = "likeliest"

    def runs_in(self, norm: Norm) -> bool:
        """Whether it runs in a norm: where it is meant to, and its attack knows the geometry."""
        return norm in self.norms and norm in self.attack.norms

    def describe(self) -> dict[str, object]:
        """The stage as plain data, such as JSON can hold."""
        return {
            "name": self.name,
            **self.attack.describe(),
            "random_start": self.random_start,
            "bears": [str(each).removeprefix("torch.") for each in self.bears],
            "norms": list(self.norms),
            **({} if self.on == "all" else {"on": self.on}),
            **({} if self.towards == "likeliest" else {"towards": self.towards}),
        }


@dataclass(frozen=True)
class Suite:
    """Attacks that are run in turn on what the ones before left standing.

    A suite of attacks for the nearest flip searches without a radius: what it ends with at distance u has survived
    everything below u. It takes every sample, also those that are classified wrongly: it looks for a change of the
    prediction, and that is what a margin is.

    Attributes:
        name: what ``--suite`` calls it.
        stages: in order.
        closer: where several radii are asked for, brings the flips found closer before the next radius is chosen;
            evidence of a margin, none of survival.
        resolution: close in on each sample's margin until the gap between the largest radius survived and the
            nearest flip is at most this share of the largest radius; None settles the radii asked for alone.
    """

    name: str
    stages: tuple[Stage, ...]
    closer: Stage | None = None
    resolution: float | None = None

    def in_norm(self, norm: Norm) -> "Suite":
        """The suite with the stages that run in this norm.

        Raises:
            ArgumentError: none does.
        """
        stages = tuple(stage for stage in self.stages if stage.runs_in(norm))
        if not stages:
            raise ArgumentError("norm", norm, f"no attack of suite {self.name} runs in it")
        closer = self.closer if self.closer and self.closer.runs_in(norm) else None
        return replace(self, stages=stages, closer=closer)

    def in_expectation(self) -> "Suite":
        """The suite for a random model: what draws of few passes leave of its noise looks like masked gradients on
        every sample, so that what is run on signs of these alone would be run on all."""
        return replace(self, stages=tuple(stage for stage in self.stages if stage.on != "masked"))

    @property
    def every(self) -> tuple[Stage, ...]:
        """All stages, and what brings flips closer."""
        return (*self.stages, *([self.closer] if self.closer else []))

    @property
    def first(self) -> tuple[Stage, ...]:
        """The stages that every sample gets at the largest radius that it withstands, if no flip is known before."""
        return tuple(stage for stage in self.stages if stage.on in ("all", "whole"))

    @property
    def noting(self) -> tuple[Stage, ...]:
        """The stages that say how near a flip a sample came: those in a ball, up to the ones that this decides on."""
        return tuple(each for each in self.stages if each.on in ("all", "whole", "near") and not each.attack.nearest)

    @property
    def targets(self) -> int:
        """How many of each sample's nearest classes its stages go for; 0 where they need no such order."""
        stages = [*self.stages, *([self.closer] if self.closer else [])]
        return max((stage.attack.runs for stage in stages if stage.towards == "nearest"), default=0)

    @property
    def nearest(self) -> bool:
        """Whether it looks for the nearest flip, without a radius."""
        return all(stage.attack.nearest for stage in self.stages)

    def describe(self) -> dict[str, object]:
        """The suite as plain data, such as JSON can hold."""
        return {
            "name": self.name,
            "attacks": [stage.describe() for stage in self.stages],
            "closer": self.closer.describe() if self.closer else None,
            "resolution": self.resolution,
        }


TARGETS = "targets"  # what finding out the order of a sample's nearest classes is called among its stages
CLOSER = Stage("tangent", Tangent(30), random_start=False, towards="nearest")
ROUND = Funnel(
    classes=6, scouts=(Scout(10),), strays=(), finishes=(Scout(50, gamma=0.05),) * 2
)  # for balls whose corners are few

SUITES = {
    suite.name: suite
    for suite in (
        # AutoAttack's four parts with its budgets: arXiv:2003.01690, section 5, and for L1 those of its code, with the
        # wide start of arXiv:2103.01208.
        Suite(
            "standard",
            (
                Stage("apgd-ce", APGD(100), bears=HALF, norms=("Linf", "L2")),
                Stage("apgd-t", APGD(100, runs=9, climbs=dlr_targeted), bears=FP16, norms=("Linf", "L2")),
                Stage("apgd-ce", APGD(100, runs=5, wide=True), bears=HALF, norms=("L1",)),
                Stage("apgd-t", APGD(100, runs=5, climbs=dlr_targeted, wide=True), bears=FP16, norms=("L1",)),
                Stage("fab-t", FABTargeted(100, runs=9), random_start=False, bears=FP16),
                Stage("square", Square(5000), bears=HALF),
            ),
            closer=CLOSER,
        ),
        # Few passes on most networks, and those of ``standard`` where gradients are masked (benchmarks/evaluation says
        # what it missed, by network). Towards the class whose boundary is nearest, 20 steps on the plain logit
        # difference find nearly all that many targets, restarts and steps find, and how far they come tells where more
        # are worth it.
        Suite(
            "fast",
            (
                Stage("apgd-ce", APGD(10, wide=True), bears=HALF, on="whole"),
                Stage(
                    "apgd-t",
                    APGD(20, climbs=logit_difference_targeted, wide=True),
                    random_start=False,
                    bears=HALF,
                    towards="nearest",
                ),
                Stage(
                    "apgd-t-2",
                    APGD(20, climbs=logit_difference_targeted, wide=True),
                    bears=FP16,
                    towards="nearest",
                ),
                Stage("square", Square(200), bears=HALF, on="whole"),
                # Where a little is missing for a flip, now another class is the nearest, now the nearest boundary finds
                # it, now points around the image lead to another one.
                Stage(
                    "apgd-t-3",
                    APGD(40, runs=3, climbs=logit_difference_targeted, wide=True),
                    on="near",
                    towards="nearest",
                ),
                Stage(
                    "apgd-t-3-long",
                    APGD(100, runs=3, climbs=logit_difference_targeted, wide=True),
                    on="edge",
                    towards="nearest",
                ),
                Stage("fmn", FMN(100), random_start=False, on="near"),
                Stage("tangent-9", Tangent(60, runs=9), on="edge", towards="nearest"),
                Stage("apgd-12", APGD(100, runs=12, climbs=logit_difference, wide=True), on="edge"),
                # What AutoAttack runs, where gradients are masked: FAB finds most there in L2, random search in Linf.
                # At full precision: rounding is what masks some of them, and more rounding hides flips.
                Stage("fab-t", FABTargeted(100, runs=9), random_start=False, on="masked"),
                Stage("square-5000", Square(5000), on="masked"),
                Stage("apgd-ce-100", APGD(100, wide=True), on="masked"),
                Stage("apgd-t-100", APGD(100, runs=9, climbs=dlr_targeted, wide=True), on="masked"),
                # Random search is all there is where there are no gradients, and its luck differs from run to run.
                Stage("square-10000", Square(10000), on="flat"),
            ),
            closer=CLOSER,
        ),
        # In Linf short runs of FMN find the near part of the near boundary on robust networks, those of Tangent where
        # gradients mislead; random points lead to parts that the image does not; Tangent ends nearest, and long runs of
        # FMN leave a part that is far. In L2 and L1 FMN ends nearest. On networks trained for large Linf radii all are
        # led astray there, and FAB's long way is the nearer one (benchmarks/evaluation).
        Suite(
            "margin",
            (
                Stage("funnel", Funnel(), norms=("Linf",)),
                Stage("funnel", ROUND, random_start=False, norms=("L2", "L1")),
                Stage("tangent", Tangent(30, runs=3), random_start=False, norms=("L1",)),
                Stage("fab-t", FABTargeted(50, runs=3), random_start=False, norms=("L2",)),
                Stage("fab-t", FABTargeted(100, runs=9), random_start=False, norms=("L1",)),
                Stage("fmn", FMN(100), random_start=False, norms=("L2", "L1")),
            ),
        ),
        # 10 steps of APGD-CE are what the Epsilon-Scheduling paper reports (arXiv:2509.23325, section 2).
        Suite("apgd", (Stage("apgd-ce", APGD(10)),), resolution=1 / 64),
        Suite("pgd", (Stage("pgd-ce", PGD(10)),), resolution=1 / 64),
    )
}


def get_suite(name: str) -> Suite:
    """The suite of that name; raises ArgumentError if there is none."""
    return SUITES[check_suite(name)]
