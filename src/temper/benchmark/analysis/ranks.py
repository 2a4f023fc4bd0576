"""How sure a ranking is, over samples and seeds.

What is drawn again is what another test set, or another training run, would change:

- samples, within each data set, with the same draw for every configuration, objective and protocol on it: networks
  err on the same images, so their differences are surer than their levels;
- seeds, for each configuration by itself, because each run is a training of its own. A bootstrap of three to five seeds
  is far too sure of itself, so their mean is drawn from Student's t with the seeds' own spread and the degrees of
  freedom of Welch and Satterthwaite, which suppose that runs of one configuration are spread normally.

Configurations, data sets and perturbations are taken as given. Ranks have no percentile interval: drawing again adds
noise to scores that have some, and among near equals a bootstrap of ranks covers .6 of the time. A configuration is
surely better than another where the other reaches its score in few enough draws, by Bonferroni for all that it is
compared with; its rank lies between those that are surely better and those that are surely worse (Goldstein and
Spiegelhalter 1996, JRSS A 159; Mogstad, Romano, Shaikh and Wilhelm 2024, Review of Economic Studies 91).
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from temper.benchmark.analysis.cells import check_columns
from temper.benchmark.analysis.draws import Drawn, Draws, Values, drawn_again
from temper.benchmark.analysis.scores import borda_points, rank_descending
from temper.benchmark.columns import PERTURBATIONS
from temper.benchmark.configuration import CONFIGURATION
from temper.errors import ArgumentError, EvidenceError
from temper.text import did_you_mean, nearest

Score = str | Callable[[Values], Values]

SCORES: dict[str, Callable[[Values], Values]] = {
    "borda": lambda values: borda_points(values).sum(axis=-1),
    "sum": lambda values: values.sum(axis=(-1, -2)),
    "product": lambda values: values.prod(axis=-1).sum(axis=-1),
}
COMPARED = ("schedule", "objective", "protocol")  # factors whose levels rank backbones


def rank_intervals(
    rows: pd.DataFrame,
    *,
    outcomes: pd.DataFrame | None = None,
    metrics: Sequence[str] = PERTURBATIONS,
    score: Score = "borda",
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Score and rank of each configuration within its protocol, with intervals.

    Scores are of the mean over seeds, data set by data set.

    Args:
        rows: one row per run, with ``protocol``, ``backbone``, ``objective``, ``schedule``, ``dataset``, ``seed``.
        outcomes: one row per run and ``sample``, with the same columns; each metric is 0 or 1 (robust or not; a
            fraction where unknown), and its mean over samples is the metric in ``rows``. Without it, the test samples
            are taken as given and only seeds are drawn.
        metrics: columns in which higher is better.
        score: "borda", "sum" or "product" as in :func:`temper.benchmark.analysis.borda`, or a function from values
            [..., configurations, data sets, metrics] to scores [..., configurations], highest best.
        resamples: draws, at least; up to 10,000 where fewer could not tell so many configurations apart.
        seed: of the draws; a data set's draws of samples do not depend on which others there are.
        confidence: of the intervals.

    Returns:
        One row per protocol and configuration, by protocol and rank: ``score``, ``score_low``, ``score_high`` (with
        outcomes the draws are those of :func:`temper.margins.intervals.mean`; NaN for Borda points, which jump
        where near equals change places); ``rank`` (1 = best, ties get the lowest place), ``low``, ``high``;
        ``first``, the share of draws in which it is first (a tie for first is shared, so they add up to 1); ``over``,
        what was drawn: "samples", "seeds" or "samples and seeds".

    Raises:
        ArgumentError: for a column that is not there, an unknown score, or numbers out of range.
        EvidenceError: when a run lacks a cell or a sample that others have, outcomes do not belong to the rows, or
            there is nothing to draw from (one seed, no outcomes).
    """
    draws = _check(metrics, score, resamples, seed, confidence)
    check_columns(rows, (), ["protocol"])
    tables = []
    for protocol, part in rows.groupby("protocol", sort=True, observed=True):
        table = _ranked(part, _of_outcomes(outcomes, "protocol", [protocol]), draws, with_score=score != "borda")
        table.insert(0, "protocol", protocol)
        tables.append(table)
    if not tables:
        raise EvidenceError("there are no rows to rank: check what they were filtered by")
    return pd.concat(tables).sort_values(["protocol", "rank", *CONFIGURATION], ignore_index=True)


