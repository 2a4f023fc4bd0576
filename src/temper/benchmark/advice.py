"""Which backbone, loss, protocol and schedule to take, from results, with what the advice rests on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from temper import data
from temper.benchmark.analysis import PERTURBATIONS, perturbation_sum, rank_intervals, whole
from temper.benchmark.configuration import CONFIGURATION, FACTORS, Configuration, with_protocol
from temper.benchmark.findings import Finding, comparisons
from temper.benchmark.presets import GUIDE_PROTOCOLS
from temper.benchmark.published import read_published
from temper.benchmark.store import RUN_DONE, Store, require
from temper.data import catalogue
from temper.errors import ArgumentError, EvidenceError

TIERS = ("small", "medium", "large")
WantedSize = Literal["small", "medium", "large", "any"]
SHOWN = 5  # configurations per protocol


@dataclass(frozen=True)
class Ranged:
    """A number, and the interval that it lies in."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """One configuration under one protocol.

    Attributes:
        configuration, protocol: what to take.
        epochs: of training.
        score: mean over data sets of the sum of the perturbations' accuracies, from 0 to their number, with its 95 %
            interval where seeds or samples could be drawn; NaN otherwise.
        rank: by that score among its protocol's, with its 95 % interval; without draws, with its best and worst rank on
            a single data set.
    """

    configuration: Configuration
    protocol: str
    epochs: int
    score: Ranged
    rank: Ranged

    def to_json(self) -> dict[str, object]:
        """Everything as plain data; NaN becomes null."""
        plain = {
            **vars(self.configuration),
            "protocol": self.protocol,
            "epochs": self.epochs,
            "score": self.score.value,
            "low": self.score.low,
            "high": self.score.high,
            "rank": self.rank.value,
            "rank_low": self.rank.low,
            "rank_high": self.rank.high,
        }
        return {key: None if value != value else value for key, value in plain.items()}


@dataclass(frozen=True)
class Advice:
    """What to take, and why.

    Attributes:
        choices: the best of each protocol that the budget allows, best mean score first; the first is the advice.
        rivals: further configurations of the first one's protocol, by rank.
        basis: what it rests on: data sets, runs, how the widths were found.
        evidence: findings on losses, schedules and protocols.
        among: how many configurations, over all protocols, the first was chosen from.
        expected: score of a choice made in this way, of runs that it was not made by: the best by all seeds but one,
            scored on that one, averaged over the seeds. The first choice's own score is the best of many and flattered.
            NaN with one seed.
    """

    choices: Sequence[Choice]
    rivals: Sequence[Choice]
    basis: Sequence[str]
    evidence: Sequence[Finding]
    among: int
    expected: float

    def to_json(self) -> dict[str, object]:
        """Everything as plain data; NaN becomes null."""
        return {
            "choices": [each.to_json() for each in self.choices],
            "rivals": [each.to_json() for each in self.rivals],
            "among": self.among,
            "expected": None if np.isnan(self.expected) else self.expected,
            "basis": list(self.basis),
            "evidence": [{"heading": heading, "text": text} for heading, text in self.evidence],
        }


def advise(
    results: str, *, size: WantedSize = "any", budget: int | None = None, data_spec: str | None = None
) -> Advice:
    """Advice from a store, or from the published rows of arXiv:2508.14079 (a CSV file).

    Args:
        results: folder or URL of a store, or the CSV file.
        size: largest tier of backbone; "any" takes those of unknown size too.
        budget: most epochs of training.
        data_spec: a data set of the results, or one's own; its nearest ones in images per class are then taken.

    Raises:
        ArgumentError: nothing is left within size and budget, or the data are not there.
        RunError, DataError: the results cannot be read. EvidenceError: too few results to compare.
    """
    rows = _rows(results)
    metrics = [name for name in PERTURBATIONS if name in rows and rows[name].notna().all()]
    if not metrics:
        raise EvidenceError(f"{results}: no run has a perturbation ({', '.join(PERTURBATIONS)}) that all others have")
    rows, basis = _near(_affordable(rows, size, budget), data_spec)
    rows = _whole(rows)
    basis = [f"{len(rows):,} runs on {', '.join(sorted(rows['dataset'].unique()))}", *basis]
    by_protocol = {str(name): _choices(own, metrics) for name, own in rows.groupby("protocol", sort=False)}
    if rows["seed"].nunique() < 2:
        basis.append("one seed: no interval over seeds; ranks are given from the best to the worst on single data sets")
    best = sorted((own[0] for own in by_protocol.values()), key=lambda choice: -choice.score.value)
    among, expected = sum(map(len, by_protocol.values())), _expected(rows, metrics)
    basis.append(_flattery(best[0].score.value, among, expected))
    evidence = comparisons(rows, None, metrics)
    return Advice(best, by_protocol[best[0].protocol][1:SHOWN], basis, evidence, among, expected)


def _expected(rows: pd.DataFrame, metrics: Sequence[str]) -> float:
    """Score of the configuration that is best by all seeds but one, on that one; the mean over the seeds."""
    totals = rows.assign(total=perturbation_sum(rows, metrics))
    by_seed = totals.pivot_table(
        index=["protocol", *CONFIGURATION], columns="seed", values="total", aggfunc="mean"
    ).dropna(axis="columns")  # seeds that every protocol has
    if by_seed.shape[1] < 2:
        return float("nan")
    scores = by_seed.to_numpy(np.float64)
    left_out = [np.delete(scores, place, axis=1).mean(axis=1).argmax() for place in range(scores.shape[1])]
    return float(scores[left_out, np.arange(scores.shape[1])].mean())


def _flattery(score: float, among: int, expected: float) -> str:
    """How far the best score is to be believed, in words."""
    if among == 1:
        return "one configuration: nothing was chosen"
    chosen = f"chosen as the best of {among} configurations on the test images that it is scored on, so its score"
    if np.isnan(expected):
        return f"{chosen} ({score:.2f}) is flattered, and one seed cannot say by how much"
    return (
        f"{chosen} ({score:.2f}) is flattered: a choice by all seeds but one scores {expected:.2f} on that one; what "
        "the choice owes to these test images stays in that number"
    )


def _rows(results: str) -> pd.DataFrame:
    if Path(results).is_file():
        rows = read_published(results)
        return with_protocol(rows.assign(config=rows["protocol"].map(lambda name: json.dumps(GUIDE_PROTOCOLS[name]))))
    rows = Store(results).rows()
    rows = rows[rows["status"] == RUN_DONE].reset_index(drop=True) if len(rows) else rows
    if rows.empty:
        raise EvidenceError(f"{results}: holds no finished run; temper bench run makes some")
    require(rows, [*FACTORS, "config"], results)
    return with_protocol(rows)


def _affordable(rows: pd.DataFrame, size: WantedSize, budget: int | None) -> pd.DataFrame:
    if size not in (*TIERS, "any"):
        raise ArgumentError("size", size, f"choose one of {', '.join(TIERS)} or any")
    if size != "any":
        known = rows["tier"] if "tier" in rows else pd.Series("", index=rows.index)
        kept = rows[known.isin(TIERS[: TIERS.index(size) + 1])]
        if kept.empty:
            raise ArgumentError("size", size, f"no backbone of the results is known to be at most {size}; try any")
        rows = kept
    if budget is not None:
        kept = rows[rows["epochs"] <= budget]
        if kept.empty:
            raise ArgumentError("budget", budget, f"the cheapest protocol of the results takes {rows['epochs'].min()}")
        rows = kept
    return rows.reset_index(drop=True)


def _near(rows: pd.DataFrame, data_spec: str | None) -> tuple[pd.DataFrame, list[str]]:
    """The rows on the data sets that are most like one's own, by training images per class, and why."""
    if data_spec is None:
        return rows, []
    if data_spec in set(rows["dataset"]):
        return rows[rows["dataset"] == data_spec], [f"{data_spec} itself is among the results"]
    parts = data.available_splits(data_spec)
    own = data.load(data_spec, split="train" if "train" in parts else None)
    per_class = len(own) / own.num_classes
    known = {name: value for name in rows["dataset"].unique() if (value := _per_class(rows, str(name)))}
    if not known:
        return rows, ["the results do not say how many images per class they had: all data sets count"]
    near = sorted(known, key=lambda name: abs(np.log(known[name] / per_class)))[: max(len(known) // 2, 1)]
    sizes = ", ".join(f"{name} ({known[name]:.0f})" for name in near)
    return rows[rows["dataset"].isin(near)], [
        f"your data have {per_class:.0f} training images per class; nearest in that among the results: {sizes}"
    ]


def _per_class(rows: pd.DataFrame, name: str) -> float | None:
    own = rows[rows["dataset"] == name].iloc[0]
    if "train_n" in rows and pd.notna(own["train_n"]):
        return float(own["train_n"] / own["classes"])
    if name in catalogue.CATALOGUE:
        return catalogue.sizes(name)["train"] / catalogue.CATALOGUE[name].classes
    return None


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
    """Configurations that have every data set and seed of their protocol; others are not compared."""
    compared = whole(rows, rows).reset_index(drop=True)
    if compared.empty:
        raise EvidenceError("no configuration has all data sets and seeds of its protocol; finish the benchmark first")
    return compared


def _choices(rows: pd.DataFrame, metrics: Sequence[str]) -> list[Choice]:
    """The configurations of one protocol by the sum of their accuracies.

    Borda would put a network that always says one class above those that attacks reach: its accuracy is at chance, but
    nothing lowers it (the facts of arXiv:2508.14079 show two such).
    """
    protocol, epochs = str(rows["protocol"].iloc[0]), int(rows["epochs"].iloc[0])
    sums = rows.assign(total=perturbation_sum(rows, metrics))
    table = sums.pivot_table(index=[*CONFIGURATION], columns="dataset", values="total", aggfunc="mean")
    means, single = table.mean(axis=1), table.rank(ascending=False, method="min")
    ranks = pd.DataFrame({"rank": means.rank(ascending=False, method="min"), "low": single.min(axis=1)})
    ranks["high"], score = single.max(axis=1), pd.DataFrame({"low": np.nan, "high": np.nan}, index=table.index)
    if rows["seed"].nunique() > 1:
        drawn = rank_intervals(rows, metrics=metrics, score="sum").set_index([*CONFIGURATION])
        ranks = drawn.loc[table.index, ["rank", "low", "high"]]
        score = drawn.loc[table.index, ["score_low", "score_high"]].set_axis(["low", "high"], axis=1) / table.shape[1]
    choices = []
    for key in means.sort_values(ascending=False, kind="stable").index:
        rank = Ranged(*(int(value) for value in ranks.loc[key, ["rank", "low", "high"]]))
        low, high = (float(value) for value in score.loc[key, ["low", "high"]])
        configuration = Configuration(**dict(zip(CONFIGURATION, map(str, key), strict=True)))
        choices.append(Choice(configuration, protocol, epochs, Ranged(float(means[key]), low, high), rank))
    return choices
