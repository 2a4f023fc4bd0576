"""How well a score tells brittle decisions: AUROC, average precision, false alarms at 95 % of the brittle ones."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from temper.errors import ArgumentError, EvidenceError
from temper.margins import intervals
from temper.margins.consistency import all_decisions, checked_scores
from temper.margins.decisions import Brittleness, brittleness
from temper.margins.intervals import Estimate
from temper.margins.table import EvidenceTable

TPR = 0.95  # at which false alarms are counted


@dataclass(frozen=True)
class Counts:
    """Numbers of decisions: brittle ones, robust ones, and those that no search has settled."""

    brittle: int
    robust: int
    unknown: int


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
        counts: numbers of decisions.
    """

    auroc: Estimate
    aupr: Estimate
    aupr_trapezoid: Estimate
    fpr_at_95_tpr: Estimate | None
    fpr_at_95_tpr_in_sample: Estimate
    threshold_95: float
    counts: Counts

    def to_json(self) -> dict[str, object]:
        """Everything as plain data."""
        values = asdict(self)
        return values | values.pop("counts")


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


def detection(decisions: Brittleness, scores: NDArray[np.float64] | None = None, *, seed: int = 0) -> DetectionQuality:
    """How well low scores detect brittle decisions, with intervals over the decisions.

    They are those of :func:`temper.margins.intervals.area`, :func:`~temper.margins.intervals.average_precision` and
    :func:`~temper.margins.intervals.false_alarms`. The last is of the FPR at the TPR of 95 % that all decisions like
    these would show, which both rates estimate, so it allows for the threshold's chance, too.

    Args:
        decisions: which decisions are brittle, robust, unknown; the latter are left out and counted.
        scores: float64 [N], in the order of ``decisions``, low for brittle; None takes the logit margins.
        seed: of the halves.

    Raises:
        ArgumentError: scores are not one per decision.
        EvidenceError: no decision is brittle, or none robust; or a score is NaN.
    """
    _check_both_kinds(decisions)
    ranked = _ranked(decisions, scores)
    n, unknown = len(decisions.sample), float(decisions.unknown.mean())
    brittle, robust = int(decisions.brittle.sum()), int(decisions.robust.sum())
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
        counts=Counts(brittle, robust, int(decisions.unknown.sum())),
    )


def roc_curve(
    decisions: Brittleness, scores: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of robust and of brittle decisions flagged, threshold by threshold from none to all.

    Returns:
        fpr, tpr: float64 [T + 1] each, for T different scores. Arguments and errors are those of :func:`detection`.
    """
    _check_both_kinds(decisions)
    ranked = _ranked(decisions, scores)
    brittle, robust = ranked.flagged(np.arange(len(ranked.brittle)))
    return np.append(0.0, robust / robust[-1]), np.append(0.0, brittle / brittle[-1])


def risk_curve(
    decisions: Brittleness, scores: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How brittle the decisions are that remain when those of the lowest scores are flagged and set aside.

    Unknown decisions are left out. Decisions of one score are set aside together.

    Returns:
        kept: float64 [T], falling, share of the decisions that remain, from all of them on.
        risk: float64 [T], share of brittle ones among those.

    Raises:
        ArgumentError: scores are not one per decision. EvidenceError: a score is NaN.
    """
    ranked = _ranked(decisions, scores)
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
    decisions = all_decisions(table, norm, suite)
    scores = checked_scores(decisions.logit_margin if scores is None else scores, len(decisions.sample))
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


def _ranked(decisions: Brittleness, scores: NDArray[np.float64] | None) -> _Ranked:
    scores = checked_scores(decisions.logit_margin if scores is None else scores, len(decisions.sample))
    settled = ~decisions.unknown
    thresholds, ranks = np.unique(scores[settled], return_inverse=True)
    return _Ranked(thresholds, ranks, decisions.brittle[settled])


def _check_both_kinds(decisions: Brittleness) -> None:
    """Raise EvidenceError where no decision is brittle, or none robust."""
    brittle, robust = int(decisions.brittle.sum()), int(decisions.robust.sum())
    if not brittle:
        nearest = decisions.margin.min()
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
            f" farthest flip among them was found at {decisions.margin[decisions.brittle].max():.4g}, so take a smaller"
            " radius"
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
