"""What a grid's results say, in sentences: pure functions from result rows; every statement with what it rests on."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from temper.benchmark.analysis import (
    borda,
    delay_and_accuracy,
    holm,
    one_way,
    paired_comparison,
    proxy,
    rank_correlation_interval,
    rank_intervals,
    win_odds,
)
from temper.benchmark.columns import BESIDE, scale_of
from temper.benchmark.configuration import CONFIGURATION

Finding = tuple[str, str]
FACTS = ("type", "pretraining", "tier")
BASELINE = "fixed"
CHEAP, WHOLE = "linear", "full"  # protocols of which one may foretell the other
FEWEST = 4  # pairs of a test, backbones of a correlation's interval


def findings(rows: pd.DataFrame, outcomes: pd.DataFrame | None, metrics: Sequence[str]) -> list[Finding]:
    """Heading and text of everything that the rows can answer.

    Args:
        rows: one row per run, with ``method`` (:func:`temper.benchmark.configuration.with_protocol`); every
            configuration of a protocol with the same data sets and seeds. Not every backbone need have every loss,
            schedule and protocol: what is compared is what has both.
        outcomes: per sample, see :func:`temper.benchmark.outcomes.outcomes`.
        metrics: columns that configurations are scored by.
    """
    return [*_best(rows, outcomes, metrics), *comparisons(rows, outcomes, metrics)]


def comparisons(rows: pd.DataFrame, outcomes: pd.DataFrame | None, metrics: Sequence[str]) -> list[Finding]:
    """:func:`findings` but for which configuration is the best."""
    return [
        *_schedules(rows, [*metrics, *(name for name in BESIDE if name in rows and rows[name].notna().any())]),
        *_delays(rows),
        *_rankings_by_schedule(rows, outcomes, metrics),
        *_objectives(rows, metrics),
        *_facts(rows, metrics),
        *_proxies(rows, metrics),
    ]


def scored(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """:func:`borda` of the means over seeds."""
    names = [*CONFIGURATION, "protocol", "dataset"]
    facts = {name: "first" for name in FACTS if name in rows}
    means = rows.groupby(names, sort=False, as_index=False).agg(dict.fromkeys(metrics, "mean") | facts)
    return borda(means, metrics)


def _best(rows: pd.DataFrame, outcomes: pd.DataFrame | None, metrics: Sequence[str]) -> Iterator[Finding]:
    if outcomes is None and rows["seed"].nunique() < 2:
        return
    ranked = rank_intervals(rows, outcomes=outcomes, metrics=metrics)
    for protocol, own in ranked.groupby("protocol", sort=False):
        best, rivals = own.iloc[0], own[(own["low"] == 1)]
        also = f" {len(rivals)} of {len(own)} configurations cannot be told from the first." if len(rivals) > 1 else ""
        yield (
            f"The best configuration, protocol {protocol}",
            f"{_configuration(best)}: Borda {best['score']:.0f}, first in {best['first']:.0%} of draws over "
            f"{best['over']}, rank interval {best['low']:.0f} to {best['high']:.0f} of {len(own)}.{also}",
        )


def schedule_tests(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Every schedule against the fixed epsilon, protocol by protocol: paired t-tests over backbones and data sets.

    Seeds and losses of one backbone on one data set are averaged first: they repeat one another. A run that lacks one
    metric, as a network that always says the same class lacks tau, still counts in the others.

    Returns:
        One row per schedule, protocol and metric: ``schedule``, ``protocol``, ``metric``, what
        :func:`temper.benchmark.analysis.paired_comparison` gives, and ``holm``, the p-value corrected for the number of
        rows. Empty where no comparison has 4 pairs.
    """
    pair_by, repeats = ["backbone", "dataset"], ["objective", "seed"]
    tables = []
    for other in (name for name in rows["schedule"].unique() if name != BASELINE):
        both = rows[rows["schedule"].isin([BASELINE, other])]
        for (protocol, whole), metric in itertools.product(both.groupby("protocol", sort=False), metrics):
            own = whole.dropna(subset=[metric])
            own = own[own.groupby([*pair_by, *repeats])["schedule"].transform("nunique") == 2]
            if len(own[pair_by].drop_duplicates()) < FEWEST:
                continue
            tests = paired_comparison(
                own, [metric], treatment=other, baseline=BASELINE, pair_by=pair_by, average_over=repeats
            )
            tables.append(tests.reset_index().assign(schedule=other, protocol=protocol))
    if not tables:
        return pd.DataFrame()
    tests_of_all = pd.concat(tables, ignore_index=True)
    return tests_of_all.assign(holm=holm(tests_of_all["p"].to_numpy(np.float64)))


