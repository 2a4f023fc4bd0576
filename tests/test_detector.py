"""The detector of brittle decisions: its guarantee by simulation, and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evidence import untouched
from temper.errors import ArgumentError, EvidenceError
from temper.margins.detector import BrittlenessDetector, conformal_threshold, single_threat
from temper.margins.table import EvidenceTable, Provenance

EPS = 8 / 255
THREAT = "Linf:8/255"
MODEL = {"weights": "abc", "preprocessing": "none"}


def table(margins, scores, samples=None, *, survived=None, model=MODEL, data="d", suite="margin") -> EvidenceTable:
    """Evidence of a search for the nearest flip; what it survived is the margin, unless said otherwise."""
    margins = np.array(margins, float)
    ids = np.arange(len(margins)) if samples is None else np.array(samples)
    rows = untouched(samples=ids, labels=0, predictions=ids % 3, logit_margins=scores, norm="Linf", suite=suite)
    searched = margins if survived is None else survived
    frame = rows.assign(upper=margins, survived=searched)
    return EvidenceTable(frame, {"model": model, "data": data}, Provenance({}, {}, [0], [], []))


def decisions(count=200, seed=0, **given_) -> EvidenceTable:
    """Margins in which about half are brittle, and scores that follow them loosely."""
    rng = np.random.default_rng(seed)
    margins = rng.exponential(EPS / math.log(2), count)
    return table(margins, margins * 100 * rng.lognormal(0, 0.3, count), **given_)


# --- threshold ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "alpha", "rank"),
    [
        (19, 0.05, 19),
        (20, 0.05, 20),
        (39, 0.05, 38),
        (40, 0.05, 39),
        (9, 0.1, 9),
        (10, 0.1, 10),
        (99, 0.1, 90),
        (1, 0.5, 1),
    ],
)
def test_the_threshold_is_the_conformal_rank(count, alpha, rank):
    """k = ceil((n + 1)(1 - alpha)), reckoned by hand: 20 * 0.95 = 19, 21 * 0.95 = 19.95, 40 * 0.95 = 38 ..."""
    scores = np.random.default_rng(0).permutation(np.arange(1.0, count + 1))
    assert conformal_threshold(scores, alpha) == rank


@pytest.mark.parametrize(("alpha", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.3, 3), (0.5, 1)])
def test_too_few_scores_are_refused_with_the_number_it_takes(alpha, needed):
    assert conformal_threshold(np.arange(float(needed)), alpha) == needed - 1
    with pytest.raises(EvidenceError, match=f"{needed - 1} brittle decisions are too few.* takes {needed};"):
        conformal_threshold(np.arange(needed - 1.0), alpha)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 5, float("nan"), 1e-40, 5e-324, 1e38])
def test_an_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(ArgumentError, match=r"alpha.*between 0 and 1"):
        conformal_threshold(np.arange(100.0), alpha)


@given(st.lists(st.integers(0, 5), min_size=20, max_size=60), st.floats(0.05, 0.95))
def test_leaving_one_out_misses_at_most_alpha(scores, alpha):
    """The promise without chance: of n + 1 scores, each set aside in turn, at most a share alpha lies above the
    threshold of the others, ties or not."""
    scores = np.array(scores, float)
    missed = [score > conformal_threshold(np.delete(scores, i), alpha) for i, score in enumerate(scores)]
    assert np.mean(missed) <= alpha + 1e-9


@pytest.mark.parametrize("ties", [False, True])
def test_the_mean_share_of_missed_decisions_is_at_most_alpha(ties):
    alpha, repeats, calibration = 0.1, 1000, 25
    rng = np.random.default_rng(7)
    scores = rng.integers(0, 8, (repeats, calibration + 200)) if ties else rng.normal(size=(repeats, calibration + 200))
    missed = np.array(
        [(row[calibration:] > conformal_threshold(row[:calibration], alpha)).mean() for row in scores.astype(float)]
    )
    noise = missed.std() / math.sqrt(repeats)
    assert missed.mean() <= alpha + 2 * noise
    if not ties:  # nor is it needlessly careful: 1 - 24/26 of continuous scores pass
        assert missed.mean() == pytest.approx(2 / 26, abs=4 * noise)


@pytest.mark.slow
def test_a_fitted_detector_keeps_its_promise_on_the_average():
    """Decisions of both kinds, scores with ties: of new brittle ones at most alpha pass, averaged over calibrations."""
    alpha, missed = 0.15, []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        margins = rng.exponential(EPS, 60)
        scores = np.round(margins * 200 * rng.lognormal(0, 0.5, 60))
        threshold = BrittlenessDetector.fit(table(margins[:30], scores[:30]), THREAT, alpha).threshold
        missed.append((scores[30:] > threshold)[margins[30:] <= EPS].mean())
    noise = np.std(missed) / math.sqrt(len(missed))
    assert 0 < np.mean(missed) <= alpha + 2 * noise


def test_the_confidence_bound_holds_for_as_many_calibrations_as_it_says():
    detector = BrittlenessDetector.fit(table([EPS / 2] * 60, np.arange(60.0)), THREAT, alpha=0.1)
    bound = detector.missed_at_most(0.9)
    scores = np.random.default_rng(3).uniform(size=(4000, 60))
    missed = np.array(
        [1 - conformal_threshold(row, 0.1) for row in scores]
    )  # of uniform scores this is the share above
    assert np.mean(missed <= bound) == pytest.approx(0.9, abs=0.02)
    assert detector.missed_at_most() > bound > 0.1


# --- fit ------------------------------------------------------------------------------------------


def test_fit_counts_what_it_rests_on():
    margins = [EPS / 2] * 20 + [2 * EPS] * 20 + [np.inf] * 10
    survived = [EPS / 2] * 20 + [2 * EPS] * 20 + [0.0] * 10
    scores = np.arange(50.0)
    detector = BrittlenessDetector.fit(table(margins, scores, survived=survived), THREAT, alpha=0.1)
    assert detector.threshold == 18  # the 19th of 20: ceil(21 * 0.9) = 19
    calibration = detector.calibration
    assert (calibration.brittle, calibration.unknown, calibration.suite) == (20, 10, "margin")
    assert (calibration.flag_rate.value, calibration.flag_rate.n) == (19 / 50, 50)
    assert calibration.samples == tuple(range(50))


def test_wrong_decisions_can_be_brittle_too():
    found = decisions()
    frame = found.frame.assign(label=9)  # every prediction is wrong
    wrong = EvidenceTable(frame, found.identity, found.provenance)
    assert BrittlenessDetector.fit(wrong, THREAT).threshold == BrittlenessDetector.fit(found, THREAT).threshold


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(8))
def test_logits_are_flagged_as_the_table_was(dtype, seed):
    logits = 7 * torch.randn(300, 5, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    top = logits.double().topk(2, 1).values
    scores = (top[:, 0] - top[:, 1]).numpy()
    detector = BrittlenessDetector.fit(table(scores / 100, scores), THREAT)
    flagged = detector.flag(logits)
    assert flagged.dtype == torch.bool
    assert flagged.tolist() == (scores <= detector.threshold).tolist()
    assert flagged.sum().item() == round(detector.calibration.flag_rate.value * 300)


def test_too_few_brittle_decisions_are_refused():
    with pytest.raises(EvidenceError, match=r"5 brittle decisions are too few.* takes 19"):
        BrittlenessDetector.fit(table([EPS / 2] * 5 + [1.0] * 95, np.arange(100.0)), THREAT)


def test_margins_that_are_all_unknown_are_refused():
    with pytest.raises(EvidenceError, match=r"all 30 margins are unknown.*temper margins"):
        BrittlenessDetector.fit(table([np.inf] * 30, np.arange(30.0), survived=[0.0] * 30), THREAT)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_logit_margin_that_is_no_number_is_refused(broken):
    scores = np.arange(30.0)
    scores[4] = broken
    with pytest.raises(EvidenceError, match="sample 4"):
        BrittlenessDetector.fit(table([EPS / 2] * 30, scores), THREAT)


@pytest.mark.parametrize("threat", ["Linf:8/255,4/255", "Linf:8/255 L2:0.5"])
def test_several_threats_are_refused(threat):
    with pytest.raises(ArgumentError, match="one norm and one radius"):
        BrittlenessDetector.fit(decisions(), threat)
    assert single_threat(THREAT).eps == EPS


# --- detect ---------------------------------------------------------------------------------------


def test_detection_on_other_samples():
    detector = BrittlenessDetector.fit(table([EPS / 2] * 20, np.arange(20.0)), THREAT, alpha=0.1)
    assert detector.threshold == 18
    found = detector.detect(
        table(
            [EPS / 2] * 4 + [2 * EPS] * 5 + [np.inf],
            [1, 2, 18, 18.5, 0, 19, 20, 21, 22, 3],
            range(100, 110),
            survived=[EPS / 2] * 4 + [2 * EPS] * 5 + [0.0],
        )
    )
    assert (found.missed.value, found.missed.n) == (1 / 4, 4)
    assert (found.false_alarms.value, found.false_alarms.n) == (1 / 5, 5)
    assert (found.flagged.value, found.flagged.n) == (5 / 10, 10)
    assert found.unknown == 1 / 10


def test_without_brittle_decisions_there_is_no_missed_share():
    detector = BrittlenessDetector.fit(decisions(), THREAT)
    found = detector.detect(table([1.0] * 3, [0.0] * 3, range(1000, 1003)))
    assert found.missed is None
    assert (found.false_alarms.value, found.false_alarms.n) == (1, 3)


def test_samples_of_the_calibration_are_refused():
    detector = BrittlenessDetector.fit(decisions(), THREAT)
    with pytest.raises(EvidenceError, match=r"2 samples \(first 198\) were used to fit"):
        detector.detect(decisions(samples=range(198, 398)))
    detector.detect(decisions(samples=range(198, 398), data="another"))  # ids of another data set are other samples


def test_another_model_is_refused():
    detector = BrittlenessDetector.fit(decisions(), THREAT)
    with pytest.raises(EvidenceError, match="fitted for another model"):
        detector.detect(decisions(samples=range(1000, 1200), model={"weights": "other"}))


def test_a_table_of_several_suites_is_judged_by_the_detector_s():
    one, two = decisions(samples=range(1000, 1200)), decisions(samples=range(1000, 1200), suite="fast")
    detector = BrittlenessDetector.fit(decisions(), THREAT)
    assert detector.detect(one.merge(two)) == detector.detect(one)


# --- save and load --------------------------------------------------------------------------------


def test_a_detector_survives_its_file(tmp_path):
    detector = BrittlenessDetector.fit(decisions(), THREAT)
    detector.save(tmp_path / "detector.json")
    assert BrittlenessDetector.load(str(tmp_path / "detector.json")) == detector
    assert BrittlenessDetector.load(tmp_path / "detector.json", MODEL) == detector
    with pytest.raises(EvidenceError, match="another model"):
        BrittlenessDetector.load(tmp_path / "detector.json", {"weights": "other"})


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b'"text"', b"{}", b'{"temper_detector": 1}', b"\xff\xfe\x00binary"]
)
def test_a_file_that_is_no_detector_is_refused_by_name(tmp_path, content):
    path = tmp_path / "detector.json"
    path.write_bytes(content)
    with pytest.raises(EvidenceError, match=r"detector\.json: is not a detector"):
        BrittlenessDetector.load(path)


def test_a_file_of_another_version_or_that_is_missing_is_refused(tmp_path):
    path = tmp_path / "detector.json"
    with pytest.raises(EvidenceError, match=r"detector\.json: cannot be read"):
        BrittlenessDetector.load(path)
    BrittlenessDetector.fit(decisions(), THREAT).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temper_detector": 99}))
    with pytest.raises(EvidenceError, match="another version"):
        BrittlenessDetector.load(path)
