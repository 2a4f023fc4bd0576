"""From short paired runs: does fixed epsilon fail here, and which schedule fits (arXiv:2509.23325, sections 3 to 6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from temper.margins.intervals import Estimate
from temper.training.schedules import in_thousandths
from temper.training.transfer import Delay, Validation, first_above

Verdict = Literal["untold", "fails", "suffers", "holds"]

#: Section 6: T1 is where standard fine-tuning has reached this share of its final accuracy.
SETTLED = 0.9
#: The ramp begins in the first half and ends before the last quarter of the training, as in the paper's own setting for
#: all tasks; one that takes less than a quarter of it comes near an abrupt switch, which collapses (table 7).
LATEST_START, LATEST_END, SHORTEST_RAMP = 0.5, 0.75, 0.25


@dataclass(frozen=True)
class Hinges:
    """Where epsilon begins to rise and has risen, as shares of a training, and what they follow from.

    Attributes:
        start, end: T1 and T2.
        settled: epoch at which standard fine-tuning had 90 % of its final accuracy.
        delays: mean delay of fixed epsilons from 0 on, in epochs; runs that never adapted count as their length.
        bounded: whether T1 or T2 had to be moved to leave time for the ramp and for the whole epsilon.
    """

    start: float
    end: float
    settled: Estimate
    delays: Estimate
    bounded: bool


def hinges(standard: Sequence[float], delays: Sequence[Delay], validation: Validation) -> Hinges:
    """T1 and T2 as the paper finds its own (section 6).

    Args:
        standard: validation accuracy of standard fine-tuning after each epoch.
        delays: of runs with fixed epsilons in equal steps from 0 (standard fine-tuning) on.
        validation: what accuracies were measured on.
    """
    epochs = len(standard)
    settled = first_above(SETTLED * standard[-1], standard, validation)
    parts = [each.epochs for each in delays]
    value, low, high = (sum(getattr(each, end) for each in parts) / len(parts) for end in ("value", "low", "high"))
    mean = Estimate(value, low, high, validation.n)
    t1, t2 = settled.value / epochs, mean.value / epochs
    start = min(t1, LATEST_START)
    end = min(max(t2, start + SHORTEST_RAMP), LATEST_END)
    return Hinges(in_thousandths(start), in_thousandths(end), settled, mean, (start, end) != (t1, t2))


def verdict(standard: Delay, fixed: Delay, lost: Estimate) -> Verdict:
    """What short runs foretell of fixed epsilon.

    Returns:
        untold where standard fine-tuning itself did not learn the task; fails where fixed epsilon never adapted to it;
        suffers where its clean accuracy is surely below; holds where no loss could be shown.
    """
    if standard.censored:
        return "untold"
    if fixed.censored:
        return "fails"
    return "suffers" if lost.low > 0 else "holds"
