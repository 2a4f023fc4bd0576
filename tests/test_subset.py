"""Robust accuracy from few attacks: the paper's rule step by step, exact answers, honest intervals."""

import math

import numpy as np
import pytest
from paper_estimators import PAPER_ALPHAS, _threshold_at, naive_estimate, paper_estimate
from scipy.stats import beta, hypergeom, norm
from sklearn.metrics import det_curve

from temper.errors import ArgumentError, EvidenceError
from temper.margins import intervals
from temper.margins.subset import SubsetPlan, _exact_counts, _pooled, _stratified, plain_estimate


def flags(*numbers) -> np.ndarray:
    return np.array(numbers, dtype=bool)


def drive(plan, robust, unknown, *, attacks=10**9, k=64, precision=1e-9) -> list[int]:
    """Attack as a driver does, up to so many; the ids in the order of the attacks."""
    order: list[int] = []
    while len(order) < attacks and not plan.done(precision):
        ids = plan.next(min(k, attacks - len(order)))
        plan.observe(ids, robust[ids], unknown[ids])
        order += ids.tolist()
    return order


def drawn(rng, n=1000, rho=0.95, share=0.5) -> tuple[np.ndarray, np.ndarray]:
    """Logit margins and robustness of n correct samples, with this correlation and share."""
    score = rng.standard_normal(n)
    margin = rho * score + math.sqrt(1 - rho**2) * rng.standard_normal(n)
    return score, margin > norm.ppf(1 - share)


def plan_of(score, seed=0) -> SubsetPlan:
    return SubsetPlan(np.arange(len(score)), score, np.ones(len(score), dtype=bool), seed)


# --- a simple random sample -----------------------------------------------------------------------


def test_exact_interval_by_enumeration():
    """All populations of 12 are tried: kept are those that make neither tail rarer than 2.5 %."""
    for n in (1, 5, 11):
        for count in range(n + 1):
            kept = [
                k
                for k in range(13)
                if hypergeom.sf(count - 1, 12, k, n) > 0.025 and hypergeom.cdf(count, 12, k, n) > 0.025
            ]
            assert _exact_counts(count, n, 12) == (kept[0], kept[-1])


def test_exact_interval_covers_whatever_the_share_and_however_few_the_attacks():
    population, n = 60, 9
    counts = np.arange(n + 1)
    low, high = np.array([_exact_counts(count, n, population) for count in counts.tolist()]).T
    for k in range(population + 1):
        assert hypergeom.pmf(counts, population, k, n)[(low <= k) & (k <= high)].sum() >= 0.95


def test_plain_estimate_counts_wrong_samples_as_not_robust_and_unknown_ones_both_ways():
    got = plain_estimate(flags(1, 1, 1, 0), flags(0, 0, 0, 1), correct=4, samples=8)
    assert (got.test_set.value, got.test_set.low, got.test_set.high) == (3 / 8, 3 / 8, 4 / 8)
    assert got.test_set.unknown == pytest.approx(1 / 8)
    assert (got.attacked, got.correct, got.test_set.n) == (4, 4, 8)
    few = plain_estimate(flags(1, 1), flags(0, 0), correct=4, samples=8)
    assert few.test_set.low == 2 / 8  # two are known to be robust; of the other two nothing
    assert few.test_set.high == 4 / 8


def test_all_attacked_is_the_table_itself():
    robust, nothing = flags(*[1] * 30, *[0] * 20), flags(*[0] * 50)
    got = plain_estimate(robust, nothing, correct=50, samples=80)
    full = intervals.share(flags(*[1] * 30, *[0] * 50), flags(*[0] * 80))
    assert got.half_width == 0
    assert got.test_set.value == full.value
    assert (got.distribution.low, got.distribution.high) == pytest.approx((full.low, full.high))


@pytest.mark.parametrize(
    ("robust", "unknown", "correct", "samples", "says"),
    [
        (flags(1, 0), flags(0, 0), 1, 3, "at most all 1 correct"),
        (flags(), flags(), 1, 3, "at least 1"),
        (flags(1), flags(0), 4, 3, "correct = 4"),
        (flags(1), flags(1), 2, 3, "one or the other"),
        (flags(1), flags(0, 0), 2, 3, "one for each of 1"),
    ],
)
def test_plain_estimate_refuses(robust, unknown, correct, samples, says):
    with pytest.raises(ArgumentError, match=says):
        plain_estimate(robust, unknown, correct, samples)


# --- the rule of arXiv:2406.18451 -----------------------------------------------------------------

