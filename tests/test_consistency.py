"""Margin consistency and detection: exact margins, the theorem both ways, scikit-learn, and what has no figure."""

import json

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau
from sklearn import metrics as sk

from evidence import untouched
from temper.errors import ArgumentError, EvidenceError
from temper.margins import consistency
from temper.margins import detection as detection_module
from temper.margins.consistency import kendall, margin_consistency
from temper.margins.decisions import Brittleness, brittleness
from temper.margins.detection import detection, eps_sweep, risk_curve, roc_curve
from temper.margins.scores import FeatureMargin, logit_margin
from temper.margins.table import EvidenceTable, Provenance

EPS = 8 / 255


def rows(upper, scores, survived=None, predictions=None, samples=None, norm="Linf", suite="margin"):
    upper = np.array(upper, float)
    ids = np.arange(len(upper)) if samples is None else np.array(samples)
    predictions = 0 if predictions is None else predictions
    blank = untouched(samples=ids, labels=0, predictions=predictions, logit_margins=scores, norm=norm, suite=suite)
    searched = np.where(np.isfinite(upper), upper, 0.0) if survived is None else survived
    return blank.assign(upper=upper, survived=searched)


def table(*args, **kwargs) -> EvidenceTable:
    return EvidenceTable(rows(*args, **kwargs), {"model": "m", "data": "d"}, Provenance({}, {}, [0], [], []))


def judged(margins, scores, eps) -> Brittleness:
    return brittleness(table(margins, scores), "Linf", eps)


def labelled(brittle, scores, unknown=None) -> Brittleness:
    """Decisions of which only it is known that they are brittle, or robust, or neither."""
    brittle, scores = np.array(brittle, bool), np.array(scores, float)
    unknown = np.zeros_like(brittle) if unknown is None else np.array(unknown, bool)
    ids = np.arange(len(brittle))
    margins = np.where(unknown, np.inf, np.where(brittle, 0.01, 0.1))
    return Brittleness(ids, 0 * ids, 0 * ids, scores, margins, brittle & ~unknown, ~brittle & ~unknown, "margin")


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


# --- detection ------------------------------------------------------------------------------------


def papers_threshold(brittle, scores):
    """FPR and threshold of the paper's code: of det_curve's points with TPR >= 0.95 the first of the smallest TPR."""
    fpr, fnr, thresholds = sk.det_curve(brittle, -scores)
    tpr = 1 - fnr
    enough = np.flatnonzero(tpr >= 0.95)
    at = enough[np.argmin(tpr[enough])]
    return fpr[at], -thresholds[at]


LABELS = st.lists(st.tuples(st.booleans(), st.integers(0, 12)), min_size=4, max_size=60)


@settings(max_examples=40, deadline=None)
@given(LABELS)
def test_figures_are_scikit_learn_s_with_ties(decisions):
    brittle, scores = np.array([d[0] for d in decisions]), np.array([float(d[1]) for d in decisions])
    assume(0 < brittle.sum() < len(brittle))
    found = detection(labelled(brittle, scores))
    precision, recall, _ = sk.precision_recall_curve(brittle, -scores)
    assert found.auroc.value == pytest.approx(sk.roc_auc_score(brittle, -scores))
    assert found.aupr.value == pytest.approx(sk.average_precision_score(brittle, -scores))
    assert found.aupr_trapezoid.value == pytest.approx(sk.auc(recall, precision))
    fpr, threshold = papers_threshold(brittle, scores)
    assert found.fpr_at_95_tpr_in_sample.value == pytest.approx(fpr)
    assert found.threshold_95 == threshold
    flagged = scores <= found.threshold_95
    assert flagged[brittle].mean() >= 0.95
    assert flagged[~brittle].mean() == pytest.approx(fpr)


def test_of_equal_tpr_the_largest_fpr_is_reported():
    # 20 brittle ones: the 19th has a score of 19, and robust ones follow before the 20th at 30.
    scores = np.array([*range(1, 20), 30, 0.5, 20, 21, 40], float)
    found = detection(labelled([True] * 20 + [False] * 4, scores))
    assert found.fpr_at_95_tpr_in_sample.value == 3 / 4  # the smallest FPR of that TPR would be 1/4
    assert found.threshold_95 == 21


def test_where_no_robust_decision_is_flagged_yet_the_curve_begins_with_the_last_threshold():
    # 60 brittle ones: 57 are 95 %, but up to the 58th none is flagged in vain.
    scores = np.array([*range(1, 59), 61, 65, 61, 70], float)
    found = detection(labelled([True] * 60 + [False] * 2, scores))
    assert (found.fpr_at_95_tpr_in_sample.value, found.threshold_95) == (0, 58)
    assert papers_threshold(np.arange(62) < 60, scores) == (0, 58)


