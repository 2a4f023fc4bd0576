"""Intervals keep their level where samples are few and shares near 0 or 1, and never claim more than was seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm, rankdata

from temper.margins import intervals
from temper.margins.consistency import kendall

REPEATS = 300


def test_the_exact_interval_matches_published_values():
    """Newcombe 1998 (Statistics in Medicine 17:857), table I, method 5: Clopper and Pearson."""
    published = {
        (81, 263): (0.2527, 0.3676),
        (15, 148): (0.0578, 0.1617),
        (0, 20): (0, 0.1684),
        (1, 29): (0.0009, 0.1776),
    }
    for (count, n), (low, high) in published.items():
        got = intervals.share(np.arange(n) < count)
        assert (got.low, got.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", [1, 2, 7, 50, 333])
def test_shares_have_scipys_exact_interval_and_means_of_zeros_and_ones_the_same(n):
    for count in {0, 1, n // 2, n - 1, n}:
        values = (np.arange(n) < count).astype(float)
        want = binomtest(count, n).proportion_ci(0.95, method="exact")
        one, other = intervals.share(values > 0), intervals.mean(values, values)
        assert (one.low, one.high) == pytest.approx((want.low, want.high), abs=1e-12)
        assert (other.low, other.high) == pytest.approx((want.low, want.high), abs=3e-3, rel=5e-3)
        assert other.low <= want.low + 1e-12
        assert want.high - 1e-12 <= other.high  # no narrower


def test_the_mean_is_gaffkes_by_drawing():
    values = np.random.default_rng(0).beta(2, 5, 40)
    weights = np.random.default_rng(1).dirichlet(np.ones(41), 40_000)
    got = intervals.mean(values, values)
    ends = [float(np.quantile(weights @ np.append(values, end), p)) for end, p in ((0, 0.025), (1, 0.975))]
    assert (got.low, got.high) == pytest.approx(ends, abs=2e-3)


@pytest.mark.parametrize("n", [50, 100, 200])
@pytest.mark.parametrize("share", [0.01, 0.02, 0.5, 0.98, 0.99])
def test_shares_are_covered_at_least_as_often_as_said(n, share):
    """Exactly, without chance: the binomial probability of the counts whose interval holds the truth."""
    ends = np.array([intervals.exact(count, n) for count in range(n + 1)])
    covered = (ends[:, 0] <= share) & (share <= ends[:, 1])
    assert binom.pmf(np.arange(n + 1), n, share)[covered].sum() >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("n", [50, 100])
@pytest.mark.parametrize(("robust", "gone"), [(0.0, 0.98), (0.02, 0.98), (0.98, 0.0), (0.98, 0.02), (0.1, 0.1)])
def test_expected_robustness_is_covered_near_its_ends(n, robust, gone):
    """Values are 1 (robust at eps), 0 (wrong without attack), or between; a percentile bootstrap covers .64 here."""
    rng, hits = np.random.default_rng(n), 0
    truth = robust + (1 - robust - gone) * 2 / 7
    for _ in range(REPEATS):
        kind = rng.random(n)
        values = np.where(kind < robust, 1.0, np.where(kind > 1 - gone, 0.0, rng.beta(2, 5, n)))
        got = intervals.mean(values, values)
        hits += got.low <= truth <= got.high
    assert hits / REPEATS >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("known", [1, 2])
def test_the_mean_of_very_few_margins_is_covered(known):
    """Twice the largest of one or two exponential margins is often below their mean: that alone covers .61 and .81."""
    draws = np.random.default_rng(known).exponential(1, (150, known))
    found = [intervals.open_mean(margins, margins) for margins in draws]
    assert np.mean([each.low <= 1 <= each.high for each in found]) >= 0.92


@pytest.mark.parametrize(("n", "tau"), [(10, 0.98), (12, 0.5), (50, 0.9), (50, -0.99)])
def test_rank_correlations_are_covered_as_often_as_said(n, tau):
    rng, hits, rho = np.random.default_rng(n), 0, np.sin(np.pi / 2 * tau)
    for _ in range(REPEATS):
        first, noise = rng.normal(size=(2, n))
        found = kendall(first, rho * first + np.sqrt(1 - rho**2) * noise)
        assert -1 <= found.low <= found.value <= found.high <= 1
        hits += found.low <= tau <= found.high
    assert hits / REPEATS >= 0.92


@pytest.mark.parametrize(("brittle", "robust"), [(100, 100), (180, 20), (20, 180), (10, 40)])
def test_the_false_alarms_of_a_threshold_that_is_itself_chosen_are_covered(brittle, robust):
    """A bootstrap of the rate on the decisions that the threshold was chosen on covers .80 to .91."""
    rng, hits = np.random.default_rng(brittle), 0
    for _ in range(REPEATS):
        low, high = intervals.false_alarms(rng.normal(size=brittle) - 2, rng.normal(size=robust), 0.95)
        assert 0 <= low <= high <= 1
        hits += low <= norm.cdf(norm.ppf(0.95) - 2) <= high
    assert hits / REPEATS >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize(("brittle", "robust"), [(20, 180), (180, 20), (2, 48)])
def test_the_area_of_a_good_score_is_covered_where_one_kind_is_rare(brittle, robust):
    """DeLong's interval covers .82 to .92 here, on the logit scale too."""
    rng, hits, truth = np.random.default_rng(brittle), 0, norm.cdf(3 / np.sqrt(2))
    for _ in range(60):
        one, other = rng.normal(size=brittle) - 3, rng.normal(size=robust)
        ranks = rankdata(np.concatenate([one, other]))
        low, high = intervals.area(
            1 - (ranks[:brittle] - rankdata(one)) / robust, (ranks[brittle:] - rankdata(other)) / brittle
        )
        hits += low <= truth <= high
    assert hits >= 55


