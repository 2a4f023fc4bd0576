"""The leaderboard's data as the pages carry it (JSON) and as people take it along (CSV)."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import fields

from temper.benchmark.columns import PARTS, names
from temper.benchmark.leaderboard.view import Leaderboard, LeaderboardRun, Point, Ranking, RankingRow
from temper.margins.intervals import Estimate
from temper.report.views import EpochRow
from temper.text import cell

_CURVE_DIGITS = 4  # of accuracies that are only drawn


def to_csv(board: Leaderboard) -> str:
    """Every run, one row each: its identity, then each metric with ``_low``, ``_high``, ``_n`` and ``_unknown``.

    Numbers have all their digits; what was not measured is empty. Text that a spreadsheet would compute has a quote in
    front.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(cell, csv_columns(board)))
    for run in board.runs:
        cells: list[object] = [*run.identity().values()]
        for metric in board.metrics:
            cells += _parts(run.measured.metrics.get(metric.key)) or [None] * len(PARTS)
        writer.writerow(map(cell, cells))
    return buffer.getvalue()


def csv_columns(board: Leaderboard) -> list[str]:
    """Names of the columns of the CSV."""
    return [*board.runs[0].identity(), *(name for metric in board.metrics for name in names(metric.key))]


def board_payload(board: Leaderboard) -> dict[str, object]:
    """What the index needs of every run; facts and training are on the runs' own pages.

    Runs are lists, and epsilons are told once for all curves that share them: ten thousand runs stay some megabytes.
    """
    grids: dict[tuple[float, ...], int] = {}
    runs = [
        [
            [*run.identity().values()],
            [_parts(run.measured.metrics.get(metric.key)) for metric in board.metrics],
            {norm: _curve(points, grids) for norm, points in run.measured.curve.items() if points},
        ]
        for run in board.runs
    ]
    return {
        "identity": [*board.runs[0].identity()],
        "columns": csv_columns(board),
        "metrics": [vars(metric) for metric in board.metrics],
        "rankings": [_ranking(ranking) for ranking in board.rankings],
        "grids": list(grids),
        "runs": runs,
    }


def run_payload(run: LeaderboardRun) -> dict[str, object]:
    """What a run's page draws."""
    drawn = {norm: points for norm, points in run.measured.curve.items() if points}
    curves = {norm: [list(axis) for axis in zip(*points, strict=True)] for norm, points in drawn.items()}
    history = {
        column.name: [_finite(getattr(epoch, column.name)) for epoch in run.history] for column in fields(EpochRow)
    }
    return {"curves": curves, "history": history}


def _parts(estimate: Estimate | None) -> list[float | int | None] | None:
    """The numbers of an estimate; None for those that are not known."""
    if estimate is None:
        return None
    return [estimate.value, _finite(estimate.low), _finite(estimate.high), estimate.n or None, estimate.unknown]


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None  # JSON has no NaN


def _curve(points: Sequence[Point], grids: dict[tuple[float, ...], int]) -> list[object]:
    eps, *accuracies = zip(*points, strict=True)
    return [grids.setdefault(eps, len(grids)), *([round(a, _CURVE_DIGITS) for a in axis] for axis in accuracies)]


def _ranking(ranking: Ranking) -> dict[str, object]:
    return {**vars(ranking), "rows": [_ranking_row(row) for row in ranking.rows]}


def _ranking_row(row: RankingRow) -> dict[str, object]:
    place = {name: value for name, value in vars(row).items() if name != "configuration"}
    return {**vars(row.configuration), **place}
