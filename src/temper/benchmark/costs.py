"""Passes that a run takes, counted from its configuration."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log2

from temper.attacks.flow import POLISH_PROBES
from temper.attacks.suites import Stage, Suite, get_suite
from temper.benchmark.grid import Cell
from temper.benchmark.spec import NEAREST, Measure
from temper.evaluation.clean import RIVALS
from temper.runs.finetune import make_schedule
from temper.threat import Norm
from temper.training.config import FinetuneConfig
from temper.training.objectives import OBJECTIVES
from temper.training.passes import of_update, of_validation
from temper.training.selection import due
from temper.training.trained import Passes

MOMENTS = 64  # of a training that its schedule is asked about


@dataclass(frozen=True)
class Sizes:
    """Samples of a data set's parts."""

    train: int
    test: int
    validation: int = 0


@dataclass(frozen=True)
class Cost:
    """Passes of one run, each of one sample: forward and backward ones of training and, at most, of measuring.

    Training costs less where it stops early, and with the schedule ``auto``, which begins without epsilon; where
    robust accuracy is measured meanwhile, as if all validation images were right, which alone are attacked.
    Measuring mostly costs a fraction of what is planned: a sample that survives the largest radius is searched
    once, one that breaks costs less than an attack's budget, and hardly any check is repeated.
    """

    train_forward: int
    train_backward: int
    measure_forward: int
    measure_backward: int

    @property
    def total(self) -> int:
        """All of them, at most."""
        return self.train_forward + self.train_backward + self.measure_forward + self.measure_backward


def cost(cell: Cell, sizes: Sizes) -> Cost:
    """What a run costs: adversarial steps where the schedule's epsilon is above 0, clean ones elsewhere."""
    (forward, backward), validated = _training_passes(cell), _validation_passes(cell.config, sizes.validation)
    measured = min(cell.measure.limit or sizes.test, sizes.test)
    searched = _searched(cell.measure)
    nearest = search_passes(get_suite(NEAREST), {"Linf": 1})
    tau = min(cell.measure.tau, sizes.test)
    looks = 1 + (2 if cell.measure.corruptions else 0)
    return Cost(
        round(forward * sizes.train + validated.forward),
        round(backward * sizes.train + validated.backward),
        measured * (searched[0] + looks) + tau * (nearest[0] + 1),
        measured * searched[1] + tau * nearest[1],
    )


def _training_passes(cell: Cell) -> tuple[float, float]:
    """Forward and backward passes of each training image."""
    config, objective = cell.config, OBJECTIVES[cell.config.objective.name]
    own = config.schedule.individual
    perturbed_from = (config.optimiser.awp_warmup or 0) if config.optimiser.awp else 1
    updates = [
        of_update(config, share, individual=own, perturbed=place >= round(perturbed_from * MOMENTS))
        for place, share in enumerate(_shares(config))
    ]
    # The average of epochs looks at the images once more.
    renewed = ceil((1 - config.optimiser.swa) * config.epochs) if config.optimiser.swa is not None else 0
    rounds = config.epochs * objective.cost.rounds
    forward = config.epochs * sum(each.forward for each in updates) / MOMENTS + renewed + rounds
    return forward, config.epochs * sum(each.backward for each in updates) / MOMENTS


def _validation_passes(config: FinetuneConfig, images: int) -> Passes:
    """The most that measuring robust accuracy takes meanwhile."""
    every = config.validation.robust_every
    epochs = [epoch for epoch in range(1, config.epochs + 1) if due(epoch, config.epochs, every)]
    return of_validation(epochs, [1.0] * config.epochs, images, len(config.threats))


def _searched(measure: Measure) -> tuple[int, int]:
    """The most forward and backward passes that the search of one sample takes, with every suite."""
    spent = [
        search_passes(get_suite(suite), Counter(threat.norm for threat in threats))
        for suite, threats in measure.searched.items()
    ]
    return sum(forward for forward, _ in spent), sum(backward for _, backward in spent)


def _shares(config: FinetuneConfig) -> list[float]:
    """Share of the target epsilon in force at each of so many moments of the training; 1, the most, where it cannot be
    told before."""
    if config.schedule.name in ("custom", "auto"):
        return [1.0] * MOMENTS
    schedule = make_schedule(config.schedule, config.seed)
    return [schedule.fraction(config.epochs * (k + 1) / MOMENTS, config.epochs) for k in range(MOMENTS)]


def search_passes(suite: Suite, radii: Mapping[Norm, int]) -> tuple[int, int]:
    """The most forward and backward passes that a search of one sample can take, at so many radii in each norm.

    Only a batch that did not fit into memory, and is begun again, comes on top.
    """
    spent = []
    for norm, count in radii.items():
        own = suite.in_norm(norm)
        # Every search settles a radius, and then halves what lies between flip and survival, down to the resolution.
        halvings = 0 if own.resolution is None else ceil(-log2(own.resolution))
        searches = 1 if own.nearest else count + halvings
        spent += [_stage_passes(stage, limited=not own.nearest) for stage in own.stages] * searches
        spent += [_stage_passes(own.closer, limited=False)] if own.closer else []
        spent += [(1, RIVALS)] if own.targets else []  # to find out which classes are nearest, once
    return sum(forward for forward, _ in spent), sum(backward for _, backward in spent)


def _stage_passes(stage: Stage, *, limited: bool) -> tuple[int, int]:
    """The most that all runs of a stage take of one sample; ``limited`` where it searches a ball."""
    attack = stage.attack
    backward = attack.runs * (0 if attack.asks == "logits" else attack.queries)
    forward = attack.runs * attack.passes()[0]
    if limited:  # any question, and the run's end, may lead to an image that is checked in its batch and then alone
        forward += attack.runs * 2 * (attack.queries + 1)
    if attack.nearest:  # a flip is brought closer, and what that tried is asked about alone, the nearest first
        forward += attack.runs * 2 * POLISH_PROBES
    again = 2 if stage.bears else 1  # what a low precision has no numbers for begins again at full precision
    return again * forward, again * backward
