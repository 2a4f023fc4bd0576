"""Paired changes between two classifiers on the same samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence import table
from temper.errors import EvidenceError
from temper.margins import intervals
from temper.margins.comparison import changes, clean_change
from temper.threat import Threat

THREAT = Threat("Linf", 0.4)


def test_changes_are_the_differences_of_the_tables_own_figures():
    rng = np.random.default_rng(0)
    one, other = (table(rng.uniform(0, 0.8, 200), np.ones(200), predictions=rng.integers(0, 2, 200)) for _ in range(2))
    got = changes(one, other, THREAT)
    want = [
        (got.clean, [each.clean_accuracy() for each in (one, other)]),
        (got.robust, [each.robust_accuracy("Linf", 0.4) for each in (one, other)]),
        (got.expected, [each.expected_robustness("Linf", 0.4) for each in (one, other)]),
    ]
    for change, (before, after) in want:
        assert change.value == pytest.approx(after.value - before.value)
        assert change.low < change.value < change.high
        assert change.n == 200


def test_clean_accuracies_are_compared_whatever_was_searched():
    one, other = (
        table([0.1] * 8, [1.0] * 8, predictions=predictions, norm=norm)
        for predictions, norm in (([1, 1, 1, 1, 1, 0, 0, 0], "Linf"), ([0, 0, 1, 1, 0, 0, 0, 0], "L2"))
    )
    change = clean_change(one, other)
    assert change.value == pytest.approx(other.clean_accuracy().value - one.clean_accuracy().value) != 0
    with pytest.raises(EvidenceError, match="different samples"):
        clean_change(one, table([0.1] * 8, [1.0] * 8, samples=range(1, 9)))


def test_what_both_find_hard_does_not_widen_a_paired_interval():
    margins = np.random.default_rng(1).uniform(0, 0.8, 300)
    one, other = table(margins, np.ones(300)), table(np.minimum(margins + 0.02, 0.8), np.ones(300))
    got = changes(one, other, THREAT)
    assert got.expected.low > 0
    assert one.expected_robustness("Linf", 0.4).high > other.expected_robustness("Linf", 0.4).low  # these overlap


def test_the_other_way_round_the_sign_turns():
    rng = np.random.default_rng(2)
    one, other = (table(rng.uniform(0, 0.8, 50), np.ones(50)) for _ in range(2))
    there, back = changes(one, other, THREAT), changes(other, one, THREAT)
    assert (there.expected.low, there.expected.high) == pytest.approx((-back.expected.high, -back.expected.low))


def test_other_samples_are_refused():
    one = table([0.1, 0.2], [1.0, 1.0])
    with pytest.raises(EvidenceError, match="different samples"):
        changes(one, table([0.1, 0.2], [1.0, 1.0], samples=[0, 2]), THREAT)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=30))
def test_what_is_not_settled_only_widens(rows):
    lowest, highest = np.sort(np.array(rows).reshape(-1, 2, 2), axis=2).transpose(2, 1, 0)
    got = intervals.difference((lowest[0], highest[0]), (lowest[1], highest[1]))
    settled = intervals.difference((lowest[0], lowest[0]), (lowest[1], lowest[1]))
    assert -1 <= got.low <= got.value <= got.high <= 1
    assert got.low <= settled.low + 1e-3
    assert settled.high - 1e-3 <= got.high
    assert got.unknown == pytest.approx((highest - lowest).mean(1).sum())


@pytest.mark.parametrize("n", [20, 200])
def test_the_difference_of_two_shares_is_covered(n):
    """Correct for both .6, for one alone .05, for the other alone .3."""
    rng, hits = np.random.default_rng(n), 0
    for _ in range(300):
        kind = rng.random(n)
        one, other = (kind < 0.65).astype(float), ((kind < 0.6) | (kind > 0.7)).astype(float)
        got = intervals.difference((one, one), (other, other))
        hits += got.low <= 0.25 <= got.high
    assert hits / 300 >= 0.93
