"""What a factor does to a score: tests between groups, wins in pairs, correlations, cheap proxies.

The tests take a configuration as one observation, as arXiv:2508.14079 does. Configurations share backbones, and Borda
totals of one protocol are not independent (they share a sum), so the p-values are descriptive.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from temper.benchmark.analysis.cells import check_columns, grid
from temper.benchmark.columns import PERTURBATIONS
from temper.benchmark.configuration import CONFIGURATION
from temper.errors import ArgumentError, EvidenceError


@dataclass(frozen=True, eq=False)
class FactorTest:
    """A one-way test of equal means.

    ``statistic`` is F with ``df_between`` and ``df_within`` degrees of freedom (the latter a fraction in Welch's
    test), ``p`` its p-value; ``groups`` has ``mean`` and ``n`` of each group, highest mean first.
    """

    statistic: float
    p: float
    df_between: float
    df_within: float
    groups: pd.DataFrame


def one_way(scored: pd.DataFrame, factor: str, score: str = "borda", *, equal_variances: bool = True) -> FactorTest:
    """Do the levels of a factor differ in mean score? One-way analysis of variance.

    The F-test, as in arXiv:2508.14079, supposes one variance for all groups. ``equal_variances=False`` is Welch's
    test (Biometrika 38, 1951), which does not; the paper's code calls its F-test Welch's.

    Args:
        scored: one row per configuration of one protocol, such as from :func:`temper.benchmark.analysis.borda`.
        factor: column with the levels.
        score: numeric column.
        equal_variances: the F-test, or Welch's.

    Raises:
        ArgumentError: for a column that is not in ``scored``.
        EvidenceError: for rows of several protocols, an unknown level or score, fewer than two groups, too few rows,
            or in Welch's test a group of one row or without variance.
    """
    return _analysis_of_variance(scored, [factor], score, equal_variances)


def two_way_cells(
    scored: pd.DataFrame, factors: Sequence[str], score: str = "borda", *, equal_variances: bool = True
) -> FactorTest:
    """Do the combinations of factors differ in mean score? A one-way test over the cells, as in arXiv:2508.14079.

    It mixes main effects and interaction: a small p does not say that the factors interact.

    Args:
        scored: as for :func:`one_way`.
        factors: columns whose combinations, as found in the rows, are the groups.
        score: numeric column.
        equal_variances: as for :func:`one_way`.

    Raises:
        ArgumentError: as for :func:`one_way`.
        EvidenceError: as for :func:`one_way`.
    """
    return _analysis_of_variance(scored, factors, score, equal_variances)


def tukey(scored: pd.DataFrame, factor: str, score: str = "borda", alpha: float = 0.1) -> pd.DataFrame:
    """Which levels of a factor differ in mean score? Tukey's honestly significant differences (Tukey-Kramer).

    Returns:
        One row per pair, ``higher`` (in mean) and ``lower``: ``difference`` of means, ``low`` and ``high`` (its
        simultaneous interval at 1 - alpha), ``p`` and ``significant`` (p < alpha); largest difference first.

    Raises:
        ArgumentError: for a column that is not in ``scored``, or alpha outside (0, 1).
        EvidenceError: as for :func:`one_way`.
    """
    if not 0 < alpha < 1:
        raise ArgumentError("alpha", alpha, "give a share between 0 and 1; the paper takes 0.1")
    groups = _groups(scored, [factor], score)
    result = stats.tukey_hsd(*groups.values())
    interval = result.confidence_interval(1 - alpha)
    names = [level for (level,) in groups]  # highest mean first, so that every difference is >= 0
    records = [
        {
            "higher": names[i],
            "lower": names[j],
            "difference": float(result.statistic[i, j]),
            "low": float(interval.low[i, j]),
            "high": float(interval.high[i, j]),
            "p": float(result.pvalue[i, j]),
            "significant": bool(result.pvalue[i, j] < alpha),
        }
        for i in range(len(names))
        for j in range(i + 1, len(names))
    ]
    table = pd.DataFrame(records)
    return table.sort_values("difference", ascending=False, kind="stable", ignore_index=True)


def win_odds(
    scored: pd.DataFrame, *, treatment: str, baseline: str, by: str = "tier", score: str = "sum"
) -> pd.DataFrame:
    """How often one objective beats another, backbone by backbone (and schedule by schedule).

    The paper's figure puts the wins T and A in the table [[T, A], [A, T]] and applies Fisher's exact test. That enters
    every pair twice, once for each objective, as if they were independent: its odds ratio is the square (T/A)^2 of
    the odds, and its p is too small where one objective wins much more often. The right test of paired wins is the
    sign test: T of T + A, binomial with 1/2, ties left out. Both are returned.

    Args:
        scored: one row per configuration of one protocol, such as from :func:`temper.benchmark.analysis.borda`.
        treatment: the objective whose wins are T, for instance "trades-guide".
        baseline: the objective whose wins are A, for instance "at".
        by: column of groups of backbones; those without one count in "all" only.
        score: numeric column, higher is better.

    Returns:
        Frame indexed by ``by``, and last "all": ``wins``, ``losses``, ``ties``; ``odds`` (wins / losses, infinite
        without losses) and ``p`` (sign test, two-sided; 1 where all tie); ``doubled_odds_ratio`` and ``doubled_p``,
        the paper's.

    Raises:
        ArgumentError: for a column or objective that is not in ``scored``.
        EvidenceError: for rows of several protocols, or a backbone that lacks one of the two objectives.
    """
    check_columns(scored, [by], [*CONFIGURATION, score])
    _one_protocol(scored)
    for argument, value in (("treatment", treatment), ("baseline", baseline)):
        if value not in set(scored["objective"]):
            known = ", ".join(map(repr, sorted(scored["objective"].unique())))
            raise ArgumentError(argument, value, f"no row has it as objective; there are {known}")
    chosen = scored[scored["objective"].isin([treatment, baseline])]
    (objectives, pairs), values = grid(chosen, [("objective",), ("backbone", "schedule")], [score])
    of = {name: values[place, :, 0] for place, name in enumerate(objectives["objective"])}
    difference = np.round(of[treatment] - of[baseline], 12)
    groups = pairs["backbone"].map(chosen.drop_duplicates("backbone").set_index("backbone")[by])
    table = {name: _wins(difference[groups == name]) for name in sorted(groups.dropna().unique())}
    return pd.DataFrame([*table.values(), _wins(difference)], index=pd.Index([*table, "all"], name=by))


def spearman_matrix(rows: pd.DataFrame, metrics: Sequence[str] = PERTURBATIONS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Spearman's rank correlation of each pair of metrics over the rows, and its p-value.

    The p-values take rows as independent; pooled over data sets they are not (an easy data set is easy for every
    metric), which also raises the correlations.

    The heatmap released with arXiv:2508.14079 has the names of clean and common swapped.

    Returns:
        Two frames, metrics by metrics: rho and p (two-sided; 0 on the diagonal, where it means nothing). NaN where a
        metric is constant.

    Raises:
        ArgumentError: for a column that is not in ``rows``.
        EvidenceError: when a row lacks a metric, or with fewer than 3 rows.
    """
    check_columns(rows, (), metrics)
    if len(rows) < 3:
        raise EvidenceError(f"a correlation's p-value needs at least 3 rows, got {len(rows)}")
    rho, p = (
        pd.DataFrame(start, index=[*metrics], columns=[*metrics], dtype=float) for start in (np.eye(len(metrics)), 0.0)
    )
    for place, first in enumerate(metrics):
        for second in metrics[place + 1 :]:
            rho_and_p = _correlation(rows[first].to_numpy(float), rows[second].to_numpy(float), "spearman")
            rho.loc[first, second], p.loc[first, second] = rho.loc[second, first], p.loc[second, first] = rho_and_p
    return rho, p


