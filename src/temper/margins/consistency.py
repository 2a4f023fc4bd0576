"""How well a score of the logits stands in for the input margin: rank correlation, and detection of brittle decisions.

Facts and protocol: arXiv:2406.18451, sections 2 and 3.1. The score of a decision is, unless another is given, its logit
margin: the lower, the more brittle.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from temper.errors import ArgumentError, EvidenceError
from temper.margins.brittleness import Brittleness, brittleness
from temper.margins.intervals import Estimate, bootstrapped
from temper.margins.table import EvidenceTable

TPR = 0.95  # at which false alarms are counted
FEWEST = 3  # samples that have a rank correlation
PAIRWISE = 1000  # up to so many samples all their pairs are held in memory, which is faster than to sort resamples
RESAMPLES = 2000
DRAWS = 10_000_000  # samples drawn in a bootstrap, all resamples together


# --- rank correlation -----------------------------------------------------------------------------


@dataclass(frozen=True)
class MarginConsistency:
    """Level of margin consistency: how alike input margin and score rank a table's decisions.

    Attributes:
        norm, suite: of the evidence.
        tau: Kendall's tau-b, 1 where both rank alike. ``n`` counts all samples; those without a known margin are its
            ``unknown`` share and had to be left out.
        per_class: the same among the decisions for one class, by predicted class.
        left_out: predicted classes without a tau, and why.
    """

    norm: str
    suite: str
    tau: Estimate
    per_class: Mapping[int, Estimate]
    left_out: Mapping[int, str]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data; JSON writes the classes as texts."""
        return asdict(self)


