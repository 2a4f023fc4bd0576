"""What the demonstration says of its results, whichever way they went."""

from pathlib import Path

import numpy as np
import pytest

from evidence import table
from temper.cli import demo
from temper.margins.comparison import changes

N = 400
EPS = demo.THREAT.eps


def compared(**shares: tuple[float, float]) -> demo.Compared:
    """Three ways with these shares of correct images, and of images robust beyond the threat; the others that are
    correct flip at half of it."""
    tables = {}
    for way, (correct, robust) in zip(demo.WAYS, shares.values(), strict=True):
        place = np.arange(N) / N
        margins = np.where(place < robust, 2 * EPS, EPS / 2)
        tables[way] = table(margins, np.ones(N), predictions=(place >= correct).astype(int))
    quantities = {
        way: (each.clean_accuracy(), each.robust_accuracy("Linf", EPS), each.expected_robustness("Linf", EPS))
        for way, each in tables.items()
    }
    return demo.Compared(
        folders=dict.fromkeys(demo.WAYS, Path()),
        results={way: dict(zip("cre", values, strict=True)) for way, values in quantities.items()},
        loss=changes(tables[demo.FIXED], tables[demo.STANDARD], demo.THREAT),
        gain=changes(tables[demo.FIXED], tables[demo.SCHEDULED], demo.THREAT),
    )


def test_a_cure_is_told_with_its_numbers() -> None:
    words = demo.verdict(compared(standard=(0.98, 0.0), fixed=(0.5, 0.1), scheduled=(0.95, 0.4)))
    assert "fell from 98.0% to 50.0%: suboptimal transfer. Epsilon-Scheduling kept 95.0% (+45.0 points [" in words
    assert "up to Linf:115/255 it is more robust: 67.5% against 30.0% (+37.5 points [" in words
    assert "at the full strength more robust: 40.0% against 10.0% (+30.0 points [" in words
    assert "it won back 94% of the clean accuracy that fixed epsilon lost. In brackets" in words
    assert "same 400 test images" in words


def test_a_loss_at_the_full_strength_is_told() -> None:
    words = demo.verdict(compared(standard=(0.98, 0.0), fixed=(0.6, 0.3), scheduled=(0.95, 0.2)))
    assert "at the full strength less robust: 20.0% against 30.0% (-10.0 points [" in words
    assert "of the clean accuracy that fixed epsilon lost, at a price at the full strength." in words


@pytest.mark.parametrize(
    ("fixed", "scheduled", "says"),
    [
        ((0.98, 0.5), (0.98, 0.5), "not clearly below the 98.0% of standard fine-tuning. Epsilon-Scheduling came to"),
        ((0.5, 0.1), (0.4, 0.1), "Epsilon-Scheduling fell further, to 40.0%"),
        ((0.5, 0.3), (0.55, 0.0), "it is less robust: 27.5% against 40.0%"),
    ],
)
def test_no_cure_is_claimed_where_there_is_none(
    fixed: tuple[float, float], scheduled: tuple[float, float], says: str
) -> None:
    words = demo.verdict(compared(standard=(0.98, 0.0), fixed=fixed, scheduled=scheduled))
    assert says in words
    assert "Here no cure was seen. In brackets" in words
