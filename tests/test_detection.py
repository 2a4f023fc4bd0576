"""How well scores tell brittle decisions: scikit-learn, intervals, and what has no figure."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from evidence import judged, labelled, table
from temper.errors import ArgumentError, EvidenceError
from temper.margins import detection as detection_module
from temper.margins.decisions import Brittleness, brittleness
from temper.margins.detection import Counts, detection, eps_sweep, risk_curve, roc_curve

EPS = 8 / 255


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
    assert found.counts == Counts(2, 2, 2)
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
    found = Brittleness(ids, ids, ids.astype(float), margin, brittle, ~brittle, "margin")
    got = detection_module.detection(found)
    for each in (got.auroc, got.aupr, got.aupr_trapezoid):
        assert each.value == pytest.approx(1) == each.high
        assert 0.3 < each.low < 0.6
    assert got.fpr_at_95_tpr_in_sample.value == 0
    assert got.fpr_at_95_tpr_in_sample.high == 1  # none is sure to be last
