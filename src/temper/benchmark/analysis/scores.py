"""Scores and ranks of configurations over perturbations and data sets, as in arXiv:2508.14079.

Borda: within one protocol, the configurations are ranked for each data set and perturbation, worst = 1, ties all
getting the lowest of their places; the ranks are summed. So it weighs every data set and perturbation alike, however
hard it is, but the points of a configuration depend on which others are ranked with it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from temper.benchmark.analysis.cells import FACTS, check_columns, grid
from temper.benchmark.columns import PERTURBATIONS
from temper.benchmark.configuration import CONFIGURATION
from temper.errors import EvidenceError

MEDALS = ("gold", "silver", "bronze")
_DIGITS = 12  # equal accuracies that were summed in another order differ in the 16th


def perturbation_sum(rows: pd.DataFrame, metrics: Sequence[str] = PERTURBATIONS) -> "pd.Series[float]":
    """Sum of the metrics of each row, in [0, len(metrics)] for accuracies; the paper's ``sum``.

    Raises:
        ArgumentError: for a metric that is not in ``rows``.
        EvidenceError: when a row lacks a metric.
    """
    check_columns(rows, (), metrics)
    return rows[[*metrics]].sum(axis=1).rename("sum")


def perturbation_product(rows: pd.DataFrame, metrics: Sequence[str] = PERTURBATIONS) -> "pd.Series[float]":
    """Product of the metrics of each row, in [0, 1] for accuracies; the paper's ``geom`` (it takes no root).

    Raises:
        ArgumentError: for a metric that is not in ``rows``.
        EvidenceError: when a row lacks a metric.
    """
    check_columns(rows, (), metrics)
    return rows[[*metrics]].prod(axis=1).rename("product")


def borda_points(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Borda points by configuration and unit: ``values`` [..., configurations, units, metrics] to [..., c, u].

    Ranks ascend among the configurations (worst = 1), ties get the lowest of their places; summed over the metrics.
    Values that differ by less than rounding does tie.
    """
    points: NDArray[np.float64] = rankdata(np.round(values, _DIGITS), method="min", axis=-3).sum(axis=-1)
    return points


def rank_descending(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Ranks along the last axis, the highest score first (1); ties, up to rounding, get the lowest of their places."""
    return rankdata(-np.round(scores, _DIGITS), method="min", axis=-1).astype(np.int64)


def borda(
    rows: pd.DataFrame, metrics: Sequence[str] = PERTURBATIONS, unit: Sequence[str] = ("dataset",)
) -> pd.DataFrame:
    """Borda totals, sums and ranks of the configurations, protocol by protocol (arXiv:2508.14079).

    Args:
        rows: one row per run, with columns ``protocol``, ``backbone``, ``objective`` and ``schedule``.
        metrics: columns in which higher is better.
        unit: the columns that, with the metric, name one ballot: ``("dataset",)`` for one run per configuration and
            data set, ``("dataset", "seed")`` for several seeds.

    Returns:
        One row per protocol and configuration, by protocol and rank: the facts of the backbone that the rows have;
        ``borda``; ``rank`` (1 = highest Borda, ties get the lowest place); ``sum`` and ``product``, the sums over
        units of the metrics' sum and product; ``sum_rank``; the mean of each metric over the units; ``borda_<value>``
        for each value of the first column of ``unit``, normally a data set (NaN where a protocol lacks it).

    Raises:
        ArgumentError: for a column that is not in ``rows``.
        EvidenceError: when a configuration lacks a unit that another has in that protocol, has one twice, or lacks a
            metric; when a backbone has two values of a fact.
    """
    check_columns(rows, (), ["protocol"])
    if rows.empty:
        raise EvidenceError("there are no rows to rank: check what they were filtered by")
    tables = [
        _borda_of_one_protocol(part, metrics, unit).assign(protocol=protocol)
        for protocol, part in rows.groupby("protocol", sort=True, observed=True)
    ]
    scored = pd.concat(tables, ignore_index=True)
    facts = _facts(rows)
    scored = scored.merge(facts, on="backbone", validate="many_to_one")
    leading = ["protocol", *CONFIGURATION, *facts.columns.drop("backbone")]
    scored = scored[[*leading, *scored.columns.drop(leading)]]
    return scored.sort_values(["protocol", "rank", *CONFIGURATION], ignore_index=True)


def medals(scored: pd.DataFrame, per: str = "tier") -> pd.DataFrame:
    """The three best configurations of each group and protocol, by Borda; Table 3 of arXiv:2508.14079 by tier.

    Args:
        scored: what :func:`borda` returns.
        per: the column whose values compete apart. Configurations without one compete with each other.

    Returns:
        ``protocol``, ``per``, ``medal`` ("gold", "silver" or "bronze"), the configuration, ``rank`` (among all of the
        protocol) and ``borda``. Ties share a medal, and the next places are then left out.

    Raises:
        ArgumentError: for a column that is not in ``scored``.
    """
    check_columns(scored, [per], ["protocol", *CONFIGURATION, "rank", "borda"])
    place = scored.groupby(["protocol", per], dropna=False, observed=True)["borda"].rank(method="min", ascending=False)
    best = scored[place <= len(MEDALS)].assign(place=place)
    best = best.sort_values(["protocol", per, "place", *CONFIGURATION], ignore_index=True)
    best["medal"] = [MEDALS[int(number) - 1] for number in best["place"]]
    return best[["protocol", per, "medal", *CONFIGURATION, "rank", "borda"]]


def _borda_of_one_protocol(rows: pd.DataFrame, metrics: Sequence[str], unit: Sequence[str]) -> pd.DataFrame:
    (configurations, units), values = grid(rows, [CONFIGURATION, unit], metrics)
    points = borda_points(values)
    total, score_sum = points.sum(axis=1), values.sum(axis=(1, 2))
    table = configurations.assign(
        borda=total,
        rank=rank_descending(total),
        sum=score_sum,
        product=values.prod(axis=2).sum(axis=1),
        sum_rank=rank_descending(score_sum),
    )
    table[[*metrics]] = values.mean(axis=1)
    for value, places in units.groupby(unit[0], sort=True, observed=True).indices.items():
        table[f"borda_{value}"] = points[:, places].sum(axis=1)
    return table


def _facts(rows: pd.DataFrame) -> pd.DataFrame:
    """The facts of each backbone that the rows have, one row per backbone."""
    facts = rows[["backbone", *(fact for fact in FACTS if fact in rows.columns)]].drop_duplicates()
    twice = facts[facts["backbone"].duplicated(keep=False)]
    if len(twice):
        name = twice["backbone"].iloc[0]
        facts_of_it = twice[twice["backbone"] == name]
        fact = next(column for column in facts_of_it.columns if facts_of_it[column].nunique(dropna=False) > 1)
        values = " and ".join(map(repr, facts_of_it[fact].unique()))
        raise EvidenceError(f"backbone {name} has several values of {fact!r}, {values}: make the rows agree")
    return facts