def _schedules(rows: pd.DataFrame, metrics: Sequence[str]) -> Iterator[Finding]:
    tests = schedule_tests(rows, metrics)
    if tests.empty:
        return
    for (other, protocol), own in tests.groupby(["schedule", "protocol"], sort=False):
        differences = "; ".join(
            f"{row['metric']} {_difference(str(row['metric']), row['mean_difference'])} (higher in {row['wins']:.0f}, "
            f"lower in {row['losses']:.0f} of {row['n']:.0f} pairs, p = {row['p']:.2g}, corrected {row['holm']:.2g})"
            for _, row in own.iterrows()
        )
        yield (
            f"{other} against {BASELINE} epsilon, protocol {protocol}",
            f"Mean difference: {differences}. A pair is a backbone on a data set, averaged over losses and seeds. "
            + _made(tests["p"].notna().sum(), "comparisons of schedules"),
        )


def _delays(rows: pd.DataFrame) -> Iterator[Finding]:
    """How delays go with clean accuracies under fixed epsilon, and under none: figure 9 of arXiv:2509.23325."""
    if not {"delay", "clean"} <= {*rows.columns}:
        return
    fixed = rows[(rows["schedule"] == BASELINE) & rows[["delay", "clean"]].notna().all(axis=1)]
    cell = ["backbone", "dataset"]
    means = fixed.groupby([*cell, "objective", "protocol"], sort=False, as_index=False)[["delay", "clean"]].mean()
    means = means[means.groupby(cell)["delay"].transform("size") >= FEWEST]
    lines = [
        f"{row['backbone']} on {row['dataset']}: {row['pearson']:.2f} (95 % interval {row['pearson_low']:.2f} to "
        f"{row['pearson_high']:.2f}, {row['n']:.0f} settings)"
        for _, row in (delay_and_accuracy(means, cell) if len(means) else means).iterrows()
        if pd.notna(row["pearson"])
    ]
    if lines:
        yield (
            f"Does a run that adapts late end low? {BASELINE.capitalize()} epsilon",
            f"Pearson's correlation of delay and clean accuracy: {'; '.join(lines)}. Averaged over seeds.",
        )


def _rankings_by_schedule(
    rows: pd.DataFrame, outcomes: pd.DataFrame | None, metrics: Sequence[str]
) -> Iterator[Finding]:
    if outcomes is None and rows["seed"].nunique() < 2:
        return
    for other in (name for name in rows["schedule"].unique() if name != BASELINE):
        for protocol, own in rows[rows["schedule"].isin([BASELINE, other])].groupby("protocol", sort=True):
            own = own[own.groupby(["backbone", "objective"])["schedule"].transform("nunique") == 2]
            own = own[own.groupby("backbone")["objective"].transform("nunique") == own["objective"].nunique()]
            backbones = sorted(own["backbone"].unique())
            if len(backbones) < 2:
                continue
            runs = own[[*CONFIGURATION, "protocol", "dataset", "seed"]]
            own_outcomes = None if outcomes is None else outcomes.merge(runs)
            tables = {
                pair: rank_correlation_interval(
                    own, "schedule", (BASELINE, other), pair=pair, outcomes=own_outcomes, metrics=metrics
                ).iloc[0]
                for pair in itertools.combinations(backbones, 2)
            }
            first = next(iter(tables.values()))
            swaps = {pair: table["swap"] for pair, table in tables.items()}
            swapped = [pair for pair, table in tables.items() if table["swapped"]]
            probable = max(swaps, key=lambda pair: swaps[pair])
            changes = "; ".join(f"{one} and {two} (in {swaps[one, two]:.0%} of draws)" for one, two in swapped)
            yield (
                f"Does {other} change the ranking of backbones? Protocol {protocol}",
                f"Kendall's tau between the rankings of {len(backbones)} backbones under {BASELINE} and {other}: "
                f"{first['tau']:.2f}, 95 % interval {first['low']:.2f} to {first['high']:.2f} (over "
                f"{first['over']}). "
                + (f"In opposite order: {changes}." if swapped else "No pair of backbones changes its order.")
                + f" Likeliest to change: {probable[0]} and {probable[1]}, in {swaps[probable]:.0%} of draws.",
            )


