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

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from temper.benchmark.analysis.cells import check_columns, grid
from temper.benchmark.analysis.scores import borda_points, rank_descending
from temper.benchmark.columns import PERTURBATIONS
from temper.benchmark.configuration import CONFIGURATION
from temper.errors import ArgumentError, EvidenceError
from temper.text import did_you_mean, nearest

Values = NDArray[np.float64]
Score = str | Callable[[Values], Values]

SCORES: dict[str, Callable[[Values], Values]] = {
    "borda": lambda values: borda_points(values).sum(axis=-1),
    "sum": lambda values: values.sum(axis=(-1, -2)),
    "product": lambda values: values.prod(axis=-1).sum(axis=-1),
}
MOST = 10_000  # draws
_AGREE = 1e-6  # rows may have been written with fewer digits than the outcomes give


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
    function = _check(score, resamples, seed, confidence)
    check_columns(rows, (), ["protocol"])
    tables = []
    for protocol, part in rows.groupby("protocol", sort=True, observed=True):
        part_outcomes = None if outcomes is None else _of(outcomes, "protocol", [protocol])
        count = len(part[[*CONFIGURATION]].drop_duplicates())
        draws = _enough(resamples, count - 1, confidence)
        cells = _cells(part, part_outcomes, [CONFIGURATION, ("dataset",)], metrics, draws, seed)
        observed, drawn = function(cells.observed), function(cells.drawn)
        ranks, leads = rank_descending(observed), rank_descending(drawn) == 1
        surely = _surely_better(drawn, count - 1, confidence)
        score_low, score_high = (
            (np.full(count, np.nan),) * 2 if score == "borda" else _score(cells, function, confidence)
        )
        table = cells.labels[0].assign(
            score=observed,
            score_low=score_low,
            score_high=score_high,
            rank=ranks,
            low=np.minimum(1 + surely.sum(axis=0), ranks),
            high=np.maximum(count - surely.sum(axis=1), ranks),
            first=(leads / leads.sum(axis=1, keepdims=True)).mean(axis=0),
            over=cells.over,
        )
        table.insert(0, "protocol", protocol)
        tables.append(table)
    if not tables:
        raise EvidenceError("there are no rows to rank: check what they were filtered by")
    return pd.concat(tables).sort_values(["protocol", "rank", *CONFIGURATION], ignore_index=True)


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
    function = _check(score, resamples, seed, confidence)
    factors = ("schedule", "objective", "protocol")
    _one_of("factor", factor, factors)
    check_columns(rows, (), [*factors, "backbone"])
    known = sorted(rows[factor].unique())
    for level in levels:
        _one_of("levels", level, known)
    if levels[0] == levels[1]:
        raise ArgumentError("levels", levels, "name two different ones")
    units = tuple(column for column in ("objective", "schedule", "dataset") if column != factor)
    chosen = _of(rows, factor, levels)
    told = None if outcomes is None else _of(outcomes, factor, levels)
    parts: list[tuple[object, pd.DataFrame, pd.DataFrame | None]] = []
    if factor == "protocol":
        parts.append((None, chosen, told))
    else:
        for name, part in chosen.groupby("protocol", sort=True, observed=True):
            parts.append((name, part, None if told is None else _of(told, "protocol", [name])))
    records = []
    for protocol, part, part_outcomes in parts:
        comparisons = part["backbone"].nunique() * (part["backbone"].nunique() - 1)
        draws = _enough(resamples, comparisons, confidence)
        cells = _cells(part, part_outcomes, [(factor,), ("backbone",), units], metrics, draws, seed)
        names = cells.labels[1]["backbone"].tolist()
        if len(cells.labels[0]) < 2:
            raise EvidenceError(f"protocol {protocol} has only one of {levels[0]!r} and {levels[1]!r}: run both")
        if len(names) < 2:
            raise EvidenceError(f"a ranking needs at least 2 backbones, there is only {names[0]}")
        observed, drawn = function(cells.observed), function(cells.drawn)  # [levels, backbones], [resamples, ...]
        tau = float(_kendall(observed))
        orders = [
            (sure := _surely_better(drawn[:, level], comparisons, confidence)).astype(int) - sure.T for level in (0, 1)
        ]
        sure_pairs = orders[0] * orders[1]
        alike, open_pairs = sure_pairs.sum() / comparisons, 1 - np.abs(sure_pairs).sum() / comparisons
        low, high = min(alike - open_pairs, tau), max(alike + open_pairs, tau)
        record: dict[str, object] = {} if protocol is None else {"protocol": protocol}
        record |= {"tau": tau, "low": low, "high": high, "n": len(names), "over": cells.over}
        if pair is not None:
            first, second = (names.index(_one_of("pair", name, names)) for name in pair)
            record["swapped"] = bool(_swaps(observed, first, second))
            record["swap"] = float(_swaps(drawn, first, second).mean())
        records.append(record)
    return pd.DataFrame(records)


