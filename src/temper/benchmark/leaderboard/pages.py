"""The leaderboard's pages, from templates: figures in words, with script, data and style inside."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Template

from temper.benchmark.leaderboard.payload import board_payload, run_payload
from temper.benchmark.leaderboard.view import Leaderboard, LeaderboardRun, Metric, Point
from temper.margins.intervals import Estimate
from temper.report.rendering import environment
from temper.report.scripts import in_script, script
from temper.threat import NORMS, check_norm

_NONE = "–"


@dataclass(frozen=True)
class MetricRow:
    """One metric of a run in words, as the columns of its table have them."""

    label: str
    help: str
    value: str
    interval: str
    n: str
    unknown: str


@dataclass(frozen=True)
class CurveRow:
    """One point of a curve in words."""

    eps: str
    accuracy: str
    interval: str


def index_page(board: Leaderboard) -> str:
    """The page with rankings, the table of runs, curves, findings, and what failed or is missing."""
    failed = [run for run in board.runs if run.failed]
    return _template("index.html").render(
        board=board,
        counts=_counts(board),
        failed=failed,
        failures=_count(len(failed), "run"),
        data=in_script(board_payload(board)),
        script=script(__package__, "app.js"),
    )


def run_page(board: Leaderboard, run: LeaderboardRun) -> str:
    """The page of one run: metrics with intervals, curves, training, and what was run."""
    factors = {
        "objective": run.factors.objective,
        "schedule": run.factors.schedule,
        "protocol": run.factors.protocol,
        "seed": str(run.factors.seed),
        "tier": run.about.tier,
        "type": run.about.type,
        "pre-training": run.about.pretraining,
    }
    measured = run.measured.metrics
    return _template("run.html").render(
        board=board,
        run=run,
        factors={name: words for name, words in factors.items() if words},
        metrics=[_metric(each, measured[each.key]) for each in board.metrics if each.key in measured],
        curves={norm: _curve(norm, points) for norm, points in run.measured.curve.items() if points},
        data=in_script(run_payload(run)),
        script=script(__package__, "run.js"),
    )


def number(value: float, percent: bool, digits: int = 3) -> str:
    """A metric in words, without its unit: 61.2 for a percentage of 0.612, otherwise so many decimals."""
    return f"{100 * value:.1f}" if percent else f"{value:.{digits}f}"


def _template(name: str) -> Template:
    return environment(__package__).get_template(name)


def _counts(board: Leaderboard) -> list[str]:
    """How many there are of what was run."""
    done = [run.factors for run in board.runs if not run.failed]
    return [
        _count(len(done), "run"),
        _count(len({run.backbone for run in done}), "backbone"),
        _count(len({run.dataset for run in done}), "data set"),
        _count(len({run.protocol for run in done}), "protocol"),
        *([board.version] if board.version else []),
    ]


def _metric(metric: Metric, estimate: Estimate) -> MetricRow:
    unit = "\u00a0%" if metric.percent else ""
    interval = _NONE
    if not math.isnan(estimate.low):
        interval = f"{_shown(estimate.low, metric)} to {_shown(estimate.high, metric)}{unit}"
    return MetricRow(
        label=metric.label,
        help=metric.help,
        value=f"{_shown(estimate.value, metric)}{unit}",
        interval=interval,
        n=f"{estimate.n:,}" if estimate.n else _NONE,
        unknown=f"{100 * estimate.unknown:.1f}\u00a0%" if estimate.unknown else _NONE,
    )


def _shown(value: float, metric: Metric) -> str:
    return number(value, metric.percent, metric.digits)


def _curve(norm: str, points: Sequence[Point]) -> list[CurveRow]:
    return [
        CurveRow(_eps(eps, norm), number(value, True), f"{number(low, True)} to {number(high, True)}")
        for eps, value, low, high in points
    ]


def _eps(eps: float, norm: str) -> str:
    unit = NORMS[check_norm(norm)].unit
    return f"{eps:g}" if unit == 1 else f"{round(eps * unit, 2):g}/{unit}"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
