import csv
import dataclasses
import io
import itertools
import json
import re
import shutil
import stat
import time
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest

from temper.benchmark.leaderboard import (
    Leaderboard,
    LeaderboardRun,
    Metric,
    Ranking,
    RankingRow,
    Value,
    write_leaderboard,
)
from temper.errors import ArgumentError
from temper.report.views import EpochRow

EVIL = "</script><img src=x onerror=alert(1)>\u2028'\"&<!--"
METRICS = (
    Metric("clean", "Clean", "Accuracy on the images as they are."),
    Metric("linf", "Linf 4/255", "Robust accuracy at Linf 4/255."),
    Metric("tau", "τ", "Margin consistency.", percent=False),
)
BACKBONES = {"convnext": ("large", "convolution"), "vit": ("small", "attention"), EVIL: ("small", "hybrid")}
IDENTITY = (
    "run", "backbone", "dataset", "objective", "schedule", "protocol", "seed", "tier", "type", "pretraining",
    "status", "error",
)  # fmt: skip
GAP = ("vit", "pets", "at", "hinge", "full-50", 1)
FAILED = ("convnext", "flowers", "at", "fixed", "full-50", 0)
MISSING = " · ".join(map(str, GAP))


def run(place, cell, **parts):
    tier, kind = BACKBONES[cell[0]]
    clean = 0.2 + (place * 37 % 61) / 100  # distinct and out of order
    linf = clean * (0.2 + (place * 17 % 40) / 100)
    full = {
        "tier": tier,
        "type": kind,
        "pretraining": "supervised" if cell[0] == "vit" else "fusion",
        "metrics": {
            "clean": Value(clean, clean - 0.05, clean + 0.05, 400),
            "linf": Value(linf, linf - 0.03, linf + 0.04, 400, 0.0125),
        },
        "curve": {"Linf": [(i / 255, clean - i * (clean - linf) / 4, 0.0, 1.0) for i in range(5)]},
        "facts": {"configuration": f"lr 0.1 of {cell[0]}"},
        "history": [EpochRow(e, e / 255, 2.0 / e, 0.3, None, 1e-3) for e in (1, 2, 3)],
    }
    if place % 5:  # some runs were not measured
        full["metrics"]["tau"] = Value(0.5 + (place * 13 % 29) / 100)
    return LeaderboardRun(f"run{place}", *cell, **{**full, **parts})


@pytest.fixture(scope="module")
def board():
    grid = itertools.product(
        BACKBONES, ("pets", "flowers"), ("at",), ("fixed", "hinge"), ("full-50", "linear-50"), (0, 1)
    )
    runs = []
    for place, cell in enumerate(grid):
        if cell == FAILED:
            runs.append(
                run(place, cell, status="failed", error=f"ValueError: {EVIL}", metrics={}, curve={}, history=())
            )
        elif cell != GAP:
            runs.append(run(place, cell))
    rows = [
        RankingRow("convnext", "at", "hinge", 31, 1, 1, 2, 0.8),
        RankingRow("vit", "at", "fixed", 27, 2, 1, 3, 0.2),
        RankingRow(EVIL, "at", "fixed", 12, 3, 2, 3, 0.001),
    ]
    return Leaderboard(
        f"Board of {EVIL}",
        runs,
        METRICS,
        [Ranking("Borda", "full-50", rows, "Over two data sets.")],
        [MISSING, *(f"gap {i}" for i in range(12))],
        [("Scheduling helps", f"In most cells.\n\nBut see {EVIL}")],
        "1.2.3",
    )


@pytest.fixture(scope="module")
def site(board, tmp_path_factory):
    return write_leaderboard(board, tmp_path_factory.mktemp("site"))


