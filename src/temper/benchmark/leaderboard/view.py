"""What a leaderboard is made of: plain data, so that whoever has results can have one.

Accuracies, intervals and unknown shares are in [0, 1]; other metrics, such as Kendall's tau or a sum over
perturbations, have ranges of their own. Epsilons are in pixel units of [0, 1].
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from itertools import pairwise

from temper.benchmark.configuration import BackboneFacts, Configuration, Factors
from temper.errors import ArgumentError
from temper.margins.intervals import Estimate
from temper.report.views import EpochRow
from temper.text import did_you_mean, nearest

_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_SLACK = 1e-9  # rounding may put a bound a hair inside the value

Point = tuple[float, float, float, float]  # epsilon, accuracy, and its 95 % interval


@dataclass(frozen=True)
class Metric:
    """One column of the leaderboard.

    Attributes:
        key: in :attr:`Measured.metrics` and in the CSV.
        label: heading of the column.
        help: what it measures, one sentence.
        percent: shown as a percentage; otherwise with ``digits`` decimals.
        lower: lower is better; otherwise higher.
    """

    key: str
    label: str
    help: str
    percent: bool = True
    digits: int = 3
    lower: bool = False


@dataclass(frozen=True)
class Measured:
    """What was measured of a run.

    Attributes:
        metrics: estimates by key; a metric that was not measured is left out. An interval that is not known has the
            ends NaN, and a number of samples that is not known is 0.
        curve: norm to (epsilon, accuracy, low, high) by rising epsilon; 0 is the clean accuracy.

    Raises:
        ArgumentError: when a value is not finite, an interval does not hold its value, or a curve's epsilons do not
            rise or its numbers are not finite.
    """

    metrics: Mapping[str, Estimate] = field(default_factory=dict)
    curve: Mapping[str, Sequence[Point]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for estimate in self.metrics.values():
            _check_estimate(estimate)
        for norm, points in self.curve.items():
            eps = [point[0] for point in points]
            if not all(math.isfinite(number) for point in points for number in point):
                raise ArgumentError("curve", norm, "has numbers that are not finite; leave out what was not measured")
            if any(here >= there for here, there in pairwise(eps)):
                raise ArgumentError("curve", norm, f"its epsilons must rise, got {eps}")


@dataclass(frozen=True)
class LeaderboardRun:
    """One run, finished or failed.

    Attributes:
        run: names its page, ``runs/RUN.html``; "" for a run that has none, such as a published result.
        factors: its cell in the grid.
        about: facts of the backbone.
        measured: metrics and curves.
        facts: configuration, seconds, passes, fingerprints ..., in order of display.
        history: the training, epoch by epoch.
        failure: why it failed, if it did; such runs are listed apart and never ranked or averaged.

    Raises:
        ArgumentError: when ``run`` cannot name a file.
    """

    run: str
    factors: Factors
    about: BackboneFacts = field(default_factory=BackboneFacts)
    measured: Measured = field(default_factory=Measured)
    facts: Mapping[str, str] = field(default_factory=dict)
    history: Sequence[EpochRow] = ()
    failure: str | None = None

    def __post_init__(self) -> None:
        if self.run and not _FILE_NAME.fullmatch(self.run):
            raise ArgumentError("run", self.run, "names a file: use letters, digits, '.', '_' and '-' only")

    @property
    def failed(self) -> bool:
        """Whether it has no result."""
        return self.failure is not None

    def identity(self) -> dict[str, str | int]:
        """What tells it apart, and how it ended, in order of display."""
        status, error = ("done", "") if self.failure is None else ("failed", self.failure)
        return {"run": self.run, **vars(self.factors), **vars(self.about), "status": status, "error": error}


@dataclass(frozen=True)
class RankingRow:
    """One configuration's place in a ranking.

    Attributes:
        configuration: whose place it is.
        score: what it is ranked by, higher is better.
        rank: 1 is best; ties share the lowest place.
        low, high: ends of the rank's 95 % interval; None where it is not known.
        first: probability of being first; None where it is not known.

    Raises:
        ArgumentError: when the score is not finite or the interval does not hold the rank.
    """

    configuration: Configuration
    score: float
    rank: int
    low: float | None = None
    high: float | None = None
    first: float | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.score):
            raise ArgumentError("score", self.score, "must be finite; leave a configuration without a score unranked")
        _check_interval(self.rank, self.low, self.high)


@dataclass(frozen=True)
class Ranking:
    """Configurations of one protocol, ranked over its data sets and seeds.

    Attributes:
        title: for instance "Borda".
        protocol: whose configurations these are; no other's are compared with them.
        rows: in any order.
        note: how it was made, and what its intervals cover.
    """

    title: str
    protocol: str
    rows: Sequence[RankingRow]
    note: str = ""


@dataclass(frozen=True)
class Leaderboard:
    """All that the site shows.

    Attributes:
        title: heading.
        runs: finished and failed ones.
        metrics: the columns, in order.
        rankings: titles are distinct within a protocol.
        missing: the cells that are not there, in words, one each.
        findings: heading and text; a blank line in a text starts a new paragraph.
        version: of what made the results.

    Raises:
        ArgumentError: when there are no runs or no metrics; when two runs share a name, or two finished ones a cell
            (their mean would count one cell twice); when two metrics share a key or two rankings a title; when a run
            has a metric that is no column.
    """

    title: str
    runs: Sequence[LeaderboardRun]
    metrics: Sequence[Metric]
    rankings: Sequence[Ranking] = ()
    missing: Sequence[str] = ()
    findings: Sequence[tuple[str, str]] = ()
    version: str = ""

    def __post_init__(self) -> None:
        if not self.runs:
            raise ArgumentError("runs", [], "a leaderboard needs at least one run")
        if not self.metrics:
            raise ArgumentError("metrics", [], "a leaderboard needs at least one metric")
        keys = [metric.key for metric in self.metrics]
        cells = [astuple(run.factors) for run in self.runs if not run.failed]
        _check_distinct("metrics", keys, "give each metric a key of its own")
        # Two names that differ in case alone are one file on some systems.
        _check_distinct("runs", [run.run.lower() for run in self.runs if run.run], "give each run a name of its own")
        _check_distinct("runs", cells, "keep one finished run per cell, or name their protocols apart")
        titles = [(ranking.protocol, ranking.title) for ranking in self.rankings]
        _check_distinct("rankings", titles, "give each ranking of a protocol a title of its own")
        for key in dict.fromkeys(key for run in self.runs for key in run.measured.metrics):
            if key not in keys:
                hint = did_you_mean(nearest(key, keys), f"name it among the board's metrics {keys}")
                raise ArgumentError("metrics", key, f"a run has a metric that is no column; {hint}")


def _check_estimate(estimate: Estimate) -> None:
    for name, number in (("value", estimate.value), ("unknown", estimate.unknown)):
        if not math.isfinite(number):
            raise ArgumentError(name, number, "must be finite; leave out a metric that was not measured")
    low, high = (None if math.isnan(end) else end for end in (estimate.low, estimate.high))
    _check_interval(estimate.value, low, high)


def _check_interval(value: float, low: float | None, high: float | None) -> None:
    if (low is None) != (high is None):
        raise ArgumentError("low, high", (low, high), "an interval has two ends: give both or none")
    if low is not None and high is not None and not low - _SLACK <= value <= high + _SLACK:
        raise ArgumentError("low, high", (low, high), f"must hold the value {value!r}")


def _check_distinct(argument: str, names: Sequence[object], fix: str) -> None:
    seen = set()
    for name in names:
        if name in seen:
            raise ArgumentError(argument, name, f"is there twice; {fix}")
        seen.add(name)