def proxy(scored: pd.DataFrame, cheap: str, full: str, *, score: str = "sum", confidence: float = 0.95) -> pd.DataFrame:
    """How well a cheap protocol's scores foretell a full one's, over configurations (arXiv:2508.14079, figure 8).

    Intervals are on Fisher's scale: Student's t (n - 2) with the larger of the jackknife's standard error and
    1 / sqrt(n - 3), for Spearman's Bonett and Wright's (Psychometrika 65, 2000). They take configurations as
    independent.

    Args:
        scored: one row per protocol and configuration, such as from :func:`temper.benchmark.analysis.borda`.
        cheap: a protocol, for instance "linear-50".
        full: the protocol it stands in for, for instance "full-50".
        score: numeric column.
        confidence: of the intervals.

    Returns:
        Frame indexed by objective, and last "all": ``n`` configurations; ``pearson`` and ``spearman``, each with
        ``_low``, ``_high`` and ``_p`` (two-sided). NaN where a score is constant.

    Raises:
        ArgumentError: for a column or protocol that is not in ``scored``, or a confidence outside (0, 1).
        EvidenceError: when a configuration lacks one of the two, or an objective has fewer than 4 configurations.
    """
    if not 0 < confidence < 1:
        raise ArgumentError("confidence", confidence, "give a share between 0 and 1, such as 0.95")
    check_columns(scored, (), ["protocol", *CONFIGURATION, score])
    _check_protocols(scored, cheap, full)
    chosen = scored[scored["protocol"].isin([cheap, full])]
    (protocols, configurations), values = grid(chosen, [("protocol",), CONFIGURATION], [score])
    of = {name: values[place, :, 0] for place, name in enumerate(protocols["protocol"])}
    groups = {
        name: configurations["objective"].to_numpy() == name for name in sorted(configurations["objective"].unique())
    }
    groups["all"] = np.full(len(configurations), True)
    records = []
    for name, members in groups.items():
        if members.sum() < 4:
            raise EvidenceError(f"{name} has {members.sum()} configurations, a correlation's interval needs at least 4")
        pair = of[cheap][members], of[full][members]
        records.append(
            {"n": int(members.sum())}
            | correlated(*pair, "pearson", confidence)
            | correlated(*pair, "spearman", confidence)
        )
    return pd.DataFrame(records, index=pd.Index([*groups], name="objective"))


