"""The leaderboard: one static site, its pages and its data."""

import dataclasses
import json
import re
import stat
import time
from math import nan

import pytest

from boards import EVIL, METRICS, Page, assert_same_rows, rows_of, whole_board
from temper.benchmark.configuration import Configuration
from temper.benchmark.leaderboard import (
    Leaderboard,
    Measured,
    Metric,
    RankingRow,
    write_leaderboard,
)
from temper.errors import ArgumentError
from temper.margins.intervals import Estimate


@pytest.fixture(scope="module")
def board():
    return whole_board()


@pytest.fixture(scope="module")
def site(board, tmp_path_factory):
    return write_leaderboard(board, tmp_path_factory.mktemp("site"))


def test_site_has_an_index_a_csv_and_a_page_per_run(board, site):
    found = {path.relative_to(site.parent).as_posix() for path in site.parent.rglob("*") if path.is_file()}
    assert found == {"index.html", "results.csv", *(f"runs/{run.run}.html" for run in board.runs)}


def test_csv_is_the_data_to_the_last_digit(board, site):
    assert_same_rows(rows_of((site.parent / "results.csv").read_text(encoding="utf-8")), board.runs)


@pytest.mark.parametrize("name", ["index.html", "runs/run40.html", "runs/run8.html"])
def test_names_and_errors_are_text_on_every_page(site, name):
    page = Page(site.parent / name)
    assert not [tag for tag, _ in page.elements if tag in ("img", "link", "iframe")]
    assert not [a for _, a in page.elements if any(key.startswith("on") or key == "src" for key in a)]
    assert len(page.scripts) == 2
    assert json.loads(page.scripts[0])
    assert EVIL.split("\u2028")[0] in page.text


def test_only_the_pages_own_script_may_run_and_nothing_may_be_fetched(site):
    for path in (site, site.parent / "runs" / "run3.html"):
        policy = next(a["content"] for t, a in Page(path).elements if t == "meta" and "http-equiv" in a)
        assert policy.startswith("default-src 'none';")
        assert re.search(r"script-src 'sha256-[\w+/]{43}='$", policy)


def test_missing_cells_are_all_listed_and_failures_have_their_error(board, site):
    text = Page(site).text
    assert "13 cells of the grid have no result." in text
    assert "5 more" in text
    assert all(cell in text for cell in board.missing)
    assert "1 run failed" in text
    assert "ValueError: </script><img" in text
    assert "In most cells." in text
    assert "But see" in text
    assert "46 runs · 3 backbones · 2 data sets · 2 protocols · 1.2.3" in text


def test_a_complete_board_has_no_warning(board, tmp_path):
    done = [run for run in board.runs if not run.failed]
    text = Page(write_leaderboard(dataclasses.replace(board, runs=done, missing=()), tmp_path)).text
    assert "no result" not in text
    assert "failed" not in text.lower()


def test_page_of_a_run_has_its_metrics_curve_and_facts(board, site):
    shown = next(run for run in board.runs if run.run == "run1")
    text = Page(site.parent / "runs" / "run1.html").text
    clean, linf = shown.measured.metrics["clean"], shown.measured.metrics["linf"]
    assert f"{100 * clean.value:.1f} % {100 * clean.low:.1f} to {100 * clean.high:.1f} % 400 –" in text
    assert f"{100 * linf.value:.1f} %" in text
    assert "400 1.2 %" in text
    assert f"τ Margin consistency. {shown.measured.metrics['tau'].value:.3f} – – –" in text
    assert f"4/255 {100 * linf.value:.1f}" in text
    assert "lr 0.1 of convnext" in text


def test_same_board_same_bytes(board, site, tmp_path):
    write_leaderboard(board, tmp_path)
    for path in site.parent.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.relative_to(site.parent)).read_bytes()


def test_run_without_a_name_has_no_page(board, tmp_path):
    published = dataclasses.replace(board.runs[0], run="")
    site = write_leaderboard(Leaderboard("b", [published], METRICS), tmp_path)
    assert [path.name for path in sorted(site.parent.iterdir())] == ["index.html", "results.csv"]


@pytest.mark.slow
def test_a_thousand_runs_are_written_in_seconds(board, tmp_path):
    runs = [
        dataclasses.replace(
            board.runs[1], run=f"r{i}", factors=dataclasses.replace(board.runs[1].factors, seed=i), history=()
        )
        for i in range(1000)
    ]
    started = time.process_time()
    site = write_leaderboard(dataclasses.replace(board, runs=runs), tmp_path)
    assert time.process_time() - started < 5
    assert site.stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda b: Leaderboard("b", [], METRICS), "at least one run"),
        (lambda b: Leaderboard("b", b.runs, []), "at least one metric"),
        (lambda b: Leaderboard("b", b.runs, METRICS[:2]), "metrics = 'tau'"),
        (lambda b: Leaderboard("b", b.runs, [Metric("clea", "", ""), *METRICS[1:]]), "did you mean clea"),
        (lambda b: Leaderboard("b", [b.runs[0], b.runs[0]], METRICS), "'run0': is there twice"),
        (lambda b: Leaderboard("b", [b.runs[0], dataclasses.replace(b.runs[0], run="x")], METRICS), "one finished run"),
        (lambda b: dataclasses.replace(b, rankings=b.rankings * 2), "'Borda'"),
        (lambda b: dataclasses.replace(b.runs[0], run="../evil"), "names a file"),
        (lambda b: dataclasses.replace(b.runs[0], run=".."), "names a file"),
        (lambda b: Measured(curve={"L2": [(1, 0.1, 0, 1), (1, 0.1, 0, 1)]}), "must rise"),
        (lambda b: Measured(curve={"L2": [(1, float("nan"), 0, 1)]}), "not finite"),
        (lambda b: Measured({"clean": Estimate(nan, nan, nan, 0)}), "value = nan"),
        (lambda b: Measured({"clean": Estimate(0.5, 0.6, 0.7, 9)}), "must hold the value 0.5"),
        (lambda b: Measured({"clean": Estimate(0.5, 0.4, nan, 9)}), "two ends"),
        (lambda b: RankingRow(Configuration("a", "b", "c"), 1.0, 5, 1, 4), "must hold the value 5"),
        (lambda b: RankingRow(Configuration("a", "b", "c"), float("inf"), 1), "score = inf"),
    ],
)
def test_what_cannot_be_shown_is_refused_by_name(board, wrong, words):
    with pytest.raises(ArgumentError, match=re.escape(words)):
        wrong(board)


def test_a_folder_that_cannot_be_written_is_named(board, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match=r"folder = .*file"):
        write_leaderboard(board, tmp_path / "file")
    assert stat.S_ISREG((tmp_path / "file").stat().st_mode)
