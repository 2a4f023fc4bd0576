"""The leaderboard in a browser: sorting, filters, ranks, curves, downloads."""

import dataclasses
from urllib.parse import urlsplit

import pytest

from boards import assert_same_rows, rows_of, whole_board
from temper.benchmark.leaderboard import Measured, Metric, write_leaderboard
from temper.margins.intervals import Estimate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def board():
    return whole_board()


@pytest.fixture(scope="module")
def site(board, tmp_path_factory):
    return write_leaderboard(board, tmp_path_factory.mktemp("site"))


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


def clean(run):
    return run.measured.metrics["clean"].value


def done(board, protocol="full-50"):
    return [run for run in board.runs if not run.failed and run.factors.protocol == protocol]


def test_sorting_by_a_metric_is_pythons_order_and_what_is_not_measured_comes_last(board, visit):
    page = visit("#each=1")
    header = page.locator('#table th[data-key="tau"]')
    for direction, reverse in (("descending", True), ("ascending", False)):
        header.locator("button").press("Enter")
        assert header.get_attribute("aria-sort") == direction
        told = [row["tau"] for row in table(page)]
        measured = [run.measured.metrics["tau"].value for run in done(board) if "tau" in run.measured.metrics]
        values = sorted(measured, reverse=reverse)
        blanks = sum("tau" not in run.measured.metrics for run in done(board))
        assert blanks
        assert told == [f"{value:.3f}" for value in values] + ["–"] * blanks
    page.locator('#table th[data-key="backbone"] button').click()
    assert [row["backbone"] for row in table(page)] == sorted(run.factors.backbone for run in done(board))
    assert page.locator("#table th[aria-sort=ascending]").count() == 1


def test_seeds_are_averaged_and_a_lost_one_is_struck_through(board, visit):
    page = visit()
    told = {(row["backbone"], row["dataset"], row["schedule"]): row for row in table(page)}
    cells = {}
    for each in done(board):
        cells.setdefault((each.factors.backbone, each.factors.dataset, each.factors.schedule), []).append(each)
    assert told.keys() == cells.keys()
    for cell, members in cells.items():
        assert told[cell]["clean"] == f"{100 * sum(map(clean, members)) / len(members):.1f}"
        assert told[cell]["linf"].endswith("?")  # some samples are unknown
        measured = sum("tau" in m.measured.metrics for m in members)
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
        (r.factors.schedule, str(r.factors.seed))
        for r in done(board, "linear-50")
        if (r.factors.backbone, r.factors.dataset) == ("vit", "pets")
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
        by_dataset = cells.setdefault((each.factors.backbone, each.factors.schedule), {})
        by_dataset.setdefault(each.factors.dataset, []).append(clean(each))
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


def test_where_lower_is_better_the_lowest_is_first(board, browser, tmp_path):
    late = {"convnext": 2.0, "vit": 11.0}
    metric = Metric("delay", "delay, epochs", "First epoch that passes.", percent=False, digits=1, lower=True)
    runs = [
        dataclasses.replace(each, measured=Measured({"delay": Estimate(epochs, epochs, epochs, 90)}))
        for each in done(board)
        if (epochs := late.get(each.factors.backbone))
    ]
    page = browser.new_page()
    small = dataclasses.replace(board, runs=runs, metrics=[metric], rankings=())
    page.goto(write_leaderboard(small, tmp_path).as_uri())
    page.select_option("#by", "delay")
    ranked = [" ".join(text.split()) for text in page.locator("#ranks tbody tr").all_inner_texts()]
    assert ranked[0].startswith("1 convnext")
    assert "2.0" in ranked[0]
    assert "vit" in ranked[-1]
    assert "11.0" in ranked[-1]
    page.locator('#table th[data-key="backbone"] button').click()
    header = page.locator('#table th[data-key="delay"]')
    header.locator("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert table(page)[0]["delay"] == "2.0"
    page.close()


def test_a_configuration_that_lacks_a_data_set_is_not_ranked(board, browser, tmp_path):
    runs = [
        each
        for each in done(board)
        if (each.factors.backbone, each.factors.schedule, each.factors.dataset) != ("vit", "hinge", "pets")
    ]
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
    runs = [each for each in done(board) if each.factors.dataset == "pets"]
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
    runs = [
        dataclasses.replace(board.runs[1], run="", factors=dataclasses.replace(board.runs[1].factors, seed=i))
        for i in range(250)
    ]
    page = browser.new_page()
    page.goto(write_leaderboard(dataclasses.replace(board, runs=runs), tmp_path).as_uri() + "#each=1")
    seen = []
    while page.locator("#more").is_visible():
        seen.append(len(table(page)))
        page.click("#more")
    assert [*seen, len(table(page))] == [100, 200, 250]
    page.close()
