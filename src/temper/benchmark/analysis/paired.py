"""What the results of many runs say: paired tests, group means, spread over seeds.

Pure functions on a pandas frame with one row per run: factors (model, schedule, data set, eps, seed ...) and
metrics (clean accuracy, robust accuracy ...), in columns of any names. Metrics keep their unit.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from temper.benchmark.analysis.cells import check_columns, name_of
from temper.errors import ArgumentError, EvidenceError


def paired_comparison(
    rows: pd.DataFrame,
    metrics: Sequence[str],
    *,
    treatment: str,
    baseline: str,
    pair_by: Sequence[str],
    factor: str = "schedule",
    average_over: Sequence[str] = (),
) -> pd.DataFrame:
    """Two-sided paired t-test of treatment - baseline, metric by metric.

    A pair is the one row of each schedule that agrees in ``pair_by``; rows of other schedules are not used. The test
    takes pairs as independent. Rows that repeat a pair (seeds, losses) are not: what the treatment does to one network
    on one data set is in all of them, so they belong into ``average_over``.

    Args:
        rows: one row per run.
        metrics: numeric columns to compare.
        treatment: value of ``factor`` whose metrics are the minuend, for instance "hinge".
        baseline: value of ``factor`` whose metrics are subtracted, for instance "fixed".
        pair_by: the columns that, together, name a configuration.
        factor: the column that holds ``treatment`` and ``baseline``.
        average_over: the columns that tell the rows of one pair apart, such as the seed: their differences are
            averaged, and count once.

    Returns:
        Frame indexed by metric: ``mean_difference``, ``t``, ``p``, ``n`` (pairs), ``df`` (n - 1), ``wins``
        and ``losses`` (pairs in which the treatment is strictly higher, lower). ``t`` and ``p`` are NaN where
        all differences are equal, because there is then nothing to test.

    Raises:
        ArgumentError: for a column or schedule that is not in ``rows``.
        EvidenceError: when a configuration lacks one of the two, has one twice, or a metric is missing; with
            fewer than two pairs.
    """
    check_columns(rows, [factor, *pair_by, *average_over], metrics)
    keys = [*pair_by, *average_over]
    minuend = _by_configuration(rows, factor, treatment, keys, "treatment")
    subtrahend = _by_configuration(rows, factor, baseline, keys, "baseline")
    _check_paired(minuend, subtrahend, treatment, baseline)
    by_row = minuend[[*metrics]] - subtrahend.loc[minuend.index, [*metrics]]
    differences = by_row.groupby(level=[*pair_by], sort=False, dropna=False).mean().to_numpy(float)
    if len(differences) < 2:
        raise EvidenceError(f"a paired test needs at least 2 pairs, got {len(differences)}")
    tests = [_t_test(column) for column in differences.T]
    return pd.DataFrame(
        {
            "mean_difference": differences.mean(axis=0),
            "t": [t for t, _ in tests],
            "p": [p for _, p in tests],
            "n": len(differences),
            "df": len(differences) - 1,
            "wins": (differences > 0).sum(axis=0),
            "losses": (differences < 0).sum(axis=0),
        },
        index=pd.Index(metrics, name="metric"),
    )


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """p-values corrected for how many there are (Holm 1979, Scandinavian Journal of Statistics 6).

    Rejecting where the result is at most .05 rejects any true hypothesis with at most that probability, whether or not
    the tests depend on each other.

    Args:
        p: float64 [K]; NaN is no comparison and stays.
    """
    corrected = np.full(len(p), np.nan)
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def group_means(rows: pd.DataFrame, metrics: Sequence[str], by: Sequence[str]) -> pd.DataFrame:
    """Mean of each metric over the rows that agree in ``by``.

    Returns:
        Frame indexed by ``by``, in order of first appearance: the metrics and ``n``, the number of rows.

    Raises:
        ArgumentError: for a column that is not in ``rows``.
        EvidenceError: when a metric is missing in a row.
    """
    check_columns(rows, by, metrics)
    groups = rows.groupby([*by], sort=False, observed=True, dropna=False)
    return groups[[*metrics]].mean().assign(n=groups.size())


def spread_over_seeds(
    rows: pd.DataFrame, metrics: Sequence[str], by: Sequence[str], *, seed: str = "seed"
) -> pd.DataFrame:
    """Mean and spread over seeds of each metric, for the rows that agree in ``by``.

    Rows of one seed are averaged first, so that the spread is that of the whole experiment when repeated.

    Returns:
        Frame indexed by ``by`` with columns (metric, statistic); the statistics are ``mean``, ``std`` (with
        n - 1; NaN for a single seed), ``min``, ``max`` and ``n`` (seeds).

    Raises:
        ArgumentError: for a column that is not in ``rows``.
        EvidenceError: when a metric is missing in a row, or a group's seeds have unequal numbers of rows.
    """
    check_columns(rows, [*by, seed], metrics)
    runs = rows.groupby([*by, seed], sort=False, observed=True, dropna=False).size()
    for group, counts in runs.groupby(level=[*by], sort=False, dropna=False):
        if counts.nunique() > 1:
            raise EvidenceError(
                f"seeds of {name_of(group, by)} have {counts.min()} to {counts.max()} rows: "
                "their means are comparable only over the same configurations"
            )
    seeds = rows.groupby([*by, seed], sort=False, observed=True, dropna=False)[[*metrics]].mean()
    spread = seeds.groupby(level=[*by], sort=False, dropna=False).agg(["mean", "std", "min", "max", "count"])
    return spread.rename(columns={"count": "n"}, level=1)


def _check_paired(minuend: pd.DataFrame, subtrahend: pd.DataFrame, treatment: str, baseline: str) -> None:
    unpaired = minuend.index.symmetric_difference(subtrahend.index)
    if len(unpaired):
        first = name_of(unpaired[0], [*map(str, minuend.index.names)])
        raise EvidenceError(
            f"{len(unpaired)} configurations have only one of {treatment!r} and {baseline!r}, "
            f"the first is {first}: run it, or leave it out of the rows"
        )


def _by_configuration(
    rows: pd.DataFrame, factor: str, value: str, pair_by: Sequence[str], argument: str
) -> pd.DataFrame:
    chosen = rows[rows[factor] == value].set_index([*pair_by])
    if chosen.empty:
        known = ", ".join(map(repr, rows[factor].unique()))
        raise ArgumentError(argument, value, f"no row has it as {factor!r}; there are {known}")
    twice = chosen.index[chosen.index.duplicated()]
    if len(twice):
        raise EvidenceError(
            f"{value!r} has several rows for {name_of(twice[0], pair_by)}: "
            f"add the column that tells them apart (such as the seed) to pair_by {[*pair_by]}"
        )
    return chosen


def _t_test(differences: np.ndarray) -> tuple[float, float]:
    if np.ptp(differences) == 0:
        return np.nan, np.nan
    result = stats.ttest_1samp(differences, 0.0)  # a paired test is a one-sample test of the differences
    return float(result.statistic), float(result.pvalue)