@pytest.mark.parametrize("share", [0.02, 0.9, 0.95])
def test_the_average_precision_of_a_score_that_says_nothing_is_covered(share):
    """It is the share itself; the binomial interval alone covers .88 at .95."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(REPEATS):
        brittle = rng.random(200) < share
        found = np.flatnonzero(brittle) + 1
        if not 0 < len(found) < 200:
            continue
        value = float((np.arange(1, len(found) + 1) / found).mean())
        low, high = intervals.average_precision(value, len(found), 200 - len(found))
        hits += low <= share <= high
    assert hits / REPEATS >= 0.92


@settings(max_examples=80, deadline=None)
@given(st.floats(0, 1), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4))
def test_joined_intervals_hold_the_value_and_are_no_narrower_than_any(value, ends):
    parts = [(min(low, value), max(high, value)) for low, high in ends]
    low, high = intervals.joined(value, parts)
    assert 0 <= low <= min(each for each, _ in parts) + 1e-9
    assert max(each for _, each in parts) - 1e-9 <= high <= 1


def test_where_there_are_many_the_interval_is_nearly_the_normal_one():
    values = np.random.default_rng(0).beta(2, 5, 2000)
    got = intervals.mean(values, values)
    normal = 2 * 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert got.high - got.low == pytest.approx(normal, rel=0.05)


@pytest.mark.parametrize("n", [1, 2, 50, 1000])
def test_what_all_samples_share_leaves_doubt(n):
    for value in (0.0, 1e-300, 0.3, 1 - 1e-14, 1.0):
        got = intervals.mean(np.full(n, value), np.full(n, value))
        assert got.high - got.low > 1 / (2 * n + 2)
        assert 0 <= got.low <= value <= got.high <= 1
    assert intervals.share(np.ones(n, bool)).low < 1 == intervals.share(np.ones(n, bool)).high
    assert intervals.share(np.zeros(n, bool)).high > 0 == intervals.share(np.zeros(n, bool)).low


values = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30)


@settings(max_examples=80, deadline=None)
@given(values)
def test_doubt_about_samples_only_widens(pairs):
    lowest, highest = np.sort(np.array(pairs), axis=1).T
    got, settled = intervals.mean(lowest, highest), intervals.mean(lowest, lowest)
    assert 0 <= got.low <= got.value <= got.value + got.unknown <= got.high + 1e-12 <= 1 + 1e-12
    assert got.low == settled.low
    assert got.high >= settled.high - 1e-3  # the approximation is monotone but for its error


@settings(max_examples=40, deadline=None)
@given(values, st.floats(0.1, 50))
def test_a_bound_is_a_unit(pairs, bound):
    lowest, highest = np.sort(np.array(pairs), axis=1).T
    got, scaled = intervals.mean(lowest, highest), intervals.mean(lowest * bound, highest * bound, bound)
    assert (scaled.low, scaled.high) == pytest.approx((got.low * bound, got.high * bound), rel=1e-6, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(values)
def test_errors_mirror_accuracies(pairs):
    accuracy = np.array(pairs)[:, 0]
    got, mirrored = intervals.mean(accuracy, accuracy), intervals.mean(1 - accuracy, 1 - accuracy)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((got.low, got.high), abs=1e-9)
