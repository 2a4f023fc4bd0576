"""What a leaderboard is made of: plain data, so that whoever has results can have one.

Accuracies, intervals and unknown shares are in [0, 1]; other metrics, such as Kendall's tau or a sum over
perturbations, have ranges of their own. Epsilons are in pixel units of [0, 1].
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from temper.errors import ArgumentError
from temper.report.views import EpochRow
from temper.text import did_you_mean, nearest

CELL = ("backbone", "dataset", "objective", "schedule", "protocol", "seed")
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_SLACK = 1e-9  # rounding may put a bound a hair inside the value

Point = tuple[float, float, float, float]  # epsilon, accuracy, and its 95 % interval


@dataclass(frozen=True)
class Metric:
    """One column of the leaderboard, in which higher is better.

    Attributes:
        key: in :attr:`LeaderboardRun.metrics` and in the CSV.
        label: heading of the column.
        help: what it measures, one sentence.
        percent: shown as a percentage; otherwise with three decimals.
    """

    key: str
    label: str
    help: str
    percent: bool = True


@dataclass(frozen=True)
class Value:
    """One measured metric; what was not measured of it is None.

    Attributes:
        value: the estimate.
        low, high: ends of its 95 % interval, over samples.
        n: number of samples.
        unknown: share of samples that were not searched.

    Raises:
        ArgumentError: when a number is not finite or the interval does not hold the value.
    """

    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unknown: float = 0.0

    def __post_init__(self) -> None:
        for name in ("value", "low", "high", "unknown"):
            number = getattr(self, name)
            if number is not None and not math.isfinite(number):
                raise ArgumentError(name, number, "must be finite; leave out a metric that was not measured")
        _check_interval(self.value, self.low, self.high)


@dataclass(frozen=True)
class LeaderboardRun:
    """One run, finished or failed.

    Attributes:
        run: names its page, ``runs/RUN.html``; "" for a run that has none, such as a published result.
        backbone, dataset, objective, schedule, protocol, seed: its cell in the grid.
        tier, type, pretraining: facts of the backbone, "" where unknown.
        metrics: key to value; a metric that was not measured is left out.
        curve: norm to (epsilon, accuracy, low, high) by rising epsilon; 0 is the clean accuracy.
        facts: configuration, seconds, passes, fingerprints ..., in order of display.
        history: the training, epoch by epoch.
        status: "failed" runs are listed apart and never ranked or averaged.
        error: why it failed.

    Raises:
        ArgumentError: when ``run`` cannot name a file, the status is unknown, or a curve's epsilons do not rise or its
            numbers are not finite.
    """

    run: str
    backbone: str
    dataset: str
    objective: str
    schedule: str
    protocol: str
    seed: int
    tier: str = ""
    type: str = ""
    pretraining: str = ""
    metrics: Mapping[str, Value] = field(default_factory=dict)
    curve: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    history: Sequence[EpochRow] = ()
    status: Literal["done", "failed"] = "done"
    error: str = ""

    def __post_init__(self) -> None:
        if self.run and not _FILE_NAME.fullmatch(self.run):
            raise ArgumentError("run", self.run, "names a file: use letters, digits, '.', '_' and '-' only")
        if self.status not in ("done", "failed"):
            raise ArgumentError("status", self.status, "must be 'done' or 'failed'")
        for norm, points in self.curve.items():
            eps = [point[0] for point in points]
            if not all(math.isfinite(number) for point in points for number in point):
                raise ArgumentError("curve", norm, "has numbers that are not finite; leave out what was not measured")
            if any(here >= there for here, there in pairwise(eps)):
                raise ArgumentError("curve", norm, f"its epsilons must rise, got {eps}")


@dataclass(frozen=True)
class RankingRow:
    """One configuration's place in a ranking.

    Attributes:
        backbone, objective, schedule: the configuration.
        score: what it is ranked by, higher is better.
        rank: 1 is best; ties share the lowest place.
        low, high: ends of the rank's 95 % interval; None where it is not known.
        first: probability of being first; None where it is not known.

    Raises:
        ArgumentError: when the score is not finite or the interval does not hold the rank.
    """

    backbone: str
    objective: str
    schedule: str
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
        cells = [tuple(getattr(run, name) for name in CELL) for run in self.runs if run.status == "done"]
        _check_distinct("metrics", keys, "give each metric a key of its own")
        # Two names that differ in case alone are one file on some systems.
        _check_distinct("runs", [run.run.lower() for run in self.runs if run.run], "give each run a name of its own")
        _check_distinct("runs", cells, "keep one finished run per cell, or name their protocols apart")
        titles = [(ranking.protocol, ranking.title) for ranking in self.rankings]
        _check_distinct("rankings", titles, "give each ranking of a protocol a title of its own")
        for key in dict.fromkeys(key for run in self.runs for key in run.metrics):
            if key not in keys:
                hint = did_you_mean(nearest(key, keys), f"name it among the board's metrics {keys}")
                raise ArgumentError("metrics", key, f"a run has a metric that is no column; {hint}")


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
