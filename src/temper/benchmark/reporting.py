"""The leaderboard of a grid: complete, or with what is missing in plain sight."""

import json
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from temper.benchmark.analysis import PERTURBATIONS, perturbation_sum, rank_intervals, whole
from temper.benchmark.findings import Finding, findings
from temper.benchmark.grid import FACTORS, Cell
from temper.benchmark.leaderboard import (
    Leaderboard,
    LeaderboardRun,
    Metric,
    Ranking,
    RankingRow,
    Value,
    write_leaderboard,
)
from temper.benchmark.outcomes import margins_of, outcomes
from temper.benchmark.progress import GridState, state
from temper.benchmark.spec import Measure, Spec
from temper.benchmark.store import DONE, Store, require
from temper.errors import EvidenceError
from temper.report.views import EpochRow

TOLD = ("config", "seconds", "train_n", "classes", "passes", "weights", "data", "versions", "history", "warnings")
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
    found = state(cells, store)
    if not found.complete and not partial:
        raise EvidenceError(_refusal(found, len(cells), store))
    if not found.done:
        raise EvidenceError(f"{store.place}: no run of this grid is done; temper bench run carries it out")
    _check_rows(found.rows[found.rows["status"] == DONE], spec.measure, store.place)
    return write_leaderboard(_board(spec, found, store), out)


def _check_rows(rows: pd.DataFrame, measure: Measure, place: str) -> None:
    """Refuse rows without something that the site shows; a constant predictor has no tau."""
    metrics = [column.key for column in _columns(measure) if column.key != "sum"]
    require(rows, [*FACTORS, *TOLD, *(name for name in metrics if name != "tau")], place)
    for name in metrics:
        if name in rows:
            parts = [f"{name}_{part}" for part in ("low", "high", "n", "unknown")]
            require(rows[rows[name].notna()], parts, place)


def _refusal(found: GridState, total: int, store: Store) -> str:
    labels = [f"{cell.label} (failed)" for cell in found.failed] + [cell.label for cell in found.missing]
    more = f" and {len(labels) - LISTED} more" if len(labels) > LISTED else ""
    return (
        f"{store.place}: {len(labels)} of {total} runs are not there: {'; '.join(labels[:LISTED])}{more}; "
        "temper bench run carries them out, --partial reports without them"
    )


def _board(spec: Spec, found: GridState, store: Store) -> Leaderboard:
    measure = spec.measure
    columns = _columns(measure)
    scoring = [column.key for column in columns if column.key in (*PERTURBATIONS, *measure.parsed)]
    ranked = _whole(found)
    rows = found.rows[found.rows["run"].isin([cell.run for cell in ranked])].reset_index(drop=True)
    by_sample = outcomes(ranked, store) if ranked else None
    by_run = {row["run"]: row for _, row in found.rows.iterrows()}
    missing = [f"{cell.label}: failed" for cell in found.failed] + [cell.label for cell in found.missing]
    return Leaderboard(
        title=spec.name,
        runs=[_run(cell, by_run[cell.run], columns, store) for cell in [*found.done, *found.failed]],
        metrics=columns,
        rankings=_rankings(rows, by_sample, scoring) if ranked else (),
        missing=missing,
        findings=[*_left_out(found, ranked), *(findings(rows, by_sample, scoring) if ranked else ())],
        version=metadata.version("temper"),
    )


def _whole(found: GridState) -> list[Cell]:
    """Runs of the configurations that have every data set and seed of their protocol."""
    done, planned = (pd.DataFrame([cell.factors for cell in cells]) for cells in (found.done, found.all))
    return [found.done[place] for place in whole(done, planned).index]


