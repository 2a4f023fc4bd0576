"""How well a score of the logits stands in for the input margin: rank correlation, and detection of brittle decisions.

Facts and protocol: arXiv:2406.18451, sections 2 and 3.1. The score of a decision is, unless another is given, its logit
margin: the lower, the more brittle.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from temper.errors import ArgumentError, EvidenceError
from temper.margins import intervals
from temper.margins.decisions import Brittleness, brittleness
from temper.margins.intervals import Estimate
from temper.margins.table import EvidenceTable

TPR = 0.95  # at which false alarms are counted
FEWEST = 3  # samples that have a rank correlation
SPREAD = 1000  # samples, at most, from which a tau's spread is taken, each against all
BLOCK = 4_000_000  # pairs of samples held in memory


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


def kendall(margins: NDArray[np.float64], scores: NDArray[np.float64]) -> Estimate:
    """Kendall's tau-b of two rankings, with an interval over the samples.

    The interval is :func:`temper.margins.intervals.rank_correlation` with the jackknife's standard error of a
    U-statistic (Sen 1960; Cliff and Charlin 1991), so it supposes no distribution and draws nothing.

    Args:
        margins: float64 [N]; scores: float64 [N], of the same samples.

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
    return Estimate(
        value, *intervals.rank_correlation(value, _spread(margins, scores, value), len(margins)), len(margins)
    )


def margin_consistency(
    table: EvidenceTable,
    norm: str | None = None,
    suite: str | None = None,
    *,
    scores: NDArray[np.float64] | None = None,
) -> MarginConsistency:
    """Kendall's tau-b of input margin and score, over all decisions, right and wrong (arXiv:2406.18451, section 3.1).

    The distance of the nearest flip that was found is an input margin only where the nearest was looked for, as the
    suite ``margin`` does. Where none was found the margin is unknown, and the sample is left out and counted.

    Args:
        table: the evidence.
        norm: Linf, L2 or L1; may be left out where there is one.
        suite: may be left out where there is one; flips that other suites found count as well.
        scores: float64 [N], in the order of rising sample ids; None takes the logit margins.

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
            per_class[label] = _known_tau(margins[among], scores[among])
    return MarginConsistency(norm, found.suite, _known_tau(margins, scores), per_class, left_out)


def _known_tau(margins: NDArray[np.float64], scores: NDArray[np.float64]) -> Estimate:
    """Tau over the finite margins, the share of the others as unknown."""
    known = np.isfinite(margins)
    found = kendall(margins[known], scores[known])
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


def _spread(margins: NDArray[np.float64], scores: NDArray[np.float64], tau: float) -> float:
    """Standard error of tau-b by the jackknife: what each sample adds to alike and to untied pairs, linearised."""
    n = len(margins)
    counted = [np.unique(values, return_inverse=True, return_counts=True) for values in (margins, scores)]
    ranks, ties = [rank for _, rank, _ in counted], [count for *_, count in counted]
    untied = [1 - float((count * (count - 1.0)).sum()) / (n * (n - 1)) for count in ties]
    most = math.sqrt(untied[0] * untied[1])
    chosen = np.unique(np.linspace(0, n - 1, min(n, SPREAD)).astype(np.int64))
    influence = []
    for block in np.array_split(chosen, math.ceil(len(chosen) * n / BLOCK)):
        one, two = (np.sign(rank[block, None] - rank).astype(np.float32) for rank in ranks)
        alike, ranked = ((one * two).sum(1) / (n - 1), [(signs**2).sum(1) / (n - 1) for signs in (one, two)])
        ties_lost = sum(own / mean - 1 for own, mean in zip(ranked, untied, strict=True))
        influence.append(alike / most - tau - tau / 2 * ties_lost)
    return 2 * math.sqrt((n - 1) * float(np.mean(np.concatenate(influence) ** 2))) / (n - 2)


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
    """How well low scores detect brittle decisions, with intervals over the decisions.

    They are those of :func:`temper.margins.intervals.area`, :func:`~temper.margins.intervals.average_precision` and
    :func:`~temper.margins.intervals.false_alarms`. The last is of the FPR at the TPR of 95 % that all decisions like
    these would show, which both rates estimate, so it allows for the threshold's chance, too.

    Args:
        found: which decisions are brittle, robust, unknown; the latter are left out and counted.
        scores: float64 [N], in the order of ``found``, low for brittle; None takes the logit margins.
        seed: of the halves.

    Raises:
        ArgumentError: scores are not one per decision.
        EvidenceError: no decision is brittle, or none robust; or a score is NaN.
    """
    _check_both_kinds(found)
    ranked = _ranked(found, scores)
    n, unknown = len(found.sample), float(found.unknown.mean())
    brittle, robust = int(found.brittle.sum()), int(found.robust.sum())
    everyone = np.arange(len(ranked.brittle))
    auroc, aupr, trapezoid, in_sample = _figures(*ranked.flagged(everyone))

    def estimate(value: float, ends: tuple[float, float]) -> Estimate:
        return Estimate(value, min(ends[0], value), max(ends[1], value), n, unknown)

    ranks = ranked.ranks.astype(np.float64)
    rates = intervals.false_alarms(ranks[ranked.brittle], ranks[~ranked.brittle], TPR)
    held_out = None
    if min(brittle, robust) >= 2:
        halves = _halves(ranked.brittle, np.random.default_rng(seed))
        held_out = estimate(_held_out_rate(ranked, *halves), rates)
    return DetectionQuality(
        auroc=estimate(auroc, intervals.area(*ranked.placements())),
        aupr=estimate(aupr, intervals.average_precision(aupr, brittle, robust)),
        aupr_trapezoid=estimate(trapezoid, intervals.average_precision(trapezoid, brittle, robust)),
        fpr_at_95_tpr=held_out,
        fpr_at_95_tpr_in_sample=estimate(in_sample, rates),
        threshold_95=float(ranked.thresholds[_at_95_tpr(*ranked.flagged(everyone))]),
        brittle=brittle,
        robust=robust,
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

    def placements(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of each brittle decision the share of robust ones above it, of each robust one that of brittle ones below."""
        below = []
        for kind in (self.brittle, ~self.brittle):
            counts = np.bincount(self.ranks[kind], minlength=len(self.thresholds))
            below.append((counts.cumsum() - counts / 2) / kind.sum())
        return 1 - below[1][self.ranks[self.brittle]], below[0][self.ranks[~self.brittle]]


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
    det_curve, of one order.
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
    used = np.flatnonzero(np.diff(tps + fps, prepend=0))  # a half may lack a score
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