def _objectives(rows: pd.DataFrame, metrics: Sequence[str]) -> Iterator[Finding]:
    others = [name for name in rows["objective"].unique() if name != "at"]
    if "at" not in set(rows["objective"]):
        return
    tests = []
    for other in others:
        both = rows[rows["objective"].isin(["at", other])]
        both = both[both.groupby(["protocol", "backbone", "schedule"])["objective"].transform("nunique") == 2]
        if both.empty:
            continue
        pairs = _by_backbone(scored(both, metrics), "objective").assign(group="")
        for protocol, own in pairs.groupby("protocol", sort=False):
            odds = win_odds(own, treatment=other, baseline="at", by="group").loc["all"]
            tests.append((other, str(protocol), odds))
    corrected = holm(np.array([odds["p"] for *_, odds in tests], dtype=np.float64))
    for other in others:
        wins = [
            f"{protocol}: {odds['wins']:.0f} to {odds['losses']:.0f} by the sum of perturbations "
            f"(sign test p = {odds['p']:.2g}, corrected {p:.2g})"
            for (name, protocol, odds), p in zip(tests, corrected, strict=True)
            if name == other
        ]
        if wins:
            yield (
                f"{other} against at, wins over backbones",
                "; ".join(wins) + ". Averaged over schedules and seeds. " + _made(len(tests), "comparisons of losses"),
            )


def _facts(rows: pd.DataFrame, metrics: Sequence[str]) -> Iterator[Finding]:
    table = scored(rows, metrics)
    tests = []
    for fact in FACTS:
        if fact not in table or table[fact].isna().any() or table[fact].nunique() < 2:
            continue
        for protocol, own in _by_backbone(table, fact).groupby("protocol", sort=False):
            groups = own.groupby(fact)["borda"]
            # no variance to test against
            if len(groups) < 2 or groups.size().min() < 2 or groups.agg(np.ptp).min() == 0:
                continue
            tests.append((fact, str(protocol), one_way(own, fact, equal_variances=False)))
    corrected = holm(np.array([test.p for *_, test in tests], dtype=np.float64))
    for fact in dict.fromkeys(fact for fact, *_ in tests):
        means = [
            f"{protocol}: {', '.join(f'{name} {value:.0f}' for name, value in test.groups['mean'].items())} "
            f"(Welch p = {test.p:.2g}, corrected {p:.2g}; {test.groups['n'].sum()} backbones)"
            for (name_of_fact, protocol, test), p in zip(tests, corrected, strict=True)
            if name_of_fact == fact
        ]
        yield (
            f"Mean Borda by {fact}",
            "; ".join(means)
            + ". A backbone's configurations are averaged. "
            + _made(len(tests), "comparisons of facts"),
        )


def _proxies(rows: pd.DataFrame, metrics: Sequence[str]) -> Iterator[Finding]:
    if "method" not in rows:
        return
    methods = rows.drop_duplicates("protocol").set_index("protocol")["method"]
    for one, other in itertools.product(methods.index[methods == CHEAP], methods.index[methods == WHOLE]):
        both = rows[rows["protocol"].isin([one, other])]
        both = both[both.groupby([*CONFIGURATION])["protocol"].transform("nunique") == 2]
        if both["backbone"].nunique() < FEWEST:
            continue
        rho = proxy(_by_backbone(scored(both, metrics)), one, other).loc["all"]
        yield (
            f"Does {one} predict {other}?",
            f"Over {rho['n']:.0f} backbones, averaged over losses and schedules, the sums of perturbations "
            f"correlate with Spearman {rho['spearman']:.2f} (95 % interval {rho['spearman_low']:.2f} to "
            f"{rho['spearman_high']:.2f}).",
        )


def _by_backbone(table: pd.DataFrame, *kept: str) -> pd.DataFrame:
    """Scores of each backbone (and value of the ``kept`` columns) averaged over its other configurations, which repeat
    one another: a test that counted each of them would be too sure of itself."""
    means = table.groupby(["protocol", "backbone", *kept], sort=False, as_index=False)[["borda", "sum"]].mean()
    return means.assign(**{name: "all" for name in CONFIGURATION if name not in means})


def _made(count: int, what: str) -> str:
    return f"Corrected by Holm for the {count} {what} made here."


def _difference(name: str, value: float) -> str:
    scale = scale_of(name)
    return f"{value * 100:+.1f} points" if scale.percent else f"{value:+.{scale.digits}f}"


def _configuration(row: "pd.Series[Any]") -> str:
    return ", ".join(str(row[name]) for name in CONFIGURATION if str(row[name]) not in ("", str(np.nan)))