def _left_out(found: GridState, ranked: Sequence[Cell]) -> Iterator[Finding]:
    """Which configurations are not compared, and why."""
    kept = {_configuration(cell) for cell in ranked}
    names = dict.fromkeys(name for cell in found.all if (name := _configuration(cell)) not in kept)
    if names:
        listed = "; ".join(list(names)[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
        yield (
            "Neither ranked nor averaged",
            f"These lack a data set or a seed that others of their protocol have: {listed}.",
        )


def _configuration(cell: Cell) -> str:
    return ", ".join(str(cell.factors[name]) for name in ("backbone", "objective", "schedule", "protocol"))


def _columns(measure: Measure) -> list[Metric]:
    threats = [
        Metric(name, str(threat), f"Accuracy under attacks within {threat}, suite {measure.suite}.")
        for name, threat in measure.parsed.items()
    ]
    columns = [Metric("clean", "clean", "Accuracy on unchanged images."), *threats]
    if measure.corruptions:
        columns.append(
            Metric("common", "common", "Accuracy under common corruptions, one of 11 per image, severity 3.")
        )
    columns.append(Metric("sum", "sum", "Sum of the accuracies to the left.", percent=False))
    if measure.curve:
        text = f"Robust accuracy averaged over all radii up to {measure.curve}."
        columns.append(Metric("expected", "expected robustness", text))
    if measure.tau:
        text = (
            "Margin consistency: Kendall's tau between logit margin and input margin (1: the logit margin tells all)."
        )
        columns.append(Metric("tau", "τ", text, percent=False))
    return columns


def _run(cell: Cell, row: "pd.Series[Any]", columns: Sequence[Metric], store: Store) -> LeaderboardRun:
    factors = {name: cell.factors[name] for name in FACTORS}
    facts = {name: str(cell.facts.get(name, "")) for name in ("tier", "type", "pretraining")}
    shared = factors | facts | {"run": cell.run, "facts": _facts(cell, row)}
    if row["status"] != "done":
        return LeaderboardRun(**shared, status="failed", error=str(row["error"]))
    metrics = {column.key: _value(row, column.key) for column in columns if pd.notna(row.get(column.key))}
    added = [column.key for column in columns[: [each.key for each in columns].index("sum")]]
    if all(name in metrics for name in added):
        total = perturbation_sum(pd.DataFrame([row[added].astype(float)]), added).iloc[0]
        metrics["sum"] = Value(float(total), n=metrics["clean"].n)
    return LeaderboardRun(**shared, metrics=metrics, curve=_curve(cell, store), history=_history(row))


def _value(row: "pd.Series[Any]", name: str) -> Value:
    low, high, n, unknown = (row[f"{name}_{part}"] for part in ("low", "high", "n", "unknown"))
    return Value(float(row[name]), float(low), float(high), int(n), float(unknown))


def _facts(cell: Cell, row: "pd.Series[Any]") -> dict[str, str]:
    facts = {"run": cell.run, "took": f"{row['seconds']:.0f} s"}
    if row["status"] == "done":
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
    table, curves = margins_of(store, cell.run, cell.measure.suite), {}
    for norm in dict.fromkeys(threat.norm for threat in cell.measure.searched):
        radii = [0.0, *sorted(threat.eps for threat in cell.measure.searched if threat.norm == norm)]
        points = zip(radii, table.accuracy_curve(norm, radii), strict=True)
        curves[str(norm)] = [(eps, point.value, point.low, point.high) for eps, point in points]
    return curves


def _history(row: "pd.Series[Any]") -> list[EpochRow]:
    names = ("epoch", "eps", "train_loss", "train_accuracy", "validation_accuracy", "lr")
    return [EpochRow(**{name: line[name] for name in names}) for line in json.loads(row["history"])]


def _rankings(rows: pd.DataFrame, by_sample: pd.DataFrame | None, metrics: Sequence[str]) -> list[Ranking]:
    note = "Intervals: 95 %, over {}; a configuration is ranked over all data sets of its protocol."
    found = []
    for score, title in (("borda", "Borda (as in arXiv:2508.14079)"), ("sum", "Sum of the perturbations")):
        ranked = rank_intervals(rows, outcomes=by_sample, metrics=metrics, score=score)
        for protocol, own in ranked.groupby("protocol", sort=False):
            lines = [
                RankingRow(
                    row["backbone"], row["objective"], row["schedule"], float(row["score"]), int(row["rank"]),
                    float(row["low"]), float(row["high"]), float(row["first"]),
                )
                for _, row in own.iterrows()
            ]  # fmt: skip
            found.append(Ranking(title, str(protocol), lines, note.format(own["over"].iloc[0])))
    return found
