"""What a grid's results say, in sentences: pure functions from result rows; every statement with what it rests on."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from temper.benchmark.analysis import (
    borda,
    one_way,
    paired_comparison,
    proxy,
    rank_correlation_interval,
    rank_intervals,
    win_odds,
)
from temper.benchmark.analysis.scores import CONFIGURATION

Finding = tuple[str, str]
FACTS = ("type", "pretraining", "tier")
BASELINE = "fixed"
FEWEST = 4  # configurations that a correlation's interval takes


def findings(rows: pd.DataFrame, outcomes: pd.DataFrame | None, metrics: Sequence[str]) -> list[Finding]:
    """Heading and text of everything that the rows can answer.

    Args:
        rows: one row per run; every configuration of a protocol with the same data sets and seeds.
        outcomes: per sample, see :func:`temper.benchmark.outcomes.outcomes`.
        metrics: columns that configurations are scored by.
    """
    return [
        *_best(rows, outcomes, metrics),
        *_schedules(rows, [*metrics, *(name for name in ("expected", "tau") if name in rows)]),
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
            f"{_configuration(best)}: Borda {best['score']:.0f}, first in {best['first']:.0%} of bootstrap draws over "
            f"{best['over']}, rank interval {best['low']:.0f} to {best['high']:.0f} of {len(own)}.{also}",
        )


def _schedules(rows: pd.DataFrame, metrics: Sequence[str]) -> Iterator[Finding]:
    pair_by = ["backbone", "dataset", "objective", "protocol", "seed"]
    for other in (name for name in rows["schedule"].unique() if name != BASELINE):
        both = rows[rows["schedule"].isin([BASELINE, other])]
        if BASELINE not in set(both["schedule"]):
            return
        for protocol, own in both.groupby("protocol", sort=False):
            own = own.dropna(subset=[*metrics])
            own = own[own.groupby(pair_by)["schedule"].transform("nunique") == 2]
            if len(own) < 4:
                continue
            tests = paired_comparison(own, metrics, treatment=other, baseline=BASELINE, pair_by=pair_by)
            told = "; ".join(
                f"{name} {_difference(str(name), row['mean_difference'])} (higher in {row['wins']:.0f}, lower in "
                f"{row['losses']:.0f} of {row['n']:.0f} pairs, p = {row['p']:.2g})"
                for name, row in tests.iterrows()
            )
            yield f"{other} against {BASELINE} epsilon, protocol {protocol}", f"Mean difference: {told}."


def _rankings_by_schedule(
    rows: pd.DataFrame, outcomes: pd.DataFrame | None, metrics: Sequence[str]
) -> Iterator[Finding]:
    backbones = sorted(rows["backbone"].unique())
    others = [name for name in rows["schedule"].unique() if name != BASELINE]
    if BASELINE not in set(rows["schedule"]) or len(backbones) < 2 or (outcomes is None and rows["seed"].nunique() < 2):
        return
    for other in others:
        pairs = [(one, two) for i, one in enumerate(backbones) for two in backbones[i + 1 :]]
        tables = {
            pair: rank_correlation_interval(
                rows, "schedule", (BASELINE, other), pair=pair, outcomes=outcomes, metrics=metrics
            ).set_index("protocol")
            for pair in pairs
        }
        for protocol in next(iter(tables.values())).index:
            first = next(iter(tables.values())).loc[protocol]
            swaps = {pair: table.loc[protocol, "swap"] for pair, table in tables.items()}
            swapped = [pair for pair, table in tables.items() if table.loc[protocol, "swapped"]]
            probable = max(swaps, key=lambda pair: swaps[pair])
            changes = "; ".join(f"{one} and {two} (in {swaps[one, two]:.0%} of draws)" for one, two in swapped)
            yield (
                f"Does {other} change the ranking of backbones? Protocol {protocol}",
                f"Kendall's tau between the rankings of {len(backbones)} backbones under {BASELINE} and {other}: "
                f"{first['tau']:.2f}, 95 % interval {first['low']:.2f} to {first['high']:.2f} (bootstrap over "
                f"{first['over']}). "
                + (f"In opposite order: {changes}." if swapped else "No pair of backbones changes its order.")
                + f" Likeliest to change: {probable[0]} and {probable[1]}, in {swaps[probable]:.0%} of draws.",
            )


def _objectives(rows: pd.DataFrame, metrics: Sequence[str]) -> Iterator[Finding]:
    others = [name for name in rows["objective"].unique() if name != "at"]
    if "at" not in set(rows["objective"]):
        return
    for other in others:
        told = []
        both = scored(rows[rows["objective"].isin(["at", other])], metrics).assign(group="")
        for protocol, own in both.groupby("protocol", sort=False):
            odds = win_odds(own, treatment=other, baseline="at", by="group").loc["all"]
            told.append(
                f"{protocol}: {odds['wins']:.0f} to {odds['losses']:.0f} by the sum of perturbations "
                f"(sign test p = {odds['p']:.2g})"
            )
        yield f"{other} against at, wins over backbones and schedules", "; ".join(told) + "."


def _facts(rows: pd.DataFrame, metrics: Sequence[str]) -> Iterator[Finding]:
    table = scored(rows, metrics)
    for fact in FACTS:
        if fact not in table or table[fact].isna().any() or table[fact].nunique() < 2:
            continue
        told = []
        for protocol, own in table.groupby("protocol", sort=False):
            if own[fact].value_counts().min() < 2:
                continue
            test = one_way(own, fact, equal_variances=False)
            means = ", ".join(f"{name} {value:.0f}" for name, value in test.groups["mean"].items())
            told.append(f"{protocol}: {means} (Welch p = {test.p:.2g})")
        if told:
            yield f"Mean Borda by {fact}", "; ".join(told) + ". Configurations of one backbone are not independent."


def _proxies(rows: pd.DataFrame, metrics: Sequence[str]) -> Iterator[Finding]:
    protocols = list(rows["protocol"].unique())
    cheap = [name for name in protocols if str(name).startswith("linear")]
    full = [name for name in protocols if str(name).startswith("full")]
    table = scored(rows, metrics)
    if table.groupby(["protocol", "objective"]).size().min() < FEWEST:
        return
    for one in cheap:
        for other in full:
            told = proxy(table, one, other).loc["all"]
            yield (
                f"Does {one} predict {other}?",
                f"Over {told['n']:.0f} configurations the sums of perturbations correlate with Spearman "
                f"{told['spearman']:.2f} (95 % interval {told['spearman_low']:.2f} to {told['spearman_high']:.2f}).",
            )


def _difference(name: str, value: float) -> str:
    return f"{value:+.3f}" if name == "tau" else f"{value * 100:+.1f} points"  # all others are accuracies


def _configuration(row: "pd.Series[Any]") -> str:
    return ", ".join(str(row[name]) for name in CONFIGURATION if str(row[name]) not in ("", str(np.nan)))