def _check_protocols(scored: pd.DataFrame, cheap: str, full: str) -> None:
    for argument, value in (("cheap", cheap), ("full", full)):
        if value not in set(scored["protocol"]):
            known = ", ".join(map(repr, sorted(scored["protocol"].unique())))
            raise ArgumentError(argument, value, f"no row has it as protocol; there are {known}")
    if cheap == full:
        raise ArgumentError("cheap", cheap, "name another protocol than full")


def _one_protocol(scored: pd.DataFrame) -> None:
    if "protocol" in scored.columns and scored["protocol"].nunique() > 1:
        known = ", ".join(map(repr, sorted(scored["protocol"].unique())))
        raise EvidenceError(f"the rows are of several protocols, {known}: scores compare within one, so choose one")


def _groups(scored: pd.DataFrame, factors: Sequence[str], score: str) -> dict[tuple[object, ...], NDArray[np.float64]]:
    """The scores of each group, by the tuple of its levels; highest mean first."""
    check_columns(scored, (), [*factors, score])
    _one_protocol(scored)
    groups = {name: part.to_numpy(float) for name, part in scored.groupby([*factors], sort=True, observed=True)[score]}
    if len(groups) < 2:
        raise EvidenceError(f"the rows have only one value of {', '.join(factors)}: a test needs at least 2 groups")
    if len(scored) <= len(groups):
        raise EvidenceError(
            f"{len(scored)} rows in {len(groups)} groups of {', '.join(factors)}: a test needs more rows"
        )
    return dict(sorted(groups.items(), key=lambda group: -group[1].mean()))