@dataclass(frozen=True, eq=False)
class _Cells:
    """Metrics averaged over seeds: ``observed`` [*axes, metrics], ``drawn`` [resamples, *axes, metrics]; ``lowest`` and
    ``highest`` [resamples, *axes, metrics] for the ends of levels, which one sample more might lower or raise."""

    labels: list[pd.DataFrame]
    observed: Values
    drawn: Values
    lowest: Values
    highest: Values
    over: str


def _cells(
    rows: pd.DataFrame,
    outcomes: pd.DataFrame | None,
    axes: Sequence[Sequence[str]],
    metrics: Sequence[str],
    resamples: int,
    seed: int,
) -> _Cells:
    """Cells as they are and as drawn; the last of ``axes`` has the column ``dataset``."""
    labels, values = grid(rows, [*axes, ("seed",)], metrics)
    seeds = len(labels[-1])
    if outcomes is None and seeds < 2:
        raise EvidenceError(
            "there is one seed and no outcomes, so nothing to draw from: run more seeds, or pass outcomes by sample"
        )
    observed = values.mean(axis=-2)
    drawn, lowest, highest = (
        (observed,) * 3
        if outcomes is None
        else _drawn_samples(outcomes, axes, labels, values, metrics, resamples, seed)
    )
    noise = _drawn_seeds(values, resamples, seed) if seeds > 1 else 0.0
    over = " and ".join([*(["samples"] if outcomes is not None else []), *(["seeds"] if seeds > 1 else [])])
    drawn, lowest, highest = (np.round(each + noise, 12) for each in (drawn, lowest, highest))
    return _Cells(labels[:-1], observed, drawn, lowest, highest, over)


def _drawn_seeds(values: Values, resamples: int, seed: int) -> Values:
    """What other seeds might change of the means over seeds: ``values`` [*axes, units, seeds, metrics] to [resamples,
    *axes, units, metrics].

    Normal with the covariance of the seeds' mean, divided by the root of a chi-square over its degrees of freedom: one
    per configuration, with those of Welch and Satterthwaite (Satterthwaite 1946) for the sum over units and metrics.
    """
    seeds, stream = values.shape[-2], _stream(seed, "seeds")
    deviations = values - values.mean(axis=-2, keepdims=True)
    steps = stream.normal(size=(resamples, *values.shape[:-1])) / np.sqrt(seeds * (seeds - 1))
    variances = deviations.sum(axis=-1).var(axis=-1)
    squares = (variances**2).sum(axis=-1)
    freedom = (seeds - 1) * np.divide(
        variances.sum(axis=-1) ** 2, squares, out=np.ones_like(squares), where=squares > 0
    )
    scale = np.sqrt(freedom / stream.chisquare(freedom, size=(resamples, *freedom.shape)))
    return np.einsum("...s,...sm->...m", steps, deviations) * scale[..., None, None]