def _ranked(rows: pd.DataFrame, outcomes: pd.DataFrame | None, draws: Draws, *, with_score: bool) -> pd.DataFrame:
    """The ranks of one protocol; without ends of the scores where these jump."""
    count = len(rows[[*CONFIGURATION]].drop_duplicates())
    drawn = drawn_again(rows, outcomes, [CONFIGURATION, ("dataset",)], draws.enough(count - 1))
    scores, drawn_scores = draws.score(drawn.observed), draws.score(drawn.drawn)
    ranks, leads = rank_descending(scores), rank_descending(drawn_scores) == 1
    surely = _surely_better(drawn_scores, count - 1, draws.confidence)
    score_low, score_high = _score_ends(drawn, draws) if with_score else (np.full(count, np.nan),) * 2
    return drawn.labels[0].assign(
        score=scores,
        score_low=score_low,
        score_high=score_high,
        rank=ranks,
        low=np.minimum(1 + surely.sum(axis=0), ranks),
        high=np.maximum(count - surely.sum(axis=1), ranks),
        first=(leads / leads.sum(axis=1, keepdims=True)).mean(axis=0),
        over=drawn.over,
    )


def rank_correlation_interval(
    rows: pd.DataFrame,
    factor: str,
    levels: tuple[str, str],
    *,
    pair: tuple[str, str] | None = None,
    outcomes: pd.DataFrame | None = None,
    metrics: Sequence[str] = PERTURBATIONS,
    score: Score = "borda",
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Kendall's tau-b between the rankings of backbones under two levels of a factor.

    Does the schedule change which backbone is best? At each level the backbones are scored over data sets and the
    other factors (a Borda ballot for each data set, objective and metric), so that like is ranked with like.

    The interval counts each pair of backbones whose order is sure at both levels as it is, and any other as alike for
    the upper end and as opposite for the lower one, by Bonferroni over pairs and levels. So a lower end far from 1 says
    that these data cannot show the rankings to be equal, not that they differ. ``swap`` is the sharper answer.

    Args:
        rows: as for :func:`rank_intervals`; other levels of ``factor`` are not used.
        factor: "schedule", "objective" or "protocol".
        levels: two of its values.
        pair: two backbones.
        outcomes: as for :func:`rank_intervals`.
        metrics: as for :func:`rank_intervals`.
        score: as for :func:`rank_intervals`.
        resamples: as for :func:`rank_intervals`.
        seed: as for :func:`rank_intervals`.
        confidence: as for :func:`rank_intervals`.

    Returns:
        One row per protocol (a single row, without ``protocol``, if that is the factor): ``tau``, ``low``, ``high``,
        ``n`` (backbones), ``over`` as in :func:`rank_intervals`. With ``pair``: ``swapped``, whether the two are in
        strictly opposite order at the two levels, and ``swap``, the share of draws in which they are. A draw that
        ties all backbones counts as tau 0.

    Raises:
        ArgumentError: for an unknown factor, level, backbone, column or score, or numbers out of range.
        EvidenceError: as for :func:`rank_intervals`; with fewer than two backbones.
    """
    draws = _check(metrics, score, resamples, seed, confidence)
    _check_levels(rows, factor, levels)
    chosen, outcomes = _of(rows, factor, levels), _of_outcomes(outcomes, factor, levels)
    if factor == "protocol":
        return pd.DataFrame([_correlated(chosen, outcomes, factor, pair, draws)])
    records = []
    for protocol, part in chosen.groupby("protocol", sort=True, observed=True):
        if part[factor].nunique() < 2:
            raise EvidenceError(f"protocol {protocol} has only one of {levels[0]!r} and {levels[1]!r}: run both")
        part_outcomes = _of_outcomes(outcomes, "protocol", [protocol])
        records.append({"protocol": protocol} | _correlated(part, part_outcomes, factor, pair, draws))
    return pd.DataFrame(records)


def _check_levels(rows: pd.DataFrame, factor: str, levels: tuple[str, str]) -> None:
    """Require a factor that rankings can be compared over, and two of its levels in the rows."""
    _one_of("factor", factor, COMPARED)
    check_columns(rows, (), [*COMPARED, "backbone"])
    known = sorted(rows[factor].unique())
    for level in levels:
        _one_of("levels", level, known)
    if levels[0] == levels[1]:
        raise ArgumentError("levels", levels, "name two different ones")


def _correlated(
    rows: pd.DataFrame, outcomes: pd.DataFrame | None, factor: str, pair: tuple[str, str] | None, draws: Draws
) -> dict[str, object]:
    """Kendall's tau of one protocol's backbones, its interval, and whether a pair of them swaps."""
    units = tuple(column for column in ("objective", "schedule", "dataset") if column != factor)
    comparisons = rows["backbone"].nunique() * (rows["backbone"].nunique() - 1)
    drawn = drawn_again(rows, outcomes, [(factor,), ("backbone",), units], draws.enough(comparisons))
    names = drawn.labels[1]["backbone"].tolist()
    if len(names) < 2:
        raise EvidenceError(f"a ranking needs at least 2 backbones, there is only {names[0]}")
    scores, drawn_scores = draws.score(drawn.observed), draws.score(drawn.drawn)  # [levels, backbones], [draws, ...]
    tau = float(_kendall(scores))
    low, high = _tau_ends(drawn_scores, comparisons, draws.confidence)
    record = {"tau": tau, "low": min(low, tau), "high": max(high, tau), "n": len(names), "over": drawn.over}
    if pair is not None:
        first, second = (names.index(_one_of("pair", name, names)) for name in pair)
        record["swapped"] = bool(_swaps(scores, first, second))
        record["swap"] = float(_swaps(drawn_scores, first, second).mean())
    return record


def _tau_ends(scores: Values, comparisons: int, confidence: float) -> tuple[float, float]:
    """What the pairs whose order is sure at both levels leave open of tau: scores [draws, 2, backbones]."""
    orders = [
        (sure := _surely_better(scores[:, level], comparisons, confidence)).astype(int) - sure.T for level in (0, 1)
    ]
    sure_pairs = orders[0] * orders[1]
    alike, open_pairs = sure_pairs.sum() / comparisons, 1 - np.abs(sure_pairs).sum() / comparisons
    return alike - open_pairs, alike + open_pairs


def _of(rows: pd.DataFrame, column: str, values: Sequence[object]) -> pd.DataFrame:
    check_columns(rows, (), [column])
    return rows[rows[column].isin([*values])]


def _of_outcomes(outcomes: pd.DataFrame | None, column: str, values: Sequence[object]) -> pd.DataFrame | None:
    return None if outcomes is None else _of(outcomes, column, values)


def _surely_better(drawn: Values, comparisons: int, confidence: float) -> NDArray[np.bool_]:
    """Which of K scores [resamples, K] is surely higher than which: bool [K, K]."""
    reached = np.stack([(drawn >= own[:, None]).sum(axis=0) for own in drawn.T])
    sure: NDArray[np.bool_] = (reached + 1) / (len(drawn) + 1) * comparisons <= 1 - confidence
    np.fill_diagonal(sure, False)
    return sure


def _score_ends(drawn: Drawn, draws: Draws) -> tuple[Values, Values]:
    """Ends of the scores' intervals."""
    tail = (1 - draws.confidence) / 2
    low, high = (
        np.quantile(draws.score(drawn.lowest), tail, axis=0),
        np.quantile(draws.score(drawn.highest), 1 - tail, axis=0),
    )
    return low, high


def _kendall(scores: Values) -> Values:
    """Kendall's tau-b of scores [..., 2, backbones] over the last axis; 0 where either ranking is one tie."""
    ranks = rankdata(np.round(scores, 12), method="min", axis=-1)
    first, second = np.triu_indices(scores.shape[-1], k=1)
    order = np.sign(ranks[..., first] - ranks[..., second])
    concordance = (order[..., 0, :] * order[..., 1, :]).sum(axis=-1)
    untied = np.sqrt(np.prod((order**2).sum(axis=-1), axis=-1))
    return np.where(untied > 0, concordance / np.maximum(untied, 1), 0.0)


def _swaps(scores: Values, first: int, second: int) -> NDArray[np.bool_]:
    """Whether two backbones are in strictly opposite order at the two levels: scores [..., 2, backbones]."""
    gap = np.sign(np.round(scores[..., first] - scores[..., second], 12))
    swapped: NDArray[np.bool_] = gap[..., 0] * gap[..., 1] < 0
    return swapped


def _one_of(argument: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise ArgumentError(argument, value, did_you_mean(nearest(value, known), f"there are {', '.join(known)}"))
    return value


def _check(metrics: Sequence[str], score: Score, resamples: int, seed: int, confidence: float) -> Draws:
    if resamples < 1:
        raise ArgumentError("resamples", resamples, "draw at least once; 1000 are usual")
    if seed < 0:
        raise ArgumentError("seed", seed, "give a number >= 0")
    if not 0 < confidence < 1:
        raise ArgumentError("confidence", confidence, "give a share between 0 and 1, such as 0.95")
    function = SCORES[_one_of("score", score, [*SCORES])] if isinstance(score, str) else score
    return Draws(metrics, function, resamples, seed, confidence)
