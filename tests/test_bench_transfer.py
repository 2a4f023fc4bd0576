"""Severity in a grid: which run is compared with which, in the report and in SQL."""

import json

import numpy as np
import pandas as pd
import pytest

from bench_grid import tiny
from temper.benchmark.grid import cells
from temper.benchmark.queries import query
from temper.benchmark.reporting import write_site
from temper.benchmark.running import execute
from temper.benchmark.spec import read_spec
from temper.benchmark.store import Store
from temper.benchmark.transfer import with_severity
from temper.training.config import FinetuneConfig


def row(run: str, objective: str, clean: float, tested: str = "test", **changes: object) -> dict[str, object]:
    config = FinetuneConfig.model_validate({"objective": {"name": objective}} | changes).model_dump(mode="json")
    numbers = {"clean": clean, "clean_low": clean - 0.1, "clean_high": clean + 0.1, "clean_n": 100, "clean_unknown": 0}
    return {
        "run": run,
        "status": "done",
        "objective": objective,
        "config": json.dumps(config),
        "data": tested,
    } | numbers


def severities(*rows: dict[str, object]) -> dict[str, float]:
    frame = with_severity(pd.DataFrame(rows))
    return {str(each["run"]): float(each["severity"]) for _, each in frame.iterrows()}


def test_a_run_is_compared_with_standard_fine_tuning_of_the_same_task():
    found = severities(
        row("standard", "standard", 0.9),
        row("fixed", "at", 0.5, schedule={"name": "fixed"}),
        row("hinge", "at", 0.8, eps=4 / 255),
        row("trades", "trades", 0.95),
    )
    assert np.isnan(found.pop("standard"))
    assert found == pytest.approx({"fixed": 0.4, "hinge": 0.1, "trades": -0.05})


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"epochs": 7}, {"data": {"train": "photos"}}, {"protocol": {"name": "linear"}}]
)
def test_what_differs_otherwise_is_not_compared(other):
    found = severities(row("standard", "standard", 0.9, **other), row("fixed", "at", 0.5))
    assert np.isnan(found["fixed"])


def test_other_test_images_are_not_compared():
    assert np.isnan(severities(row("standard", "standard", 0.9, tested="other"), row("fixed", "at", 0.5))["fixed"])


def test_a_failed_run_is_no_standard():
    failed = row("standard", "standard", 0.9) | {"status": "failed", "clean": np.nan}
    assert np.isnan(severities(failed, row("fixed", "at", 0.5))["fixed"])


def test_rows_of_which_little_is_known_stay_as_they_are():
    rows = pd.DataFrame([{"run": "a", "status": "failed"}])
    assert with_severity(rows) is rows


def test_sql_has_it(tmp_path):
    store = Store(tmp_path, create=True)
    for each in (row("a", "standard", 0.9), row("b", "at", 0.5)):
        store.write_run(each)
    answer = query(store, "SELECT run, severity, severity_low FROM results ORDER BY run")
    assert answer["severity"].iloc[1] == pytest.approx(0.4)
    assert answer["severity_low"].iloc[1] == pytest.approx(0.4 - np.hypot(0.1, 0.1))
    assert pd.isna(answer["severity"].iloc[0])
    assert "severity" in query(store, "SELECT * FROM results")
    assert query(store, "SELECT run FROM results ORDER BY severity DESC NULLS LAST")["run"].tolist() == ["b", "a"]


@pytest.mark.slow
def test_the_leaderboard_has_delay_and_severity(tmp_path):
    spec = read_spec(
        tiny(
            objectives=["at", "standard"],
            exceptions=[{"where": {"objective": "standard", "schedule": "hinge"}, "skip": True}],
        )
    )
    grid, store = cells(spec), Store(tmp_path / "store", create=True)
    assert [execute(cell, store, "me") for cell in grid] == ["done"] * 3
    write_site(spec, grid, store, tmp_path / "site", partial=False)
    board = pd.read_csv(tmp_path / "site/results.csv").set_index(["objective", "schedule"])
    own, standard = board.loc["at", "hinge"], board.loc["standard", "fixed"]
    assert own["severity"] == pytest.approx(standard["clean"] - own["clean"])
    assert np.isnan(standard["severity"])
    assert board["delay"].between(1, 2).all()
    assert (board["delay_low"] <= board["delay"]).all()
    rows = store.rows().set_index("run")
    assert rows["delay_censored"].map(type).eq(bool).all()
