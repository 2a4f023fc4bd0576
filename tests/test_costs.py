"""What a suite is said to cost, against what it takes where nothing can be broken."""

import pytest

from temper import evaluate
from temper.attacks.suites import get_suite
from temper.benchmark.costs import _suite_passes
from test_engine import Watched, work_for


@pytest.mark.parametrize("suite", ["fast", "margin", "apgd", "pgd"])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_search_takes_no_more_passes_than_planned(suite, norm):
    model = Watched()
    work = work_for(model, 3)
    frame = evaluate(model, work.x, work.y, f"{norm}:1e-6", suite=suite).frame
    forward, backward = _suite_passes(get_suite(suite), [norm])
    assert 0 < frame["forward"].max() <= forward
    assert frame["backward"].max() <= backward


def test_the_passes_that_checks_take_are_counted():
    assert _suite_passes(get_suite("margin"), ["Linf"])[0] >= 114
    assert _suite_passes(get_suite("standard"), ["Linf"])[0] >= 7810