def _analysis_of_variance(
    scored: pd.DataFrame, factors: Sequence[str], score: str, equal_variances: bool
) -> FactorTest:
    groups = _groups(scored, factors, score)
    samples = [*groups.values()]
    if equal_variances:
        result = stats.f_oneway(*samples)
        statistic, p = float(result.statistic), float(result.pvalue)
        between, within = len(samples) - 1.0, float(len(scored) - len(samples))
    else:
        poor = [name for name, sample in groups.items() if len(sample) < 2 or np.ptp(sample) == 0]
        if poor:
            raise EvidenceError(
                f"{poor[0]!r} has one row, or rows of one value: Welch's test needs the variance of every group"
            )
        statistic, between, within = _welch(samples)
        p = float(stats.f.sf(statistic, between, within))
    names = pd.DataFrame([*groups], columns=[*factors])
    table = pd.DataFrame({"mean": [sample.mean() for sample in samples], "n": [*map(len, samples)]})
    return FactorTest(statistic, p, between, within, pd.concat([names, table], axis=1).set_index([*factors]))


def _welch(samples: Sequence[NDArray[np.float64]]) -> tuple[float, float, float]:
    """Welch's F and its degrees of freedom (Biometrika 38, 1951); SciPy has it from 1.16 on only."""
    sizes = np.array([*map(len, samples)])
    means = np.array([sample.mean() for sample in samples])
    weights = sizes / np.array([sample.var(ddof=1) for sample in samples])
    share = weights / weights.sum()
    between = len(samples) - 1
    spread = (weights * (means - share @ means) ** 2).sum() / between
    lack = ((1 - share) ** 2 / (sizes - 1)).sum() / (len(samples) ** 2 - 1)
    return float(spread / (1 + 2 * (len(samples) - 2) * lack)), float(between), float(1 / (3 * lack))


def _wins(difference: NDArray[np.float64]) -> dict[str, float]:
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    doubled = stats.fisher_exact([[wins, losses], [losses, wins]])
    return {
        "wins": wins,
        "losses": losses,
        "ties": len(difference) - wins - losses,
        "odds": wins / losses if losses else (np.inf if wins else np.nan),
        "p": float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0,
        "doubled_odds_ratio": float(doubled.statistic),
        "doubled_p": float(doubled.pvalue),
    }


def _correlation(
    first: NDArray[np.float64], second: NDArray[np.float64], kind: Literal["pearson", "spearman"]
) -> tuple[float, float]:
    """The correlation and its two-sided p-value; NaN where one of the two is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return np.nan, np.nan
    result = stats.pearsonr(first, second) if kind == "pearson" else stats.spearmanr(first, second)
    return float(result.statistic), float(result.pvalue)


def correlated(
    first: NDArray[np.float64], second: NDArray[np.float64], kind: Literal["pearson", "spearman"], confidence: float
) -> dict[str, float]:
    """The correlation of at least 4 pairs, its interval and p-value.

    On Fisher's scale, with the larger of the textbook's standard error and the jackknife's: the former is too small
    near +-1 for ranks. A correlation of +-1, which has no place on that scale, gets the reach of the next one that
    ranks can have.
    """
    r, p = _correlation(first, second, kind)
    n = len(first)
    nearest = 1 - 12 / (n * (n**2 - 1))  # two neighbours change places

    def scaled(r: float) -> float:
        clipped = r if kind == "pearson" and abs(r) < 1 - 1e-12 else min(max(r, -nearest), nearest)
        return float(np.arctanh(clipped))

    left_out = [_correlation(np.delete(first, place), np.delete(second, place), kind)[0] for place in range(n)]
    jackknife = float(np.std([scaled(each) for each in np.nan_to_num(left_out)]) * np.sqrt(n - 1))
    inflation = 1 + r**2 / 2 if kind == "spearman" else 1.0
    half = stats.t.ppf((1 + confidence) / 2, n - 2) * max(np.sqrt(inflation / (n - 3)), jackknife)
    low, high = np.tanh(scaled(r) + np.array([-half, half]))
    return {kind: r, f"{kind}_low": min(float(low), r), f"{kind}_high": max(float(high), r), f"{kind}_p": p}