# Ten samples by rising logit margin. The subset is the even places, of which 0, 2 and 6 are brittle; 2 is wrong.
MARGINS = np.arange(10.0)
RIGHT = flags(1, 1, 0, 1, 1, 1, 1, 1, 1, 1)
SUBSET = np.array([8, 0, 6, 2, 4])
BRITTLE = flags(0, 1, 1, 1, 0)


def test_the_papers_rule_step_by_step():
    # Brittle at logit margins 0, 2, 6 and robust at 4, 8: TPR 1/3 up to 0, 2/3 up to 2, and 1 from 6 on.
    own = MARGINS[SUBSET]
    assert {_threshold_at(own, BRITTLE, alpha) for alpha in PAPER_ALPHAS} == {6.0}
    # Target: 4 and 8 are correct and robust, 2 of 5. All alphas give 8 alone, 1 of 5: a tie, so the smallest is kept.
    got = paper_estimate(MARGINS, RIGHT, SUBSET, BRITTLE)
    assert (got.alpha, got.threshold) == (0.80, 6.0)
    assert got.value == 3 / 10  # 7, 8 and 9
    assert naive_estimate(MARGINS, RIGHT, SUBSET, BRITTLE).alpha == 0.95


def test_the_papers_rule_keeps_the_rate_that_fits_the_subset():
    # Twenty brittle samples at 0 to 19, twenty robust ones at 10.5 to 29.5: TPR 0.8 up to 15, 0.85 up to 16, ...
    margins = np.concatenate([np.arange(20.0), 10.5 + np.arange(20)])
    brittle = np.arange(40) < 20
    places = np.arange(40)
    # Of equal TPR the threshold with the most false alarms: the robust sample half above the brittle one.
    assert [_threshold_at(margins, brittle, alpha) for alpha in (0.8, 0.85, 0.9)] == [15.5, 16.5, 17.5]
    # Above 15.5 lie 4 brittle and 14 robust samples, 18 of 40; the target is 20 of 40, so the smallest rate is nearest.
    got = paper_estimate(margins, flags(*[1] * 40), places, brittle)
    assert (got.alpha, got.value) == (0.80, 18 / 40)
    # A rate of 0.825 is met by 17 of 20, as 0.85 is.
    assert _threshold_at(margins, brittle, 0.825) == 16.5
    assert naive_estimate(margins, flags(*[1] * 40), places, brittle).value == (1 + 11) / 40


def test_thresholds_are_those_of_the_papers_code():
    rng = np.random.default_rng(0)
    for _ in range(200):
        margin = rng.integers(0, 12, 25) / 4
        brittle = margin + rng.standard_normal(25) < 1.5
        if brittle.all() or not brittle.any():
            continue
        _, missed, thresholds = det_curve(brittle, -margin, drop_intermediate=False)
        hit = 1 - missed
        for alpha in PAPER_ALPHAS:
            first = np.flatnonzero(hit == hit[hit >= alpha - 1e-12].min())[0]
            assert _threshold_at(margin, brittle, alpha - 1e-12) == -thresholds[first]


def test_the_papers_rule_at_the_ends():
    assert _threshold_at(np.arange(4.0), flags(1, 1, 0, 0), 0.8) == 1.0  # perfectly apart
    assert _threshold_at(np.arange(4.0), flags(1, 1, 1, 1), 0.8) == 3.0  # nothing robust
    none = paper_estimate(MARGINS, RIGHT, SUBSET, flags(0, 0, 0, 0, 0))
    assert (none.value, none.threshold) == (0.9, -math.inf)  # nothing brittle: all correct ones are robust


@pytest.mark.parametrize("places", [[], [0, 0], list(range(11))])
def test_the_papers_rule_refuses(places):
    with pytest.raises(ArgumentError, match="drawn"):
        paper_estimate(MARGINS, RIGHT, np.array(places, dtype=int), np.zeros(len(places), dtype=bool))


# --- stratified -----------------------------------------------------------------------------------


def test_pooling_and_variance_by_hand():
    # Shares 0, 3/4, 1/4, 1: the middle two fall and are pooled.
    count, n = np.array([0, 3, 1, 4]), np.array([4, 4, 4, 4])
    assert [part.tolist() for part in _pooled(count, n)] == [[0, 4, 4, 4], [4, 8, 8, 4]]
    share, low, high = _stratified(count, n, np.array([10, 10, 10, 10]))
    ends, middle = (0.5 / 5) * (4.5 / 5) * 4 / 3, (4.5 / 9) * (4.5 / 9) * 8 / 7
    variance = (1 / 4) ** 2 * (1 - 4 / 10) / 4 * (2 * ends + 2 * middle)
    n_equal = 0.25 / variance
    assert share == 0.5
    above = float(beta.ppf(0.975, n_equal / 2 + 1, n_equal / 2))  # Clopper and Pearson's, of so many samples
    assert (low, high) == pytest.approx((1 - above, above))


