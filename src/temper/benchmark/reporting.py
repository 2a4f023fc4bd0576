"""The leaderboard of a grid: complete, or with what is missing in plain sight."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from temper import distribution
from temper.benchmark.analysis import perturbation_sum, rank_intervals, whole
from temper.benchmark.columns import Column, columns, from_columns, names
from temper.benchmark.configuration import CONFIGURATION, FACTORS, BackboneFacts, Configuration, with_protocol
from temper.benchmark.findings import Finding, findings
from temper.benchmark.grid import Cell
from temper.benchmark.leaderboard import (
    Leaderboard,
    LeaderboardRun,
    Measured,
    Metric,
    Ranking,
    RankingRow,
    write_leaderboard,
)
from temper.benchmark.outcomes import margins_of, outcomes
from temper.benchmark.progress import GridState, state
from temper.benchmark.spec import Measure, Spec
from temper.benchmark.store import RUN_DONE, Store, require
from temper.benchmark.transfer import with_severity
from temper.errors import EvidenceError
from temper.margins.intervals import Estimate
from temper.report.views import EpochRow
from temper.text import listed

TOLD = ("config", "seconds", "train_n", "classes", "passes", "weights", "data", "versions", "history", "warnings")
TOTAL = Metric("sum", "sum", "Sum of the accuracies to the left.", percent=False)
LISTED = 10  # missing runs that a refusal names


def write_site(spec: Spec, cells: Sequence[Cell], store: Store, out: Path, *, partial: bool) -> Path:
    """Write the static site of a grid into ``out``; returns the path of its ``index.html``.

    Configurations that lack a data set or seed of their protocol, because a run is missing or the SPEC skips it, are
    never ranked or averaged: they stand in the table of runs, and are named. What is missing is listed.

    Raises:
        EvidenceError: runs are missing or failed and ``partial`` is not asked for (the first are named), or none is
            done.
        RunError: the store is damaged.
    """
    reached = state(cells, store)
    if not reached.complete and not partial:
        raise EvidenceError(_refusal(reached, len(cells), store))
    if not reached.done:
        raise EvidenceError(f"{store.place}: no run of this grid is done; temper bench run carries it out")
    _check_rows(reached.rows[reached.rows["status"] == RUN_DONE], spec.measure, store.place)
    return write_leaderboard(_board(spec, reached, store), out)


def _check_rows(rows: pd.DataFrame, measure: Measure, place: str) -> None:
    """Refuse rows without something that the site shows."""
    shown = columns(measure)
    require(rows, [*FACTORS, *TOLD, *(column.key for column in shown if column.always)], place)
    for column in shown:
        if column.key in rows:
            require(rows[rows[column.key].notna()], names(column.key), place)


def _refusal(reached: GridState, total: int, store: Store) -> str:
    labels = [f"{cell.label} (failed)" for cell in reached.failed] + [cell.label for cell in reached.missing]
    return (
        f"{store.place}: {len(labels)} of {total} runs are not there: {listed(labels, LISTED, '; ')}; "
        "temper bench run carries them out, --partial reports without them"
    )


def _board(spec: Spec, reached: GridState, store: Store) -> Leaderboard:
    scoring = [column.key for column in columns(spec.measure) if column.scores]
    ranked = _whole(reached)
    rows = with_protocol(reached.rows[reached.rows["run"].isin([cell.run for cell in ranked])].reset_index(drop=True))
    by_sample = outcomes(ranked, store) if ranked else None
    by_run = {row["run"]: row for _, row in with_severity(reached.rows).iterrows()}
    missing = [f"{cell.label}: failed" for cell in reached.failed] + [cell.label for cell in reached.missing]
    return Leaderboard(
        title=spec.name,
        runs=[_run(cell, by_run[cell.run], store) for cell in [*reached.done, *reached.failed]],
        metrics=_metrics(spec.measure),
        rankings=_rankings(rows, by_sample, scoring) if ranked else (),
        missing=missing,
        findings=[*_left_out(reached, ranked), *(findings(rows, by_sample, scoring) if ranked else ())],
        version=distribution.version(),
    )


def _whole(reached: GridState) -> list[Cell]:
    """Runs of the configurations that have every data set and seed of their protocol."""
    done, planned = (pd.DataFrame([cell.factors for cell in cells]) for cells in (reached.done, reached.all))
    return [reached.done[place] for place in whole(done, planned).index]


def _left_out(reached: GridState, ranked: Sequence[Cell]) -> Iterator[Finding]:
    """Which configurations are not compared, and why."""
    kept = {_configuration(cell) for cell in ranked}
    names = dict.fromkeys(name for cell in reached.all if (name := _configuration(cell)) not in kept)
    if names:
        yield (
            "Neither ranked nor averaged",
            f"These lack a data set or a seed that others of their protocol have: {listed([*names], LISTED, '; ')}.",
        )


def _configuration(cell: Cell) -> str:
    return ", ".join(str(cell.factors[name]) for name in ("backbone", "objective", "schedule", "protocol"))


def _metrics(measure: Measure) -> list[Metric]:
    """What the leaderboard shows: what configurations are scored by, its sum, and the rest."""
    shown = columns(measure)
    scoring, others = ([c for c in shown if c.scores], [c for c in shown if not c.scores])
    return [*map(_metric, scoring), TOTAL, *map(_metric, others)]


def _metric(column: Column) -> Metric:
    return Metric(column.key, column.label, column.help, **vars(column.scale))


def _run(cell: Cell, row: "pd.Series[Any]", store: Store) -> LeaderboardRun:
    shared = LeaderboardRun(
        run=cell.run,
        factors=cell.place,
        about=BackboneFacts(**{each.name: str(cell.facts.get(each.name, "")) for each in fields(BackboneFacts)}),
        facts=_facts(cell, row),
    )
    if row["status"] != RUN_DONE:
        return replace(shared, failure=str(row["error"]))
    return replace(shared, measured=Measured(_estimates(cell.measure, row), _curve(cell, store)), history=_history(row))


def _estimates(measure: Measure, row: "pd.Series[Any]") -> dict[str, Estimate]:
    """The metrics of a row, and their sum where all are there that it is of."""
    shown = columns(measure)
    estimates = {each.key: from_columns(each.key, row) for each in shown if pd.notna(row.get(each.key))}
    added = [column.key for column in shown if column.scores]
    if all(key in estimates for key in added):
        total = perturbation_sum(pd.DataFrame([row[added].astype(float)]), added).iloc[0]
        estimates[TOTAL.key] = Estimate(float(total), math.nan, math.nan, estimates[added[0]].n)
    return estimates


def _facts(cell: Cell, row: "pd.Series[Any]") -> dict[str, str]:
    facts = {"run": cell.run, "took": f"{row['seconds']:.0f} s"}
    if row["status"] == RUN_DONE:
        facts |= {
            "training images": f"{row['train_n']:.0f} of {row['classes']:.0f} classes",
            "passes": f"{row['passes']:,.0f}",
            "weights (SHA-256)": str(row["weights"]),
            "test data (SHA-256)": str(row["data"]),
            "warnings": str(row["warnings"]) or "none",
            "versions": ", ".join(f"{name} {version}" for name, version in json.loads(row["versions"]).items()),
        }
    return facts | {"configuration": yaml.safe_dump(json.loads(row["config"]), sort_keys=False)}


def _curve(cell: Cell, store: Store) -> dict[str, list[tuple[float, float, float, float]]]:
    curves: dict[str, list[tuple[float, float, float, float]]] = {}
    for suite, threats in cell.measure.searched.items():
        table = margins_of(store, cell.run, suite)
        for norm in dict.fromkeys(threat.norm for threat in threats):
            radii = [0.0, *sorted(threat.eps for threat in threats if threat.norm == norm)]
            points = zip(radii, table.accuracy_curve(norm, radii), strict=True)
            # Of two suites in one norm the curve's own, which comes first, is shown.
            curves.setdefault(str(norm), [(eps, point.value, point.low, point.high) for eps, point in points])
    return curves


def _history(row: "pd.Series[Any]") -> list[EpochRow]:
    names = ("epoch", "eps", "train_loss", "train_accuracy", "validation_accuracy", "lr")
    return [EpochRow(**{name: line[name] for name in names}) for line in json.loads(row["history"])]


def _rankings(rows: pd.DataFrame, by_sample: pd.DataFrame | None, metrics: Sequence[str]) -> list[Ranking]:
    note = "Intervals: 95 %, over {}; a configuration is ranked over all data sets of its protocol."
    rankings = []
    for score, title in (("borda", "Borda (as in arXiv:2508.14079)"), ("sum", "Sum of the perturbations")):
        ranked = rank_intervals(rows, outcomes=by_sample, metrics=metrics, score=score)
        for protocol, own in ranked.groupby("protocol", sort=False):
            lines = [
                RankingRow(
                    Configuration(**{name: row[name] for name in CONFIGURATION}),
                    float(row["score"]),
                    int(row["rank"]),
                    *(float(row[name]) for name in ("low", "high", "first")),
                )
                for _, row in own.iterrows()
            ]
            rankings.append(Ranking(title, str(protocol), lines, note.format(own["over"].iloc[0])))
    return rankings