def test_at_a_tpr_of_one_the_curve_ends():
    # 10 brittle ones: only all of them are 95 %, and no robust one beyond the last is flagged for it.
    scores = np.array([*range(1, 11), 0.5, 11, 12], float)
    found = detection(labelled([True] * 10 + [False] * 3, scores))
    assert (found.fpr_at_95_tpr_in_sample.value, found.threshold_95) == (1 / 3, 10)


def test_the_held_out_rate_is_that_of_thresholds_chosen_elsewhere():
    rng = np.random.default_rng(0)
    brittle = rng.random(301) < 0.5
    scores = rng.normal(size=301) + ~brittle
    found = labelled(brittle, scores)
    one, two = detection_module._halves(brittle, np.random.default_rng(3))
    assert sorted([*one, *two]) == list(range(301))
    assert abs(brittle[one].sum() - brittle[two].sum()) <= 1
    rates = []
    for chosen, scored in ((one, two), (two, one)):
        _, threshold = papers_threshold(brittle[chosen], scores[chosen])
        rates.append((scores[scored] <= threshold)[~brittle[scored]].mean())
    assert detection(found, seed=3).fpr_at_95_tpr.value == pytest.approx(np.mean(rates))
    assert detection(found, seed=4).fpr_at_95_tpr.value != detection(found, seed=3).fpr_at_95_tpr.value


def test_in_sample_rates_flatter_few_decisions_and_held_out_ones_do_not():
    """The threshold that is best on 20 brittle decisions misses more of the next ones; held out, that shows."""
    rng = np.random.default_rng(0)
    in_sample, threshold_misses = [], []
    for _ in range(100):
        scores = rng.normal(size=20)
        found = detection(labelled([True] * 20 + [False] * 5, [*scores, *rng.normal(size=5) + 3]))
        in_sample.append((scores > found.threshold_95).mean())
        threshold_misses.append((rng.normal(size=200) > found.threshold_95).mean())
    assert max(in_sample) <= 0.05
    assert np.mean(threshold_misses) > 0.05


@pytest.mark.parametrize("figure", ["auroc", "aupr", "aupr_trapezoid", "fpr_at_95_tpr", "fpr_at_95_tpr_in_sample"])
def test_intervals_hold_the_value_and_narrow_with_more_decisions(figure):
    def width(count):
        rng = np.random.default_rng(0)
        brittle = rng.random(count) < 0.4
        found = getattr(detection(labelled(brittle, rng.normal(size=count) + ~brittle)), figure)
        assert found.low <= found.value <= found.high
        return found.high - found.low

    assert 0 < width(2000) < width(100) / 2


def test_unknown_decisions_are_left_out_and_counted():
    brittle, scores = [1, 1, 0, 0, 1, 0], [1.0, 2, 3, 4, 99, -99]
    found = detection(labelled(brittle, scores, unknown=[0, 0, 0, 0, 1, 1]))
    assert (found.brittle, found.robust, found.unknown) == (2, 2, 2)
    assert (found.auroc.value, found.auroc.n, found.auroc.unknown) == (1, 6, 1 / 3)
    assert json.loads(json.dumps(found.to_json()))["auroc"]["unknown"] == 1 / 3


def test_without_two_of_a_kind_nothing_can_be_held_out():
    found = detection(labelled([1, 0, 0, 0], [1.0, 2, 3, 4]))
    assert found.fpr_at_95_tpr is None
    assert found.auroc.value == 1
    assert detection(labelled([1, 1, 0, 0], [1.0, 2, 3, 4])).fpr_at_95_tpr.value == 0


@pytest.mark.parametrize("figures", [detection, roc_curve])
def test_one_kind_of_decisions_alone_is_refused_with_the_radius_it_takes(figures):
    margins, scores = [0.02, 0.03, 0.04], np.arange(3.0)
    with pytest.raises(EvidenceError, match=r"none of 3 .* the nearest flip was found at 0.02, so take a radius from"):
        figures(judged(margins, scores, 0.01))
    with pytest.raises(EvidenceError, match=r"all 3 .* was found at 0.04, so take a smaller radius"):
        figures(judged(margins, scores, 0.05))
    nowhere = brittleness(table([np.inf] * 3, scores, survived=[1.0] * 3), "Linf", 0.5)
    with pytest.raises(EvidenceError, match="found nowhere, so search further"):
        figures(nowhere)


