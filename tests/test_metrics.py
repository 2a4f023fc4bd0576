"""Figures from evidence: golden values, intervals, and what is never counted as robust."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence import untouched
from temper.errors import ArgumentError, EvidenceError
from temper.margins import accuracy_curve, clean_accuracy, expected_robustness, intervals, robust_accuracy
from temper.margins.metrics import trapezoid_weights
from temper.margins.table import EvidenceTable, Provenance

EPS = 8 / 255


def rows(upper, survived, correct=None, samples=None, norm="Linf", suite="apgd") -> pd.DataFrame:
    ids = np.arange(len(upper)) if samples is None else np.array(samples)
    labels = np.zeros(len(upper), dtype=int) if correct is None else 1 - np.array(correct, dtype=int)
    blank = untouched(samples=ids, labels=labels, predictions=0 * ids, logit_margins=ids * 1.0, norm=norm, suite=suite)
    return blank.assign(upper=upper, survived=survived)


def table(*parts: pd.DataFrame) -> EvidenceTable:
    return EvidenceTable(pd.concat(parts), {"model": "m", "data": "d"}, Provenance({}, {}, [0], [], []))


def exact(margins, correct=None) -> EvidenceTable:
    """Evidence that has closed in on known margins."""
    return table(rows(np.array(margins), np.array(margins), correct))


# --- golden values --------------------------------------------------------------------------------


def test_weights_of_expected_robustness():
    """E.adv of 5 points is (a0/2 + a1 + a2 + a3 + a4/2) / 4."""
    assert trapezoid_weights([1, 2, 3, 4]).tolist() == [1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8]
    np.testing.assert_allclose(trapezoid_weights([k / 255 for k in range(1, 9)]), [1 / 16, *[1 / 8] * 7, 1 / 16])
    np.testing.assert_allclose(trapezoid_weights([1, 4]), [1 / 8, 1 / 2, 3 / 8])  # uneven: by width
    for grid in ([], [0, 1], [2, 1], [1, 1], [-1, 1]):
        with pytest.raises(ArgumentError, match="rise from above 0"):
            trapezoid_weights(grid)


@pytest.mark.parametrize(
    ("margins", "value"),
    [
        ([1.0] * 4, 1.0),  # constant curve: the constant
        ([EPS * (k + 0.5) / 4 for k in range(4)], 0.5),  # linear curve 1, 3/4, 1/2, 1/4, 0: the midpoint
    ],
)
def test_expected_robustness_of_constant_and_linear_curves(margins, value):
    evidence = exact(margins)
    grid = [EPS * k / 4 for k in range(1, 5)]
    assert evidence.expected_robustness("Linf", EPS, grid=grid).value == pytest.approx(value)
    assert evidence.expected_robustness("Linf", EPS).value == pytest.approx(value)


def test_the_trapezoid_weighs_the_measured_curve():
    margins = np.random.default_rng(0).exponential(EPS / 2, 50)
    grid = [EPS * k / 4 for k in range(1, 5)]
    a = [estimate.value for estimate in accuracy_curve(exact(margins), "Linf", [0, *grid])]
    expected = (a[0] / 2 + a[1] + a[2] + a[3] + a[4] / 2) / 4
    assert expected_robustness(exact(margins), "Linf", EPS, grid=grid).value == pytest.approx(expected)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 2 * EPS), st.booleans()), min_size=1, max_size=8))
def test_the_exact_integral_is_the_mean_of_truncated_margins_and_the_trapezoid_converges_to_it(samples):
    margins, correct = np.array([s[0] for s in samples]), np.array([s[1] for s in samples])
    evidence = exact(margins, correct)
    expected = (correct * np.minimum(margins, EPS)).mean() / EPS
    got = evidence.expected_robustness("Linf", EPS)
    assert got.value == pytest.approx(expected)
    assert got.unknown == 0
    for k in (4, 64):
        grid = [EPS * (i + 1) / k for i in range(k)]
        assert abs(evidence.expected_robustness("Linf", EPS, grid=grid).value - expected) <= 0.5 / k + 1e-12


def test_a_radius_reckoned_in_another_way_is_the_same_radius():
    searched = [0.1, 0.2, 0.3, 0.4]
    reckoned = [k * 0.1 for k in range(1, 5)]
    assert searched != reckoned
    evidence = table(rows(upper=[*searched[1:], np.inf], survived=searched))
    for radii in (searched, reckoned):
        assert [e.unknown for e in evidence.accuracy_curve("Linf", radii)] == [0] * 4
        assert [e.value for e in evidence.accuracy_curve("Linf", radii)] == [1, 0.75, 0.5, 0.25]


# --- unknown is unknown ---------------------------------------------------------------------------


def test_unknown_samples_are_an_interval_and_never_robust():
    upper, survived = [0.01, 0.05, np.inf, np.inf, 0.05], [0.0, 0.04, 0.05, 0.0, 0.02]
    got = robust_accuracy(table(rows(upper, survived)), "Linf", 0.03)
    assert (got.value, got.unknown, got.n) == (2 / 5, 2 / 5, 5)
    settled_low = intervals.share(np.array([1, 1, 0, 0, 0], bool), np.zeros(5, bool)).low
    settled_high = intervals.share(np.array([1, 1, 1, 1, 0], bool), np.zeros(5, bool)).high
    assert (got.low, got.high) == (settled_low, settled_high)


def test_without_any_search_nothing_is_robust():
    evidence = table(rows([np.inf] * 10, [0.0] * 10))
    got = evidence.robust_accuracy("Linf", EPS)
    assert (got.value, got.unknown, got.high) == (0, 1, 1)
    integral = evidence.expected_robustness("Linf", EPS)
    assert (integral.value, integral.unknown, integral.low, integral.high) == (0, 1, 0, 1)
    assert evidence.robust_accuracy("Linf", 0).value == evidence.clean_accuracy().value == 1


def test_expected_robustness_brackets_an_open_gap():
    got = table(rows([0.03, np.inf], [0.01, 0.02])).expected_robustness("Linf", 0.04)
    assert got.value == pytest.approx((0.25 + 0.5) / 2)
    assert got.unknown == pytest.approx((0.5 + 0.5) / 2)


def test_wrong_predictions_are_never_robust_nor_unknown():
    evidence = table(rows([np.inf, np.inf], [0.0, 1.0], correct=[False, False]))
    assert evidence.clean_accuracy().value == 0
    got = evidence.robust_accuracy("Linf", 0.01)
    assert (got.value, got.unknown) == (0, 0)
    integral = evidence.expected_robustness("Linf", 0.01)
    assert (integral.value, integral.unknown) == (0, 0)
    assert integral.high == pytest.approx(got.high, rel=0.005)
    assert got.high < 0.85  # the doubt of two samples is left


def test_a_flip_at_eps_is_broken_and_a_flip_below_what_was_survived_counts():
    evidence = table(rows([0.02, 0.01], [0.02, 0.05]))
    assert evidence.robust_accuracy("Linf", 0.02).value == 0
    assert evidence.robust_accuracy("Linf", 0.02).unknown == 0
    assert evidence.expected_robustness("Linf", 0.04).value == pytest.approx((0.5 + 0.25) / 2)


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.booleans()), min_size=1, max_size=6))
def test_the_curve_falls(samples):
    upper, survived, correct = (np.array(column) for column in zip(*samples, strict=True))
    curve = accuracy_curve(table(rows(upper, survived, correct)), "Linf", np.linspace(0, 1.1, 12).tolist())
    values, highs = [e.value for e in curve], [e.value + e.unknown for e in curve]
    assert values == sorted(values, reverse=True)
    assert np.all(np.diff(highs) <= 1e-12)
    assert curve[0].value == correct.mean()
    assert all(0 <= e.low <= e.value <= e.value + e.unknown <= e.high + 1e-12 <= 1 + 2e-12 for e in curve)


# --- which suite, which samples -------------------------------------------------------------------


def test_several_suites_need_one_named_and_flips_count_for_all():
    evidence = table(rows([np.inf, np.inf], [0.1, 0.1], suite="apgd"), rows([np.inf, 0.05], [0.2, 0.0], suite="pgd"))
    with pytest.raises(EvidenceError, match=r"several suites searched in Linf \(apgd, pgd\)"):
        evidence.robust_accuracy("Linf", 0.1)
    assert evidence.robust_accuracy("Linf", 0.1, "apgd").value == 0.5
    assert evidence.robust_accuracy("Linf", 0.2, "apgd").unknown == 0.5
    assert evidence.robust_accuracy("Linf", 0.2, "pgd").value == 0.5
    with pytest.raises(EvidenceError, match="suite fast has no evidence in Linf; there is that of apgd, pgd"):
        evidence.robust_accuracy("Linf", 0.1, "fast")
    with pytest.raises(EvidenceError, match="no evidence in norm L2; the table has Linf"):
        evidence.robust_accuracy("L2", 0.1)


def test_a_missing_sample_is_an_error():
    evidence = table(rows([0.1] * 3, [0.0] * 3), rows([0.1] * 2, [0.0] * 2, samples=[0, 2], norm="L2"))
    assert evidence.robust_accuracy("Linf", 0.05).n == 3
    with pytest.raises(EvidenceError, match="suite apgd has no row in L2 of 1 samples, first 1"):
        evidence.robust_accuracy("L2", 0.05)


@pytest.mark.parametrize("eps", [-0.1, float("nan")])
def test_a_radius_that_is_none_is_refused(eps):
    with pytest.raises(ArgumentError, match=r"eps = .*: must be at least 0"):
        exact([0.1]).robust_accuracy("Linf", eps)
    with pytest.raises(ArgumentError, match=r"eps = .*: must be above 0"):
        exact([0.1]).expected_robustness("Linf", eps)
    with pytest.raises(ArgumentError, match="must end in eps"):
        exact([0.1]).expected_robustness("Linf", 0.1, grid=[0.05])


# --- intervals ------------------------------------------------------------------------------------


def test_exact_matches_published_values():
    """Newcombe 1998 (Statistics in Medicine 17:857), table I, method 5: Clopper and Pearson."""
    published = {
        (81, 263): (0.2527, 0.3676),
        (15, 148): (0.0578, 0.1617),
        (0, 20): (0, 0.1684),
        (1, 29): (0.0009, 0.1776),
    }
    for (count, n), (low, high) in published.items():
        assert intervals.exact(count, n) == pytest.approx((low, high), abs=5e-5)
    whole = clean_accuracy(exact([0.1] * 7))
    assert whole.value == whole.high == 1
    assert 0.55 < whole.low < 1


def test_an_estimate_reads_well():
    estimate = robust_accuracy(table(rows([np.inf, 0.01], [0.0, 0.0])), "Linf", 0.03)
    assert str(estimate) == "0.0% [0.0%, 98.7%] (n = 2, 50.0% unknown)"
    assert list(estimate.to_json()) == ["value", "low", "high", "n", "unknown"]


# --- mean margin, and several threats at once -----------------------------------------------------


def test_mean_margin_leaves_out_samples_without_a_flip_and_counts_them():
    one = table(rows(np.array([0.1, 0.3, np.inf]), np.array([0.1, 0.2, 0.0]), correct=[True, False, True]))
    got = one.mean_margin("Linf")
    assert got.value == pytest.approx(0.2)  # wrong decisions have a margin too
    assert (got.n, got.unknown) == (3, pytest.approx(1 / 3))
    assert got.low <= 0.15 <= got.value <= got.high
    with pytest.raises(EvidenceError, match="no flip was found in Linf on any of 2 samples"):
        table(rows(np.array([np.inf, np.inf]), np.zeros(2))).mean_margin("Linf")


def test_robust_to_all_threats_at_once():
    linf = rows(np.array([0.5, 0.5, 0.01, np.inf, np.inf]), np.array([0.4, 0.4, 0.0, 0.4, 0.4]))
    l2 = rows(np.array([5.0, 0.1, 5.0, np.inf, np.inf]), np.array([4.0, 0.0, 4.0, 0.0, 4.0]), norm="L2")
    got = table(linf, l2).union_robust_accuracy("Linf:0.1 L2:1")
    assert (got.value, got.unknown, got.n) == (2 / 5, 1 / 5, 5)
    assert table(linf, l2).union_robust_accuracy("Linf:0.1").value == 4 / 5
    with pytest.raises(EvidenceError, match="no evidence in norm L1"):
        table(linf, l2).union_robust_accuracy("L1:1")