@pytest.mark.parametrize("n", [50, 100, 200])
@pytest.mark.parametrize("share", [0.01, 0.02, 0.05, 0.1, 0.5, 0.9, 0.98, 0.99])
def test_the_interval_of_one_stratum_covers_at_any_share(n, share):
    """Every count weighted by its probability; Wilson's of the same sample size covered .91 at 50 and .01 or .99."""
    size, counts = 2000, np.arange(n + 1)
    chance = hypergeom.pmf(counts, size, round(size * share), n)
    ends = [_stratified(np.array([count]), np.array([n]), np.array([size]))[1:] for count in counts]
    held = [low <= share + 1e-9 and share - 1e-9 <= high for low, high in ends]
    assert chance[held].sum() > 0.945


@pytest.mark.parametrize("n", [1, 3, 7, 25, 333])
def test_attacking_all_gives_the_exact_answer(n):
    rng = np.random.default_rng(n)
    score, robust = drawn(rng, n)
    correct = rng.random(n) < 0.8
    correct[0] = True
    plan = SubsetPlan(np.arange(n), score, correct, seed=1)
    order = drive(plan, robust, np.zeros(n, dtype=bool))
    assert sorted(order) == np.flatnonzero(correct).tolist()  # each correct one once, no wrong one
    got, full = plan.estimate(), intervals.share(robust & correct, np.zeros(n, dtype=bool))
    assert got.test_set.value == pytest.approx(full.value)
    assert got.half_width == pytest.approx(0, abs=1e-12)
    assert (got.distribution.low, got.distribution.high) == pytest.approx((full.low, full.high))
    assert plan.next(5).size == 0


def test_a_consistent_model_takes_a_tenth_of_the_attacks():
    score, robust = drawn(np.random.default_rng(0), 10_000, rho=math.sin(math.pi * 0.85 / 2))
    correct = np.random.default_rng(1).random(10_000) < 0.85
    plan = SubsetPlan(np.arange(10_000), score, correct, seed=0)
    order = drive(plan, robust, np.zeros(10_000, dtype=bool), precision=0.01)
    got = plan.estimate()
    assert len(order) == got.attacked < 1000
    assert got.half_width <= 0.01
    assert got.test_set.low <= (robust & correct).mean() <= got.test_set.high
    assert got.distribution.high - got.distribution.low > got.test_set.high - got.test_set.low


def test_the_same_seed_draws_the_same_whatever_the_batches():
    score, robust = drawn(np.random.default_rng(3))
    nothing = np.zeros(1000, dtype=bool)
    orders, estimates = [], []
    for k, seed in ((7, 0), (64, 0), (1000, 0), (64, 1)):
        plan = plan_of(score, seed)
        orders.append(drive(plan, robust, nothing, attacks=300, k=k))
        estimates.append(plan.estimate())
    assert orders[0] == orders[1] == orders[2] != orders[3]
    assert estimates[0] == estimates[1] == estimates[2]


def test_equal_margins_are_drawn_at_random():
    robust = np.arange(400) < 200  # sorted by id, which must not be what the strata are cut by
    plan = plan_of(np.zeros(400))
    order = drive(plan, robust, np.zeros(400, dtype=bool), attacks=80)
    assert 20 < sum(sample < 200 for sample in order) < 60


def test_outcomes_may_come_late_and_in_any_order():
    score, robust = drawn(np.random.default_rng(4), 300)
    nothing = np.zeros(300, dtype=bool)
    plan = plan_of(score)
    first, second = plan.next(20), plan.next(1000)
    assert plan.next(10).size == 0  # the round is handed out
    plan.observe(second[::-1], robust[second[::-1]], nothing[second])
    assert not plan.done(0.5)
    plan.observe(first, robust[first], nothing[first])
    assert plan.next(10).size == 10
    in_order = plan_of(score)
    ids = in_order.next(1000)
    in_order.observe(ids, robust[ids], nothing[ids])
    assert plan.estimate() == in_order.estimate()


def test_only_the_end_of_a_round_decides():
    """Else the first lucky one of many looks would stop it."""
    score, robust = drawn(np.random.default_rng(5))
    plan = plan_of(score)
    ids = plan.next(10)
    plan.observe(ids, robust[ids], np.zeros(10, dtype=bool))
    assert plan.estimate().half_width < 0.5
    assert not plan.done(0.5)
    ids = plan.next(1000)
    plan.observe(ids, robust[ids], np.zeros(len(ids), dtype=bool))
    assert plan.done(0.5)