def test_scores_that_cannot_be_ranked_are_refused():
    found = labelled([1, 0, 0], [1.0, 2, 3])
    for figures in (detection, roc_curve, risk_curve):
        with pytest.raises(EvidenceError, match="NaN, first at place 1"):
            figures(found, np.array([1, np.nan, 2]))
        with pytest.raises(ArgumentError, match="scores"):
            figures(found, np.arange(2.0))


def test_infinite_scores_are_the_safest():
    found = detection(labelled([1, 1, 0, 0], [0.0] * 4), np.array([1.0, 2, np.inf, np.inf]))
    assert found.auroc.value == 1
    assert found.threshold_95 == 2


# --- curves and sweeps ----------------------------------------------------------------------------


def test_the_roc_curve_is_scikit_learn_s():
    rng = np.random.default_rng(0)
    brittle, scores = rng.random(100) < 0.5, rng.integers(0, 9, 100).astype(float)
    fpr, tpr = roc_curve(labelled(brittle, scores))
    expected_fpr, expected_tpr, _ = sk.roc_curve(brittle, -scores, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected_fpr)
    np.testing.assert_allclose(tpr, expected_tpr)


def test_risk_falls_as_the_lowest_scores_are_set_aside():
    found = labelled([1, 0, 1, 0, 0, 1], [1.0, 2, 3, 3, 4, 0], unknown=[0, 0, 0, 0, 0, 1])
    kept, risk = risk_curve(found)
    np.testing.assert_allclose(kept, [1, 4 / 5, 3 / 5, 1 / 5])  # the two of one score go together
    np.testing.assert_allclose(risk, [2 / 5, 1 / 4, 1 / 3, 0])
    kept, risk = risk_curve(found, -found.logit_margin)
    np.testing.assert_allclose(risk, [2 / 5, 2 / 4, 1 / 2, 1])
    assert risk_curve(labelled([0, 0], [1.0, 2]))[1].tolist() == [0, 0]


def test_a_sweep_reports_radii_without_both_kinds():
    margins = [0.01, 0.02, 0.03, 0.04]
    points = eps_sweep(table(margins, [1.0, 2, 3, 4]), "Linf", [0.005, 0.02, 0.5])
    assert [point.eps for point in points] == [0.005, 0.02, 0.5]
    assert [point.quality is None for point in points] == [True, False, True]
    assert points[1] == detection_module.SweepPoint(0.02, detection(judged(margins, [1.0, 2, 3, 4], 0.02)))
    assert "none of 4" in points[0].reason
    assert "all 4" in points[2].reason
    against = eps_sweep(table(margins, [1.0, 2, 3, 4]), "Linf", [0.02], scores=np.array([4.0, 3, 2, 1]))
    assert against[0].quality.auroc.value == 0


def test_a_sweep_reports_radii_that_no_search_reached():
    unsearched = table([np.inf] * 3, np.arange(3.0), survived=[0.01] * 3)
    beyond = eps_sweep(unsearched, "Linf", [0.01, 0.05])
    assert "none of 3" in beyond[0].reason
    assert "all 3 margins are unknown" in beyond[1].reason


def test_a_sweep_raises_what_is_wrong_at_every_radius():
    good = table([0.01, 0.02, 0.03], np.arange(3.0))
    for radii in ([], [0.0, 0.1]):
        with pytest.raises(ArgumentError, match="radii"):
            eps_sweep(good, "Linf", radii)
    with pytest.raises(EvidenceError, match="no evidence in norm L2"):
        eps_sweep(good, "L2", [EPS])
    with pytest.raises(EvidenceError, match="sample 1"):
        eps_sweep(table([0.01, 0.02, 0.03], [1.0, np.nan, 2]), "Linf", [EPS])
    with pytest.raises(EvidenceError, match="NaN"):
        eps_sweep(good, "Linf", [EPS], scores=np.full(3, np.nan))


def test_perfect_detection_leaves_doubt():
    """Five brittle decisions that all score below the robust ones say little of the next."""
    brittle = np.arange(40) < 5
    ids, margin = np.arange(40), np.where(np.arange(40) < 5, 0.0, np.inf)
    found = Brittleness(ids, ids, ids, ids.astype(float), margin, brittle, ~brittle, "margin")
    got = detection_module.detection(found)
    for each in (got.auroc, got.aupr, got.aupr_trapezoid):
        assert each.value == pytest.approx(1) == each.high
        assert 0.3 < each.low < 0.6
    assert got.fpr_at_95_tpr_in_sample.value == 0
    assert got.fpr_at_95_tpr_in_sample.high == 1  # none is sure to be last
