"""Robust accuracy from a small subset as the paper has it (arXiv:2406.18451, section 4.3), to compare with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from temper.errors import ArgumentError
from temper.margins.subset import check_margins

PAPER_ALPHAS = (0.80, 0.825, 0.85, 0.875, 0.90, 0.925, 0.95, 0.99)
NAIVE_ALPHA = 0.95


@dataclass(frozen=True)
class PaperEstimate:
    """Robust accuracy by the rule of arXiv:2406.18451; it comes without an interval.

    Attributes:
        value: share of all N samples that are correct and not flagged.
        alpha: true-positive rate on the subset that the threshold was chosen for.
        threshold: logit margins up to here are flagged as brittle.
    """

    value: float
    alpha: float
    threshold: float


def paper_estimate(
    logit_margin: NDArray[np.float64],
    correct: NDArray[np.bool_],
    drawn: NDArray[np.int64],
    brittle: NDArray[np.bool_],
    alphas: Sequence[float] = PAPER_ALPHAS,
) -> PaperEstimate:
    """Robust accuracy from a subset, by algorithm 1 of arXiv:2406.18451, appendix F.1.

    Of eight true-positive rates it takes the one whose threshold, applied to the subset, comes closest to the robust
    accuracy of the subset; of equals the smallest. Robust accuracy is the share of all samples that are correct and
    have a logit margin above the threshold.

    Args:
        logit_margin: float64 [N], of all samples.
        correct: bool [N], the prediction is the label.
        drawn: int64 [n], places of the subset: uniform, without replacement, of right and wrong samples alike.
        brittle: bool [n], the subset's input margins are at most eps. The rule knows no unknown samples.
        alphas: the true-positive rates, rising.

    Raises:
        ArgumentError: n is 0 or exceeds N, places are drawn twice, or margins are no numbers.
    """
    check_margins(logit_margin, correct)
    total = len(logit_margin)
    if not 0 < len(drawn) <= total or len(np.unique(drawn)) != len(drawn) or len(brittle) != len(drawn):
        raise ArgumentError(
            "drawn", f"{len(drawn)} places", f"must be 1 to {total} different places, each with a label"
        )
    own, own_correct = logit_margin[drawn], correct[drawn]
    target = int((own_correct & ~brittle).sum())
    thresholds = [(alpha, _threshold_at(own, brittle, alpha)) for alpha in alphas]
    alpha, threshold = min(thresholds, key=lambda each: abs(int((own_correct & (own > each[1])).sum()) - target))
    return PaperEstimate(float((correct & (logit_margin > threshold)).mean()), alpha, threshold)


def naive_estimate(
    logit_margin: NDArray[np.float64],
    correct: NDArray[np.bool_],
    drawn: NDArray[np.int64],
    brittle: NDArray[np.bool_],
) -> PaperEstimate:
    """:func:`paper_estimate` with the true-positive rate fixed at 95 %, the paper's naive variant."""
    return paper_estimate(logit_margin, correct, drawn, brittle, (NAIVE_ALPHA,))


def _threshold_at(logit_margin: NDArray[np.float64], brittle: NDArray[np.bool_], alpha: float) -> float:
    """The threshold with the smallest true-positive rate that is at least ``alpha``; -inf where nothing is brittle.

    Candidates are those of scikit-learn's ``det_curve``, as in the paper's code: the logit margins that occur, without
    the ones before the last that flags no robust sample and after the first that flags every brittle one. Of equals
    the one with the most false alarms counts.
    """
    if not brittle.any():
        return -math.inf
    candidates = np.unique(logit_margin)
    hits = np.searchsorted(np.sort(logit_margin[brittle]), candidates, side="right")
    false_alarms = np.searchsorted(np.sort(logit_margin[~brittle]), candidates, side="right")
    first = int(np.searchsorted(false_alarms, false_alarms[0], side="right")) - 1
    last = int(np.searchsorted(hits, hits[-1]))
    # Where the robust samples all lie above the last brittle one, nothing but that one is left.
    hits, candidates = hits[min(first, last) : last + 1], candidates[min(first, last) : last + 1]
    smallest = hits[hits / hits[-1] >= alpha].min()
    return float(candidates[hits == smallest].max())