def test_unknown_samples_widen_the_interval_and_are_never_robust():
    score, robust = drawn(np.random.default_rng(6), 400)
    unknown = np.random.default_rng(7).random(400) < 0.1
    known, doubtful = plan_of(score), plan_of(score)
    drive(known, robust, np.zeros(400, dtype=bool), attacks=120)
    drive(doubtful, robust & ~unknown, unknown, attacks=120)
    assert doubtful.estimate().test_set.low < known.estimate().test_set.low
    drive(doubtful, robust & ~unknown, unknown)
    got = doubtful.estimate().test_set
    assert (got.value, got.low, got.high) == pytest.approx(
        ((robust & ~unknown).mean(), (robust & ~unknown).mean(), (robust | unknown).mean())
    )
    assert got.unknown == pytest.approx(unknown.mean())
    assert doubtful.done(1e-6)  # no attack is left that could narrow it


def test_without_a_correct_sample_nothing_needs_an_attack():
    plan = SubsetPlan(np.arange(20), np.arange(20.0), np.zeros(20, dtype=bool), seed=0)
    got = plan.estimate()
    assert plan.done(0.01)
    assert plan.next(8).size == 0
    assert (got.test_set.value, got.half_width, got.attacked) == (0, 0, 0)
    assert got.distribution.high == pytest.approx(intervals.share(flags(*[0] * 20), flags(*[0] * 20)).high)


def test_bad_calls():
    good = np.arange(5.0)
    right = np.ones(5, dtype=bool)
    with pytest.raises(ArgumentError, match=r"place 2 needs a finite number"):
        SubsetPlan(np.arange(5), np.array([0, 1, np.nan, 3, 4]), right, 0)
    with pytest.raises(ArgumentError, match="logit_margin"):
        SubsetPlan(np.arange(5), good[:4], right, 0)
    with pytest.raises(ArgumentError, match="3 occurs twice"):
        SubsetPlan(np.array([1, 2, 3, 3, 4]), good, right, 0)
    with pytest.raises(ArgumentError, match="0 values"):
        SubsetPlan(np.arange(0), good[:0], right[:0], 0)
    plan = SubsetPlan(np.arange(5) + 10, good, right, 0)
    with pytest.raises(EvidenceError, match="no attack is observed"):
        plan.estimate()
    for precision in (0, -0.1, math.nan):
        with pytest.raises(ArgumentError, match="above 0"):
            plan.done(precision)
    with pytest.raises(ArgumentError, match="k = 0"):
        plan.next(0)
    ids = plan.next(1)
    other = np.array([10 if ids[0] != 10 else 11])
    for stray in (other, np.array([99])):  # not asked for, so not drawn at random; no such sample
        with pytest.raises(ArgumentError, match="not waited for"):
            plan.observe(stray, flags(1), flags(0))
    with pytest.raises(ArgumentError, match="one or the other"):
        plan.observe(ids, flags(1), flags(1))
    plan.observe(ids, flags(1), flags(0))
    with pytest.raises(ArgumentError, match="once each"):
        plan.observe(ids, flags(1), flags(0))


def test_attacks_go_where_outcomes_are_uncertain():
    score = np.arange(1000.0)
    robust = (score > 600) | ((score > 400) & (np.random.default_rng(0).random(1000) < 0.5))
    order = np.array(drive(plan_of(score), robust, np.zeros(1000, dtype=bool), attacks=300))
    assert ((order > 400) & (order <= 600)).sum() > 120  # 60 in proportion


@pytest.mark.slow
@pytest.mark.parametrize(("rho", "share", "precision"), [(0.97, 0.5, 0.03), (0.97, 0.9, 0.02), (0.0, 0.5, 0.05)])
def test_intervals_cover_also_when_the_width_decides_when_to_stop(rho, share, precision):
    """500 test sets of 600; 92 % or fewer would be 3 standard errors below 95 %."""
    repeats, n = 500, 600
    nothing = np.zeros(n, dtype=bool)
    radius = norm.ppf(1 - share)
    fixed, stopped, behind = 0, 0, 0
    for seed in range(repeats):
        rng = np.random.default_rng([seed, 1])
        score, noise = rng.standard_normal(n), rng.standard_normal(n)
        robust = rho * score + math.sqrt(1 - rho**2) * noise > radius
        plan = plan_of(score, seed)
        drive(plan, robust, nothing, attacks=150)
        got = plan.estimate()
        fixed += got.test_set.low <= robust.mean() <= got.test_set.high
        behind += got.distribution.low <= share <= got.distribution.high
        drive(plan, robust, nothing, precision=precision)
        got = plan.estimate()
        stopped += got.test_set.low <= robust.mean() <= got.test_set.high
    assert min(fixed, stopped, behind) / repeats > 0.92