def kendall(margins: NDArray[np.float64], scores: NDArray[np.float64], *, seed: int = 0) -> Estimate:
    """Kendall's tau-b of two rankings, with a bootstrap interval over the samples on Fisher's scale.

    Resamples in which one side is constant have no tau and are passed over. Where every pair is ranked alike the
    interval is the exact one of n / 2 pairs without a common sample.

    Args:
        margins: float64 [N]; scores: float64 [N], of the same samples.
        seed: of the resampling.

    Raises:
        ArgumentError: the arrays differ in length.
        EvidenceError: fewer than 3 samples, NaN, or one side is constant.
    """
    if margins.shape != scores.shape or margins.ndim != 1:
        raise ArgumentError("scores", scores.shape, f"must be one per margin, shape {margins.shape}")
    reason = _no_tau(margins, scores)
    if reason:
        raise EvidenceError(f"there is no rank correlation: {reason}")
    value = float(kendalltau(margins, scores).statistic)
    # (1 + tau) / 2 is, but for ties, the share of pairs that are ranked alike.
    n, draws = len(margins), _resampled_taus(margins, scores, seed)
    low, high = bootstrapped((1 + value) / 2, (1 + draws) / 2, independent=n // 2, step=1 / (n * (n - 1)))
    return Estimate(value, min(2 * low - 1, value), max(2 * high - 1, value), n)


def margin_consistency(
    table: EvidenceTable,
    norm: str | None = None,
    suite: str | None = None,
    *,
    scores: NDArray[np.float64] | None = None,
    seed: int = 0,
) -> MarginConsistency:
    """Kendall's tau-b of input margin and score, over all decisions, right and wrong (arXiv:2406.18451, section 3.1).

    The distance of the nearest flip that was found is an input margin only where the nearest was looked for, as the
    suite ``margin`` does. Where none was found the margin is unknown, and the sample is left out and counted.

    Args:
        table: the evidence.
        norm: Linf, L2 or L1; may be left out where there is one.
        suite: may be left out where there is one; flips that other suites found count as well.
        scores: float64 [N], in the order of rising sample ids; None takes the logit margins.
        seed: of the resampling.

    Raises:
        ArgumentError: scores are not one per sample.
        EvidenceError: several norms and none named, fewer than 3 known margins, constant or NaN values, or see
            :func:`temper.margins.metrics.evidence`.
    """
    if norm is None and len(table.norms) > 1:
        raise EvidenceError(f"there is evidence in several norms ({', '.join(table.norms)}): say which one to take")
    norm = norm or table.norms[0]
    found = _decisions(table, norm, suite)
    scores = _checked(found.logit_margin if scores is None else scores, len(found.sample))
    margins, known = found.margin, np.isfinite(found.margin)
    if known.sum() < FEWEST:
        raise EvidenceError(
            f"{known.sum()} of {len(known)} margins in {norm} are known, and a rank correlation takes {FEWEST}; search"
            " for the nearest flips with suite margin"
        )
    per_class, left_out = {}, {}
    for label in np.unique(found.prediction).tolist():
        among = found.prediction == label
        reason = _no_tau(margins[among & known], scores[among & known])
        if reason:
            left_out[label] = reason
        else:
            per_class[label] = _known_tau(margins[among], scores[among], seed)
    return MarginConsistency(norm, found.suite, _known_tau(margins, scores, seed), per_class, left_out)


def _known_tau(margins: NDArray[np.float64], scores: NDArray[np.float64], seed: int) -> Estimate:
    """Tau over the finite margins, the share of the others as unknown."""
    known = np.isfinite(margins)
    found = kendall(margins[known], scores[known], seed=seed)
    return replace(found, n=len(known), unknown=float((~known).mean()))


def _no_tau(margins: NDArray[np.float64], scores: NDArray[np.float64]) -> str:
    """Why two arrays have no rank correlation; empty where they have."""
    if len(margins) < FEWEST:
        return f"{len(margins)} samples, and it takes at least {FEWEST}"
    for name, values in (("margins", margins), ("scores", scores)):
        if np.isnan(values).any():
            return f"{name} hold NaN, first at place {int(np.isnan(values).argmax())}; compute them again"
        if (values == values[0]).all():
            return f"all {len(values)} {name} are {values[0]:.4g}, so they rank nothing"
    return ""


def _resampled_taus(margins: NDArray[np.float64], scores: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    n = len(margins)
    if n > PAIRWISE:
        return np.array([kendalltau(margins[drawn], scores[drawn]).statistic for drawn in _draws(n, seed)])
    # Tau-b of a resample is a sum over pairs of samples, each as often as its two were drawn; a sample drawn twice is a
    # tie with itself on both sides. So quadratic forms in the counts do for all resamples at once.
    counts = np.stack([np.bincount(drawn, minlength=n) for drawn in _draws(n, seed)]).astype(np.float32)
    ranks = (np.unique(values, return_inverse=True)[1] for values in (margins, scores))
    one, two = (np.sign(rank[:, None] - rank).astype(np.float32) for rank in ranks)
    # Sums of up to PAIRWISE squared are whole numbers that float32 holds exactly.
    alike, ranked_one, ranked_two = (
        np.einsum("rn,rn->r", counts @ signs, counts).astype(np.float64) for signs in (one * two, one**2, two**2)
    )
    most = np.sqrt(ranked_one * ranked_two)
    return np.divide(alike, most, out=np.full(len(counts), np.nan), where=most > 0)


# --- detection ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DetectionQuality:
    """How well low scores tell brittle decisions from robust ones (arXiv:2406.18451, section 3.1).

    In each estimate ``n`` counts all decisions; the unsettled ones are its ``unknown`` share and had to be left out.

    Attributes:
        auroc: area under the ROC curve: how often a brittle decision scores below a robust one, ties half.
        aupr: average precision, as scikit-learn's ``average_precision_score``.
        aupr_trapezoid: area under precision against recall by the trapezoid rule, as the paper has it.
        fpr_at_95_tpr: share of robust decisions flagged where 95 % of the brittle ones are: the threshold is chosen on
            one random half of the decisions and scored on the other, both ways, and averaged. None where brittle or
            robust decisions are not two at least.
        fpr_at_95_tpr_in_sample: the paper's: scored on the decisions that the threshold was chosen on.
        threshold_95: of the latter; scores up to here are flagged.
        brittle, robust, unknown: numbers of decisions.
    """

    auroc: Estimate
    aupr: Estimate
    aupr_trapezoid: Estimate
    fpr_at_95_tpr: Estimate | None
    fpr_at_95_tpr_in_sample: Estimate
    threshold_95: float
    brittle: int
    robust: int
    unknown: int

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class SweepPoint:
    """Detection at one radius.

    Attributes:
        eps: in pixel units of [0, 1].
        quality: None where it is not defined.
        reason: why not; else empty.
    """

    eps: float
    quality: DetectionQuality | None
    reason: str = ""


def detection(found: Brittleness, scores: NDArray[np.float64] | None = None, *, seed: int = 0) -> DetectionQuality:
    """How well low scores detect brittle decisions, with bootstrap intervals over the decisions.

    The intervals are on the logit scale (:func:`temper.margins.intervals.bootstrapped`). That of the FPR in sample is
    too short where few decisions are brittle: it takes no account of having chosen the threshold on them.
    Resamples without any brittle or any robust decision are passed over.

    Args:
        found: which decisions are brittle, robust, unknown; the latter are left out and counted.
        scores: float64 [N], in the order of ``found``, low for brittle; None takes the logit margins.
        seed: of halves and resampling.

    Raises:
        ArgumentError: scores are not one per decision.
        EvidenceError: no decision is brittle, or none robust; or a score is NaN.
    """
    _check_both_kinds(found)
    ranked = _ranked(found, scores)
    n, unknown = len(found.sample), float(found.unknown.mean())
    everyone = np.arange(len(ranked.brittle))
    resampled = np.array([_figures(*ranked.flagged(drawn)) for drawn in _draws(len(everyone), seed)])

    def estimate(value: float, draws: NDArray[np.float64]) -> Estimate:
        kinds = sorted((int(found.brittle.sum()), int(found.robust.sum())))
        low, high = bootstrapped(value, draws, independent=kinds[0], step=1 / ((kinds[0] + 1) * kinds[1]))
        return Estimate(value, low, high, n, unknown)

    auroc, aupr, trapezoid, in_sample = (
        estimate(value, draws) for value, draws in zip(_figures(*ranked.flagged(everyone)), resampled.T, strict=True)
    )
    held_out = None
    if min(found.brittle.sum(), found.robust.sum()) >= 2:
        rng = np.random.default_rng(seed)
        one, two = _halves(ranked.brittle, rng)
        # Each half is resampled for itself: a decision drawn into both would be scored by its own threshold.
        rates = [
            _held_out_rate(ranked, rng.choice(one, len(one)), rng.choice(two, len(two)))
            for _ in range(_resamples(len(everyone)))
        ]
        held_out = estimate(_held_out_rate(ranked, one, two), np.array(rates))
    return DetectionQuality(
        auroc=auroc,
        aupr=aupr,
        aupr_trapezoid=trapezoid,
        fpr_at_95_tpr=held_out,
        fpr_at_95_tpr_in_sample=in_sample,
        threshold_95=float(ranked.thresholds[_at_95_tpr(*ranked.flagged(everyone))]),
        brittle=int(found.brittle.sum()),
        robust=int(found.robust.sum()),
        unknown=int(found.unknown.sum()),
    )


def roc_curve(
    found: Brittleness, scores: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of robust and of brittle decisions flagged, threshold by threshold from none to all.

    Returns:
        fpr, tpr: float64 [T + 1] each, for T different scores. Arguments and errors are those of :func:`detection`.
    """
    _check_both_kinds(found)
    ranked = _ranked(found, scores)
    brittle, robust = ranked.flagged(np.arange(len(ranked.brittle)))
    return np.append(0.0, robust / robust[-1]), np.append(0.0, brittle / brittle[-1])


def risk_curve(
    found: Brittleness, scores: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How brittle the decisions are that remain when those of the lowest scores are flagged and set aside.

    Unknown decisions are left out. Decisions of one score are set aside together.

    Returns:
        kept: float64 [T], falling, share of the decisions that remain, from all of them on.
        risk: float64 [T], share of brittle ones among those.

    Raises:
        ArgumentError: scores are not one per decision. EvidenceError: a score is NaN.
    """
    ranked = _ranked(found, scores)
    brittle, robust = (np.append(0, count) for count in ranked.flagged(np.arange(len(ranked.brittle))))
    kept = len(ranked.brittle) - (brittle + robust)
    return kept[:-1] / kept[0], (brittle[-1] - brittle[:-1]) / kept[:-1]


def eps_sweep(
    table: EvidenceTable,
    norm: str,
    radii: Sequence[float],
    suite: str | None = None,
    scores: NDArray[np.float64] | None = None,
) -> list[SweepPoint]:
    """Detection at each radius (arXiv:2406.18451, appendix B).

    Where all decisions that are settled are brittle, or none is, or nothing is settled at all, the point has the reason
    in place of the quality.

    Args:
        table: the evidence.
        norm: Linf, L2 or L1.
        radii: in pixel units of [0, 1].
        suite: whose survival counts; may be left out where there is one.
        scores: float64 [N], in the order of rising sample ids, low for brittle; None takes the logit margins.

    Raises:
        ArgumentError: no radii, one that is not above 0, or scores that are not one per sample.
        EvidenceError: a score is NaN, or see :func:`temper.margins.metrics.evidence`.
    """
    if not len(radii) or not min(radii) > 0:
        raise ArgumentError("radii", list(radii), "must be one or more, each above 0")
    found = _decisions(table, norm, suite)
    scores = _checked(found.logit_margin if scores is None else scores, len(found.sample))
    points = []
    for eps in radii:
        try:
            points.append(SweepPoint(float(eps), detection(brittleness(table, norm, eps, suite), scores)))
        except EvidenceError as error:
            points.append(SweepPoint(float(eps), None, str(error)))
    return points


@dataclass(frozen=True)
class _Ranked:
    """Settled decisions by their scores: ``thresholds`` float64 [T] rising, ``ranks`` int64 [M] the place of each
    decision's score among them, ``brittle`` bool [M]."""

    thresholds: NDArray[np.float64]
    ranks: NDArray[np.intp]
    brittle: NDArray[np.bool_]

    def flagged(self, drawn: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """How many brittle and how many robust ones of some decisions each threshold flags, int64 [T] each, rising."""
        ranks, brittle, count = self.ranks[drawn], self.brittle[drawn], len(self.thresholds)
        return (
            np.bincount(ranks[brittle], minlength=count).cumsum(),
            np.bincount(ranks[~brittle], minlength=count).cumsum(),
        )


def _ranked(found: Brittleness, scores: NDArray[np.float64] | None) -> _Ranked:
    scores = _checked(found.logit_margin if scores is None else scores, len(found.sample))
    settled = ~found.unknown
    thresholds, ranks = np.unique(scores[settled], return_inverse=True)
    return _Ranked(thresholds, ranks, found.brittle[settled])


def _check_both_kinds(found: Brittleness) -> None:
    """Raise EvidenceError where no decision is brittle, or none robust."""
    brittle, robust = int(found.brittle.sum()), int(found.robust.sum())
    if not brittle:
        nearest = found.margin.min()
        fix = (
            f"at {nearest:.4g}, so take a radius from there on"
            if np.isfinite(nearest)
            else "nowhere, so search further"
        )
        raise EvidenceError(
            f"none of {robust} settled decisions is brittle at this radius, so there is nothing to detect; the nearest"
            f" flip was found {fix}"
        )
    if not robust:
        raise EvidenceError(
            f"all {brittle} settled decisions are brittle at this radius, so there is nothing to tell them from; the"
            f" farthest flip among them was found at {found.margin[found.brittle].max():.4g}, so take a smaller radius"
        )


def _figures(tps: NDArray[np.intp], fps: NDArray[np.intp]) -> tuple[float, float, float, float]:
    """AUROC, average precision, trapezoid under precision and recall, in-sample FPR at 95 % TPR; nan where undefined.

    They are those of scikit-learn's roc_auc_score, average_precision_score, auc of precision_recall_curve, and
    det_curve, written out because a bootstrap asks for them thousands of times, of one order.
    """
    if not (tps[-1] and fps[-1]):
        return (np.nan,) * 4
    tpr, fpr = np.append(0, tps / tps[-1]), np.append(0, fps / fps[-1])
    some = tps + fps > 0
    precision = np.ones(len(tpr))
    np.divide(tps, tps + fps, out=precision[1:], where=some)
    rises = np.diff(tpr)
    return (
        float(np.diff(fpr) @ (tpr[1:] + tpr[:-1]) / 2),
        float(rises @ precision[1:]),
        float(rises @ (precision[1:] + precision[:-1]) / 2),
        float(fpr[_at_95_tpr(tps, fps) + 1]),
    )


def _at_95_tpr(tps: NDArray[np.intp], fps: NDArray[np.intp]) -> int:
    """Place of the threshold that flags 95 % of the brittle decisions (the paper's rule, on scikit-learn's det_curve).

    Of the points of the curve with a TPR of at least 0.95 it is the one of the smallest TPR, and on ties the one of the
    largest FPR. The curve begins with the last point of FPR 0 and ends with the first of TPR 1.
    """
    used = np.flatnonzero(np.diff(tps + fps, prepend=0))  # a resample may lack a score
    first = max(int(np.searchsorted(fps[used], 0, "right")) - 1, 0)
    last = int(np.searchsorted(tps[used], tps[-1]))
    curve = used[first : last + 1]
    enough = curve[tps[curve] / tps[-1] >= TPR]
    return int(enough[np.searchsorted(tps[enough], tps[enough[0]], "right") - 1])


def _halves(brittle: NDArray[np.bool_], rng: np.random.Generator) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places of two random halves, each with half of the brittle and half of the robust decisions."""
    kinds = [rng.permutation(np.flatnonzero(kind)) for kind in (brittle, ~brittle)]
    return np.concatenate([kind[::2] for kind in kinds]), np.concatenate([kind[1::2] for kind in kinds])


def _held_out_rate(ranked: _Ranked, one: NDArray[np.intp], two: NDArray[np.intp]) -> float:
    """FPR in each half at the other's threshold, averaged; nan where a half lacks brittle or robust decisions."""
    counts = ranked.flagged(one), ranked.flagged(two)
    if not all(tps[-1] and fps[-1] for tps, fps in counts):
        return np.nan
    rates = [fps[_at_95_tpr(*chosen)] / fps[-1] for chosen, (_, fps) in (counts, counts[::-1])]
    return float(np.mean(rates))


# --- both -----------------------------------------------------------------------------------------


def _decisions(table: EvidenceTable, norm: str, suite: str | None) -> Brittleness:
    """All decisions, whatever the radius: at an infinite one every decision is settled."""
    return brittleness(table, norm, math.inf, suite)


def _checked(scores: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Scores that are one per sample and can be ranked."""
    if scores.shape != (n,):
        raise ArgumentError("scores", scores.shape, f"must be one per sample, in the order of rising ids: shape ({n},)")
    if np.isnan(scores).any():
        place = int(np.isnan(scores).argmax())
        raise EvidenceError(f"{int(np.isnan(scores).sum())} scores are NaN, first at place {place}; compute them again")
    return scores


def _resamples(n: int) -> int:
    return int(np.clip(DRAWS // n, RESAMPLES // 10, RESAMPLES))


def _draws(n: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Places of n samples drawn from n, again and again."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, n, n) for _ in range(_resamples(n)))
