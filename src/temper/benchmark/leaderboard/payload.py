"""The leaderboard's data as the pages carry it (JSON) and as people take it along (CSV)."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from temper.benchmark.leaderboard.view import Leaderboard, LeaderboardRun, Point, Ranking, Value
from temper.report.views import EpochRow
from temper.text import cell, masked

IDENTITY = (
    "run", "backbone", "dataset", "objective", "schedule", "protocol", "seed", "tier", "type", "pretraining",
    "status", "error",
)  # fmt: skip
PARTS = ("value", "low", "high", "n", "unknown")
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
        cells: list[object] = [getattr(run, name) for name in IDENTITY]
        for metric in board.metrics:
            cells += _parts(run.metrics.get(metric.key)) or [None] * len(PARTS)
        writer.writerow(map(cell, cells))
    return buffer.getvalue()


def csv_columns(board: Leaderboard) -> list[str]:
    """Names of the columns of the CSV."""
    ends = ["", *(f"_{part}" for part in PARTS[1:])]
    return [*IDENTITY, *(metric.key + end for metric in board.metrics for end in ends)]


def board_payload(board: Leaderboard) -> dict[str, Any]:
    """What the index needs of every run; facts and training are on the runs' own pages.

    Runs are lists, and epsilons are told once for all curves that share them: ten thousand runs stay some megabytes.
    """
    grids: dict[tuple[float, ...], int] = {}
    runs = [
        [
            [getattr(run, name) for name in IDENTITY],
            [_parts(run.metrics.get(metric.key)) for metric in board.metrics],
            {norm: _curve(points, grids) for norm, points in run.curve.items() if points},
        ]
        for run in board.runs
    ]
    return {
        "identity": IDENTITY,
        "columns": csv_columns(board),
        "metrics": [vars(metric) for metric in board.metrics],
        "rankings": [_ranking(ranking) for ranking in board.rankings],
        "grids": list(grids),
        "runs": runs,
    }


def run_payload(run: LeaderboardRun) -> dict[str, Any]:
    """What a run's page draws."""
    curves = {norm: [list(axis) for axis in zip(*points, strict=True)] for norm, points in run.curve.items() if points}
    history = {
        column.name: [_finite(getattr(epoch, column.name)) for epoch in run.history] for column in fields(EpochRow)
    }
    return {"curves": curves, "history": history}


def in_script(content: object) -> str:
    """JSON that may stand in an HTML script element, whatever its strings say."""
    text = masked(json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _parts(value: Value | None) -> list[float | int | None] | None:
    return None if value is None else [getattr(value, part) for part in PARTS]


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None  # JSON has no NaN


def _curve(points: Sequence[Point], grids: dict[tuple[float, ...], int]) -> list[Any]:
    eps, *accuracies = zip(*points, strict=True)
    return [grids.setdefault(eps, len(grids)), *([round(a, _CURVE_DIGITS) for a in axis] for axis in accuracies)]


def _ranking(ranking: Ranking) -> dict[str, Any]:
    return {**vars(ranking), "rows": [vars(row) for row in ranking.rows]}