class Page(HTMLParser):
    """Elements and texts; ``scripts`` is what stands in each script element."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self.scripts, self._inside = [], [], [], ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).replace("\u00a0", " ").split())


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def as_row(run):
    """A run as the CSV ought to have it."""
    row = {name: getattr(run, name) for name in IDENTITY}
    for metric in METRICS:
        value = run.metrics.get(metric.key)
        row[metric.key] = value and value.value
        for part in ("low", "high", "n", "unknown"):
            row[f"{metric.key}_{part}"] = value and getattr(value, part)
    return row


def assert_same_rows(told, runs):
    assert len(told) == len(runs)
    for row, expected in zip(told, map(as_row, runs), strict=True):
        assert list(row) == list(expected)
        for name, value in expected.items():
            got = row[name]
            assert (float(got) if got and isinstance(value, float | int) else got) == ("" if value is None else value)


# ---- Structure ----


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
    done = [run for run in board.runs if run.status == "done"]
    text = Page(write_leaderboard(dataclasses.replace(board, runs=done, missing=()), tmp_path)).text
    assert "no result" not in text
    assert "failed" not in text.lower()


def test_page_of_a_run_has_its_metrics_curve_and_facts(board, site):
    shown = next(run for run in board.runs if run.run == "run1")
    text = Page(site.parent / "runs" / "run1.html").text
    clean, linf = shown.metrics["clean"], shown.metrics["linf"]
    assert f"{100 * clean.value:.1f} % {100 * clean.low:.1f} to {100 * clean.high:.1f} % 400 –" in text
    assert f"{100 * linf.value:.1f} %" in text
    assert "400 1.2 %" in text
    assert f"τ Margin consistency. {shown.metrics['tau'].value:.3f} – – –" in text
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


def test_a_thousand_runs_are_written_in_seconds(board, tmp_path):
    runs = [dataclasses.replace(board.runs[1], run=f"r{i}", seed=i, history=()) for i in range(1000)]
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
        (lambda b: dataclasses.replace(b.runs[0], status="lost"), "'done' or 'failed'"),
        (lambda b: dataclasses.replace(b.runs[0], curve={"L2": [(1, 0.1, 0, 1), (1, 0.1, 0, 1)]}), "must rise"),
        (lambda b: dataclasses.replace(b.runs[0], curve={"L2": [(1, float("nan"), 0, 1)]}), "not finite"),
        (lambda b: Value(float("nan")), "value = nan"),
        (lambda b: Value(0.5, 0.6, 0.7), "must hold the value 0.5"),
        (lambda b: Value(0.5, 0.4), "two ends"),
        (lambda b: RankingRow("a", "b", "c", 1.0, 5, 1, 4), "must hold the value 5"),
        (lambda b: RankingRow("a", "b", "c", float("inf"), 1), "score = inf"),
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


# ---- In a browser ----


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"needs one of {', '.join(names)} on the PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, site):
    """Opens the index at a view; at the end, nothing may have been logged or fetched."""
    troubles, pages = [], []

    def opened(view="", **options):
        page = browser.new_page(**{"viewport": {"width": 1400, "height": 1000}, **options})
        page.set_default_timeout(5000)
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        page.on(
            "request",
            lambda request: urlsplit(request.url).scheme in ("file", "blob") or troubles.append(request.url),
        )
        pages.append(page)
        page.goto(site.as_uri() + view)
        return page

    yield opened
    for page in pages:
        page.close()
    assert troubles == []


def table(page):
    """Cells of the table, row by row, by column."""
    return page.evaluate(
        """() => {
          const table = document.getElementById("table");
          const keys = [...table.tHead.rows[0].cells].map((cell) => cell.dataset.key);
          return [...table.tBodies[0].rows].map((row) => Object.fromEntries(keys.map((key, i) =>
            [key, (row.cells[i].querySelector(".name, .main") ?? row.cells[i]).textContent.trim()])));
        }"""
    )


def done(board, protocol="full-50"):
    return [run for run in board.runs if run.status == "done" and run.protocol == protocol]


def test_sorting_by_a_metric_is_pythons_order_and_what_is_not_measured_comes_last(board, visit):
    page = visit("#each=1")
    header = page.locator('#table th[data-key="tau"]')
    for direction, reverse in (("descending", True), ("ascending", False)):
        header.locator("button").press("Enter")
        assert header.get_attribute("aria-sort") == direction
        told = [row["tau"] for row in table(page)]
        measured = [run.metrics["tau"].value for run in done(board) if "tau" in run.metrics]
        values = sorted(measured, reverse=reverse)
        blanks = sum("tau" not in run.metrics for run in done(board))
        assert blanks
        assert told == [f"{value:.3f}" for value in values] + ["–"] * blanks
    page.locator('#table th[data-key="backbone"] button').click()
    assert [row["backbone"] for row in table(page)] == sorted(run.backbone for run in done(board))
    assert page.locator("#table th[aria-sort=ascending]").count() == 1


def test_seeds_are_averaged_and_a_lost_one_is_struck_through(board, visit):
    page = visit()
    told = {(row["backbone"], row["dataset"], row["schedule"]): row for row in table(page)}
    cells = {}
    for each in done(board):
        cells.setdefault((each.backbone, each.dataset, each.schedule), []).append(each)
    assert told.keys() == cells.keys()
    for cell, members in cells.items():
        assert told[cell]["clean"] == f"{100 * sum(m.metrics['clean'].value for m in members) / len(members):.1f}"
        assert told[cell]["linf"].endswith("?")  # some samples are unknown
        measured = sum("tau" in m.metrics for m in members)
        # A mean over some of the seeds would pass for one over all.
        if 0 < measured < len(members):
            assert told[cell]["tau"] == f"{measured} of {len(members)}"
    struck = page.locator("#table tbody tr", has=page.locator("s"))
    assert struck.count() == 2  # the gap and the failed run
    assert {("vit", "pets", "hinge"), ("convnext", "flowers", "fixed")} == {c for c, m in cells.items() if len(m) == 1}


def test_filters_protocol_and_search_choose_rows_and_the_address_keeps_them(board, visit, site):
    page = visit()
    page.select_option("[name=protocol]", "linear-50")
    page.select_option("[name=dataset]", "pets")
    page.fill("[name=q]", "SUPERvised vit")
    page.check("#each")
    expected = [
        (r.schedule, str(r.seed)) for r in done(board, "linear-50") if (r.backbone, r.dataset) == ("vit", "pets")
    ]
    assert len(expected) == 4
    assert sorted((row["schedule"], row["seed"]) for row in table(page)) == sorted(expected)
    assert page.text_content("#count").startswith("4 rows of 4 runs")
    again = visit("#" + urlsplit(page.url).fragment)
    assert table(again) == table(page)
    assert again.input_value("[name=dataset]") == "pets"
    assert again.is_checked("#each")
    page.click("button[type=reset]")
    assert len(table(page)) == len(done(board))
    page.select_option("[name=protocol]", "")
    assert {row["protocol"] for row in table(page)} == {"full-50", "linear-50"}
    page.fill("[name=q]", "nothing has this name")
    assert table(page) == []
    assert page.text_content("#count") == "No run passes the filters."


def test_ranks_of_a_ranking_and_of_a_metric(board, visit):
    page = visit()
    rows = page.locator("#ranks tbody tr")
    assert rows.count() == 3
    first = " ".join(rows.nth(0).inner_text().split())
    assert first == "1 convnext 1 at · hinge 31 1–2 0.80"
    assert rows.nth(2).locator(".first").inner_text() == "<0.01"
    assert page.locator("#medals li").count() == 3
    page.select_option("#by", "clean")
    cells = {}
    for each in done(board):
        cells.setdefault((each.backbone, each.schedule), {}).setdefault(each.dataset, []).append(
            each.metrics["clean"].value
        )
    scores = sorted(
        (sum(sum(v) / len(v) for v in by.values()) / len(by) for by in cells.values() if len(by) == 2), reverse=True
    )
    # A tenth of a percent may be rounded either way.
    told = [float(text) for text in rows.locator(".score").all_inner_texts()]
    assert told == pytest.approx([100 * score for score in scores], abs=0.0501)
    # Two independent data sets, each 5 points either way: 5 / sqrt(2) for their mean.
    low, high = rows.nth(0).locator(".reach-words").inner_text().split("–")
    assert float(high) - float(low) == pytest.approx(2 * 5 / 2**0.5, abs=0.11)
    assert "lack a seed" in page.inner_text("#ranks")
    page.select_option("[name=tier]", "small")
    assert rows.count() == 4
    assert "Ranks are among all 6 configurations" in page.inner_text("#ranks")


def test_a_configuration_that_lacks_a_data_set_is_not_ranked(board, browser, tmp_path):
    runs = [each for each in done(board) if (each.backbone, each.schedule, each.dataset) != ("vit", "hinge", "pets")]
    page = browser.new_page()
    page.goto(write_leaderboard(dataclasses.replace(board, runs=runs, rankings=()), tmp_path).as_uri())
    assert page.locator("#ranks tbody tr").count() == 5
    assert "Not ranked, because they lack results: vit, at, hinge (1 of 2 data sets)." in page.inner_text("#ranks")
    page.close()


def test_page_of_a_run_and_back_to_the_same_view(board, visit):
    page = visit()
    page.select_option("[name=dataset]", "flowers")
    before = table(page)
    page.locator("#table a.run").first.click()
    page.wait_for_url("**/runs/*.html*")
    assert page.locator("#accuracy svg.chart").count() == 1
    assert page.locator("#history svg.chart").count() == 4
    page.click("#back")
    page.wait_for_url("**/index.html*")
    assert table(page) == before
    assert page.input_value("[name=dataset]") == "flowers"


def test_two_pinned_curves_are_compared_and_linked(board, visit):
    page = visit()
    pins = page.locator("#table button.pin")
    page.locator("#table tbody tr").nth(1).locator("td").nth(1).click()
    pins.nth(3).press("Enter")
    page.mouse.move(5, 5)
    page.locator("[name=q]").focus()
    assert [pins.nth(i).get_attribute("aria-pressed") for i in range(4)] == ["false", "true", "false", "true"]
    assert page.locator("#curves .legend li").count() == 2
    lines = page.locator("#curves svg.chart polyline")
    assert lines.count() == 2
    assert lines.nth(0).get_attribute("points") != lines.nth(1).get_attribute("points")
    again = visit("#" + urlsplit(page.url).fragment)
    assert again.locator("#curves svg.chart polyline").count() == 2
    again.locator("#curves .off").first.click()
    assert again.locator("#curves .legend li").count() == 1
    page.locator("#table tbody tr").nth(0).hover()
    assert page.locator("#curves .legend li").count() == 3  # what is pointed at comes on top


def test_downloads_are_the_data(board, visit):
    page = visit("#dataset=pets")
    with page.expect_download() as shown:
        page.click("#download")
    runs = [each for each in done(board) if each.dataset == "pets"]
    assert_same_rows(rows_of(shown.value.path().read_text(encoding="utf-8")), runs)
    with page.expect_download() as everything:
        page.click("a[href='results.csv']")
    assert_same_rows(rows_of(everything.value.path().read_text(encoding="utf-8")), board.runs)


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_the_screen(visit, width, scheme):
    page = visit(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.locator("#table button.pin").first.click()
    wide = "() => document.documentElement.scrollWidth - innerWidth"
    assert page.evaluate(wide) <= 0
    page.locator("#table a.run").first.click()
    page.wait_for_url("**/runs/*.html*")
    assert page.evaluate(wide) <= 0


def test_long_tables_show_a_hundred_rows_and_more_on_demand(board, browser, tmp_path):
    runs = [dataclasses.replace(board.runs[1], run="", seed=i) for i in range(250)]
    page = browser.new_page()
    page.goto(write_leaderboard(dataclasses.replace(board, runs=runs), tmp_path).as_uri() + "#each=1")
    seen = []
    while page.locator("#more").is_visible():
        seen.append(len(table(page)))
        page.click("#more")
    assert [*seen, len(table(page))] == [100, 200, 250]
    page.close()