def _drawn_samples(
    outcomes: pd.DataFrame,
    axes: Sequence[Sequence[str]],
    labels: Sequence[pd.DataFrame],
    values: Values,
    metrics: Sequence[str],
    resamples: int,
    seed: int,
) -> tuple[Values, Values, Values]:
    """Means over seeds and over samples drawn within each data set: [resamples, *axes, metrics].

    Drawn with replacement; and for the ends of levels with weights that are uniform on the simplex, one sample more
    standing at 0 for the lowest, at 1 for the highest (Gaffke 2005).
    """
    check_columns(outcomes, (), ["dataset"])
    drawn, lowest, highest = (np.empty((resamples, *values.shape[:-2], values.shape[-1])) for _ in range(3))
    units = labels[-2]
    extra = sorted(set(outcomes["dataset"]) - set(units["dataset"]))
    if extra:
        raise EvidenceError(f"the outcomes have data sets that the rows lack, the first is {extra[0]}: leave them out")
    for dataset, places in units.groupby("dataset", sort=True, observed=True).indices.items():
        part = outcomes[outcomes["dataset"] == dataset]
        if part.empty:
            raise EvidenceError(f"the outcomes lack data set {dataset}: pass them for all runs in the rows")
        found, results = grid(part, [*axes, ("seed",), ("sample",)], metrics)
        expected = [*labels[:-2], units.iloc[places], labels[-1]]
        for have, want in zip(found[:-1], expected, strict=True):
            if have.to_numpy().tolist() != want.to_numpy().tolist():
                raise EvidenceError(
                    f"outcomes on data set {dataset} and the rows differ in {', '.join(have.columns)}: "
                    f"{len(have)} and {len(want)} values; pass the outcomes of exactly the runs in the rows"
                )
        means = results.mean(axis=-2)
        gap = np.abs(means - values[..., places, :, :])
        if gap.max() > _AGREE:
            raise EvidenceError(
                f"outcomes on data set {dataset} average to something else than the rows, by up to {gap.max():.2g} "
                f"in {metrics[int(np.argmax(gap.max(axis=tuple(range(gap.ndim - 1)))))]!r}: "
                "they are not of the same runs and samples"
            )
        samples = results.shape[-2]
        by_sample, stream = results.mean(axis=-3), _stream(seed, "samples", str(dataset))
        counts = stream.multinomial(samples, [1 / samples] * samples, size=resamples)
        weights = stream.dirichlet(np.ones(samples + 1), size=resamples)
        for target, chances in ((drawn, counts / samples), (lowest, weights[:, :-1])):
            target[..., places, :] = np.tensordot(chances, by_sample, axes=(1, by_sample.ndim - 2))
        one_more = weights[:, -1].reshape(-1, *[1] * (lowest.ndim - 1))
        highest[..., places, :] = lowest[..., places, :] + one_more
    return drawn, lowest, highest


def _stream(seed: int, *words: str) -> np.random.Generator:
    return np.random.default_rng([seed, *(zlib.crc32(word.encode()) for word in words)])


def _of(rows: pd.DataFrame, column: str, values: Sequence[object]) -> pd.DataFrame:
    check_columns(rows, (), [column])
    return rows[rows[column].isin([*values])]


def _enough(resamples: int, comparisons: int, confidence: float) -> int:
    """As many draws as it takes for an outcome that occurs in none of them to be sure, and as many again."""
    return max(resamples, min(int(np.ceil(2 * comparisons / (1 - confidence))), MOST))


def _surely_better(drawn: Values, comparisons: int, confidence: float) -> NDArray[np.bool_]:
    """Which of K scores [resamples, K] is surely higher than which: bool [K, K]."""
    reached = np.stack([(drawn >= own[:, None]).sum(axis=0) for own in drawn.T])
    sure: NDArray[np.bool_] = (reached + 1) / (len(drawn) + 1) * comparisons <= 1 - confidence
    np.fill_diagonal(sure, False)
    return sure


def _score(cells: _Cells, function: Callable[[Values], Values], confidence: float) -> tuple[Values, Values]:
    """Ends of the scores' intervals."""
    tail = (1 - confidence) / 2
    low, high = (
        np.quantile(function(cells.lowest), tail, axis=0),
        np.quantile(function(cells.highest), 1 - tail, axis=0),
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


def _check(score: Score, resamples: int, seed: int, confidence: float) -> Callable[[Values], Values]:
    if resamples < 1:
        raise ArgumentError("resamples", resamples, "draw at least once; 1000 are usual")
    if seed < 0:
        raise ArgumentError("seed", seed, "give a number >= 0")
    if not 0 < confidence < 1:
        raise ArgumentError("confidence", confidence, "give a share between 0 and 1, such as 0.95")
    if not isinstance(score, str):
        return score
    return SCORES[_one_of("score", score, [*SCORES])]
