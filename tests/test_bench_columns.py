"""The metrics of a benchmark, each declared once: docs, leaderboard and result rows have just these."""

import re
from pathlib import Path

import pandas as pd
import pytest

from temper.benchmark.columns import as_columns, columns, from_columns, names
from temper.benchmark.spec import Measure
from temper.margins.intervals import Estimate

TOLD = ("delay", "severity")  # by every training, whatever is measured
DOCS = Path(__file__).parent.parent / "docs/benchmark.md"


def test_the_docs_list_just_these_columns():
    listed = re.findall(r"^\| `(\w+)` \| (.+) \|$", DOCS.read_text(encoding="utf-8"), re.M)
    assert listed == [(column.key, column.help) for column in columns(Measure())]


@pytest.mark.parametrize(
    ("measure", "keys"),
    [
        ({"tau": 0, "corruptions": False}, ["clean", "linf", "l2", "l1", "expected", *TOLD]),
        (
            {"threats": {"small": "L2:0.5"}},
            ["clean", "small", "common", "tau", *TOLD],
        ),  # no curve without a threat in Linf
    ],
)
def test_what_a_spec_does_not_measure_has_no_column(measure, keys):
    assert [column.key for column in columns(Measure(**measure))] == keys


def test_a_metric_comes_back_from_its_columns():
    estimate = Estimate(0.5, 0.25, 0.75, 8, 0.125)
    row = as_columns("linf", estimate)
    assert list(row) == names("linf")
    assert from_columns("linf", pd.Series(row)) == estimate
