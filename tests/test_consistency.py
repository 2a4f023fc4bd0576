"""Margin consistency: exact margins, the theorem both ways, rank correlation, and what has no figure."""

import json

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau

from evidence import judged, table
from temper.errors import ArgumentError, EvidenceError
from temper.margins import consistency
from temper.margins.consistency import kendall, margin_consistency
from temper.margins.detection import detection
from temper.margins.scores import FeatureMargin, logit_margin
from temper.margins.table import EvidenceTable


def separates(margins, scores, eps) -> bool:
    """Whether some threshold tells the decisions with a margin of at most eps from the others."""
    margins, scores = np.array(margins), np.array(scores)
    below = margins <= eps
    return below.all() or not below.any() or scores[below].max() < scores[~below].min()


# --- oracles --------------------------------------------------------------------------------------


def linear(classes, count=200, seed=0):
    """Weights of a linear classifier, logits of points, and their exact Linf margins without the box, by bisection
    along the steepest step to each class: the distance at which its plane is reached."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, 12, generator=generator).double()
    x = torch.randn(count, 12, generator=generator).double()
    logits = x @ weight.T
    first = logits.argmax(1)
    margins = torch.full((count,), torch.inf).double()
    for other in range(classes):
        normal = weight[other] - weight[first]
        low, high = torch.zeros(count).double(), torch.full((count,), 100.0).double()
        for _ in range(60):
            middle = (low + high) / 2
            over = ((x + middle[:, None] * normal.sign()) * normal).sum(1) >= 0
            low, high = torch.where(over, low, middle), torch.where(over, middle, high)
        margins = torch.where(first == other, margins, torch.minimum(margins, high))
    return weight, logits, margins.numpy()


def test_the_exact_feature_margin_of_a_linear_classifier_is_its_input_margin():
    weight, logits, margins = linear(classes=6)
    exact = FeatureMargin(weight, "Linf")(logits).double().numpy()
    np.testing.assert_allclose(exact, margins, rtol=1e-4)
    logit = logit_margin(logits).double().numpy()
    found = margin_consistency(table(margins, logit), scores=exact)
    assert found.tau.value > 1 - 1e-3  # float32 may swap two margins that agree to seven digits
    loose = margin_consistency(table(margins, logit)).tau
    assert 0.3 < loose.value < 0.99  # these weights are not equally far apart
    assert loose.value == pytest.approx(kendalltau(margins, logit).statistic)


def test_with_equidistant_weights_the_logit_margin_ranks_as_the_input_margin():
    weight = (torch.eye(6) - 1 / 6).double()
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(1)).double()
    logits = x @ weight.T
    apart = (weight[0] - weight[1]).abs().sum()
    margins = (logit_margin(logits) / apart).double().numpy()
    feature = FeatureMargin(weight, "Linf")(logits).double().numpy()
    assert kendall(feature, logit_margin(logits).double().numpy()).value > 1 - 1e-3
    assert margin_consistency(table(margins, logit_margin(logits).double().numpy())).tau.value == pytest.approx(1)


# --- theorem 1 ------------------------------------------------------------------------------------

DISTINCT = st.lists(st.integers(1, 1000), min_size=4, max_size=8, unique=True)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(DISTINCT, st.data())
def test_consistent_margins_are_told_apart_at_every_radius(margins, data):
    margins = np.sort(np.array(margins, float))
    steps = data.draw(st.lists(st.integers(1, 9), min_size=len(margins), max_size=len(margins)))
    scores = np.cumsum(steps).astype(float)
    assert kendall(margins, scores).value == pytest.approx(1)
    for eps in margins[:-1]:
        found = detection(judged(margins, scores, eps))
        assert found.auroc.value == found.aupr.value == found.aupr_trapezoid.value == 1
        assert found.fpr_at_95_tpr_in_sample.value == 0
        assert found.threshold_95 == scores[margins <= eps].max()  # the threshold of the proof
        assert separates(margins, scores, eps)


@settings(max_examples=15, deadline=None)
@given(DISTINCT, st.data())
def test_inconsistent_margins_are_not_told_apart_at_some_radius(margins, data):
    margins = np.array(margins, float)
    scores = np.array(data.draw(st.lists(st.integers(0, 20), min_size=len(margins), max_size=len(margins))), float)
    pairs = [(i, j) for i in range(len(margins)) for j in range(len(margins))]
    discordant = [i for i, j in pairs if margins[i] < margins[j] and scores[i] >= scores[j]]
    assume(discordant and np.ptp(scores) > 0)
    assert kendall(margins, scores).value < 1 - 1e-9
    eps = margins[discordant[0]]  # of the proof: the smaller margin of a discordant pair
    assert detection(judged(margins, scores, eps)).auroc.value < 1
    assert not separates(margins, scores, eps)


def test_tied_margins_can_be_told_apart_without_being_consistent():
    margins, scores = np.array([1.0, 1, 2]), np.array([1.0, 2, 3])
    assert kendall(margins, scores).value < 1 - 1e-9
    assert all(separates(margins, scores, eps) for eps in (0.5, 1, 1.5, 2))
    assert detection(judged(margins, scores, 1)).auroc.value == 1


# --- rank correlation -----------------------------------------------------------------------------


def test_tau_is_scipy_s_tau_b_and_its_interval_near_the_bootstrap_s():
    rng = np.random.default_rng(0)
    margins, scores = rng.integers(0, 9, 60).astype(float), rng.integers(0, 9, 60).astype(float)
    scores += margins
    found = kendall(margins, scores)
    assert found.value == pytest.approx(kendalltau(margins, scores).statistic, abs=1e-15)
    drawn = [rng.integers(0, 60, 60) for _ in range(500)]
    taus = [kendalltau(margins[each], scores[each]).statistic for each in drawn]
    np.testing.assert_allclose([found.low, found.high], np.quantile(taus, [0.025, 0.975]), atol=0.04)
    assert (found.n, found.unknown) == (60, 0)
    assert kendall(margins, scores) == found


def test_some_samples_in_blocks_have_nearly_the_spread_of_all(monkeypatch):
    rng = np.random.default_rng(0)
    margins = rng.integers(0, 20, 600).astype(float)
    scores = np.append(rng.normal(size=598) + margins[:598], [np.inf, np.inf])
    at_once = kendall(margins, scores)
    monkeypatch.setattr(consistency, "BLOCK", 5000)
    in_blocks = kendall(margins, scores)
    np.testing.assert_allclose([in_blocks.low, in_blocks.high], [at_once.low, at_once.high], rtol=1e-9)
    scores = rng.normal(size=600) + margins / 9
    everyone = kendall(margins, scores)
    monkeypatch.setattr(consistency, "SPREAD", 300)
    some = kendall(margins, scores)
    assert some.high - some.low == pytest.approx(everyone.high - everyone.low, rel=0.1)


def test_samples_that_agree_alike_with_the_others_leave_doubt():
    found = kendall(np.arange(4.0), np.array([1.0, 0, 3, 2]))  # each is ranked alike with two of three others
    assert found.low < found.value < found.high
    assert found.high - found.low > 1


def test_opposite_rankings_have_tau_minus_one():
    found = kendall(np.arange(5.0), -np.arange(5.0))
    np.testing.assert_allclose([found.value, found.low], -1)
    assert 0 < found.high < 1  # five samples have two pairs without a common one, and both could be so by chance


@pytest.mark.parametrize("n", [3, 12, 50])
def test_a_perfect_ranking_leaves_doubt(n):
    ranked = np.arange(float(n))
    tau, opposite = kendall(ranked, ranked), kendall(ranked, -ranked)
    assert tau.value == pytest.approx(1) == tau.high
    assert -1 <= tau.low < 1 - 1 / n
    assert (opposite.low, opposite.high) == pytest.approx((-tau.high, -tau.low))


@pytest.mark.parametrize(
    ("margins", "scores", "message"),
    [
        ([1, 2], [1, 2], "2 samples, and it takes at least 3"),
        ([1, 1, 1], [1, 2, 3], "all 3 margins are 1"),
        ([1, 2, 3], [4, 4, 4], "all 3 scores are 4"),
        ([1, 2, 3], [4, np.nan, 4], "scores hold NaN, first at place 1"),
        ([1, 2, np.nan], [4, 5, 6], "margins hold NaN, first at place 2"),
    ],
)
def test_what_has_no_rank_correlation_is_refused(margins, scores, message):
    with pytest.raises(EvidenceError, match=message):
        kendall(np.array(margins, float), np.array(scores, float))


def test_arrays_of_two_lengths_are_refused():
    with pytest.raises(ArgumentError, match="scores"):
        kendall(np.arange(4.0), np.arange(3.0))


# --- margin consistency of a table ----------------------------------------------------------------


def test_margins_that_are_unknown_are_left_out_and_counted():
    upper = [0.1, np.inf, 0.2, 0.3, np.inf, 0.4, 0.5, np.inf]
    scores = np.array([1.0, 0.0, 2, 3, 9, 4, 5, 2.5])  # of the unknown ones in any order
    found = margin_consistency(table(upper, scores))
    assert found.tau.value == pytest.approx(1)
    assert (found.tau.n, found.tau.unknown) == (8, 3 / 8)
    assert (found.norm, found.suite) == ("Linf", "margin")
    with pytest.raises(EvidenceError, match=r"2 of 4 margins in Linf are known.*suite margin"):
        margin_consistency(table([0.1, 0.2, np.inf, np.inf], np.arange(4.0)))


def test_wrong_decisions_count():
    right = table([0.1, 0.2, 0.3, 0.4], [1.0, 3, 2, 4])
    wrong = EvidenceTable(right.frame.assign(label=7), right.identity, right.provenance)
    assert margin_consistency(wrong) == margin_consistency(right)


def test_classes_are_those_predicted_and_those_without_tau_are_named():
    upper = [0.1, 0.2, 0.3, 0.4, 0.1, 0.2, 0.3, 0.1, 0.2, 0.5, 0.5, 0.5, np.inf]
    scores = np.array([1.0, 2, 3, 4, 3, 2, 1, 5, 6, 1, 2, 3, 8])
    classes = [0, 0, 0, 0, 4, 4, 4, 2, 2, 3, 3, 3, 0]
    found = margin_consistency(table(upper, scores, predictions=classes))
    assert {label: each.value for label, each in found.per_class.items()} == pytest.approx({0: 1, 4: -1})
    assert (found.per_class[0].n, found.per_class[0].unknown) == (5, 1 / 5)
    assert found.left_out == {2: "2 samples, and it takes at least 3", 3: "all 3 margins are 0.5, so they rank nothing"}
    written = json.loads(json.dumps(found.to_json()))
    assert written["tau"]["value"] == found.tau.value
    assert written["per_class"]["4"]["value"] == found.per_class[4].value
    assert sorted(written["left_out"]) == ["2", "3"]


def test_scores_are_in_the_order_of_rising_sample_ids():
    shuffled = table([0.3, 0.1, 0.4, 0.2], np.zeros(4), samples=[30, 10, 40, 20])
    assert margin_consistency(shuffled, scores=np.array([1.0, 2, 3, 4])).tau.value == pytest.approx(1)
    with pytest.raises(ArgumentError, match="one per sample"):
        margin_consistency(shuffled, scores=np.arange(3.0))
    with pytest.raises(EvidenceError, match="1 scores are NaN, first at place 2"):
        margin_consistency(shuffled, scores=np.array([1, 2, np.nan, 4]))


def test_the_norm_may_be_left_out_where_there_is_one():
    both = table([0.1, 0.2, 0.3], np.arange(3.0)).merge(table([0.3, 0.2, 0.1], np.arange(3.0), norm="L2"))
    assert margin_consistency(both, "L2").tau.value == pytest.approx(-1)
    with pytest.raises(EvidenceError, match=r"several norms \(L2, Linf\)"):
        margin_consistency(both)
