"""How well a score of the logits stands in for the input margin: rank correlation, and detection of brittle decisions.

Facts and protocol: arXiv:2406.18451, sections 2 and 3.1. The score of a decision is, unless another is given, its logit
margin: the lower, the more brittle.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from temper.errors import ArgumentError, EvidenceError
from temper.margins import intervals
from temper.margins.decisions import Brittleness, brittleness
from temper.margins.intervals import Estimate
from temper.margins.table import EvidenceTable

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

    def to_json(self) -> dict[str, object]:
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
    decisions = all_decisions(table, norm, suite)
    scores = checked_scores(decisions.logit_margin if scores is None else scores, len(decisions.sample))
    margins, known = decisions.margin, np.isfinite(decisions.margin)
    if known.sum() < FEWEST:
        raise EvidenceError(
            f"{known.sum()} of {len(known)} margins in {norm} are known, and a rank correlation takes {FEWEST}; search"
            " for the nearest flips with suite margin"
        )
    per_class, left_out = {}, {}
    for label in np.unique(decisions.prediction).tolist():
        among = decisions.prediction == label
        reason = _no_tau(margins[among & known], scores[among & known])
        if reason:
            left_out[label] = reason
        else:
            per_class[label] = _known_tau(margins[among], scores[among])
    return MarginConsistency(norm, decisions.suite, _known_tau(margins, scores), per_class, left_out)


def _known_tau(margins: NDArray[np.float64], scores: NDArray[np.float64]) -> Estimate:
    """Tau over the finite margins, the share of the others as unknown."""
    known = np.isfinite(margins)
    tau = kendall(margins[known], scores[known])
    return replace(tau, n=len(known), unknown=float((~known).mean()))


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


# --- both -----------------------------------------------------------------------------------------


def all_decisions(table: EvidenceTable, norm: str, suite: str | None) -> Brittleness:
    """All decisions, whatever the radius: at an infinite one every decision is settled."""
    return brittleness(table, norm, math.inf, suite)


def checked_scores(scores: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Scores that are one per sample and can be ranked."""
    if scores.shape != (n,):
        raise ArgumentError("scores", scores.shape, f"must be one per sample, in the order of rising ids: shape ({n},)")
    if np.isnan(scores).any():
        place = int(np.isnan(scores).argmax())
        raise EvidenceError(f"{int(np.isnan(scores).sum())} scores are NaN, first at place {place}; compute them again")
    return scores
