"""Passes that a run takes, counted from its configuration."""

from collections.abc import Iterable
from dataclasses import dataclass

from temper.attacks.engine import POLISH_PROBES
from temper.attacks.suites import Suite, get_suite
from temper.benchmark.spec import NEAREST, Cell
from temper.threat import Norm
from temper.training.finetune import make_schedule


@dataclass(frozen=True)
class Sizes:
    """Samples of a data set's parts."""

    train: int
    test: int


@dataclass(frozen=True)
class Cost:
    """Passes of one run, each of one sample: forward and backward ones of training and, about, of measuring.

    A sample that an attack breaks early costs less than its budget; repeated checks and searches can cost more.
    """

    train_forward: int
    train_backward: int
    measure_forward: int
    measure_backward: int

    @property
    def total(self) -> int:
        """All of them, where no attack breaks anything."""
        return self.train_forward + self.train_backward + self.measure_forward + self.measure_backward


def cost(cell: Cell, sizes: Sizes) -> Cost:
    """What a run costs: adversarial steps where the schedule's epsilon is above 0, clean ones elsewhere."""
    config = cell.config
    attacked = 0 if config.objective.name == "standard" else _attacked_epochs(cell)
    steps = config.attack.steps + (1 if config.attack.name == "apgd" else 0)
    branches = 2 if config.objective.name in ("trades", "trades-guide", "mart") else 1
    extra = 1 if config.objective.name == "trades" else 0  # the clean logits that its attack moves away from
    per_sample = config.epochs + attacked * (branches - 1)
    forward = per_sample + attacked * (steps + extra)
    measured = min(cell.measure.limit or sizes.test, sizes.test)
    searched = _suite_passes(get_suite(cell.measure.suite), [threat.norm for threat in cell.measure.searched])
    nearest = _suite_passes(get_suite(NEAREST), ["Linf"])
    tau = min(cell.measure.tau, sizes.test)
    looks = 1 + (2 if cell.measure.corruptions else 0)
    return Cost(
        round(forward * sizes.train),
        round((per_sample + attacked * config.attack.steps) * sizes.train),
        measured * (searched[0] + looks) + tau * (nearest[0] + 1),
        measured * searched[1] + tau * nearest[1],
    )


def _attacked_epochs(cell: Cell) -> float:
    """Share of the training, in epochs, in which epsilon is above 0."""
    config = cell.config
    if config.schedule.name in ("custom", "auto"):
        return config.epochs
    schedule, moments = make_schedule(config.schedule, config.seed), 64
    fractions = [schedule.fraction(config.epochs * (k + 1) / moments, config.epochs) for k in range(moments)]
    return config.epochs * sum(fraction > 0 for fraction in fractions) / moments


def _suite_passes(suite: Suite, norms: Iterable[Norm]) -> tuple[int, int]:
    """Forward and backward passes of one sample through all stages, once per threat, with the checks at each run's end.

    Checks of images that flipped in the search alone, and runs that low precision had no numbers for, come on top.
    """
    forward = backward = 0
    for norm in norms:
        for stage in suite.in_norm(norm).stages:
            attack = stage.attack
            # A run's best image is checked in its batch and alone; the nearest flip is first brought closer.
            checks = 2 * POLISH_PROBES if attack.nearest else 2
            forward += attack.runs * (attack.passes(1)[0] + checks)
            backward += 0 if attack.asks == "logits" else attack.runs * attack.queries
    return forward, backward
