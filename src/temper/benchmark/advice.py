"""Which backbone, loss, protocol and schedule to take, from results, with what the advice rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from temper.benchmark.analysis import PERTURBATIONS, perturbation_sum, rank_intervals, whole
from temper.benchmark.analysis.shrinkage import Shrunk, chance_of_best, held_out, shrink
from temper.benchmark.configuration import CONFIGURATION, FACTORS, Configuration, with_protocol
from temper.benchmark.findings import Finding, comparisons
from temper.benchmark.likeness import Size, by_dataset, held_out_choices, nearest_half, own_size, sizes
from temper.benchmark.presets import UNTRAINED
from temper.benchmark.published import FLAWS, SOURCE, published_results
from temper.benchmark.store import RUN_DONE, Store, require
from temper.errors import ArgumentError, EvidenceError, naming

TIERS = ("small", "medium", "large")
WantedSize = Literal["small", "medium", "large", "any"]
Draws = Literal["seed", "dataset"]  # what scores are repeated over
WORDS: dict[Draws, str] = {"seed": "seed", "dataset": "data set"}
SHOWN = 5  # configurations per protocol, where it cannot be told which may be the best
SURE = 0.8  # of holding the best: the rivals, with the first choice
NORMAL = 1.96  # standard errors in half a 95 % interval
UNKNOWN = float("nan")


@dataclass(frozen=True)
class Ranged:
    """A number, and the interval that it lies in."""

    value: float
    low: float
    high: float

    def to_json(self, name: str, bounds: str) -> dict[str, float]:
        """Under ``name``, with ``bounds`` and _low, _high for its interval."""
        return {name: self.value, f"{bounds}low": self.low, f"{bounds}high": self.high}


@dataclass(frozen=True)
class Choice:
    """One configuration under one protocol.

    Attributes:
        configuration, protocol: what to take.
        epochs: of training.
        score: mean over data sets of the sum of the perturbations' accuracies, from 0 to their number, with its 95 %
            interval where seeds could be drawn; NaN otherwise.
        rank: by that score among its protocol's, with its 95 % interval; without draws, with its best and worst rank on
            a single data set.
        shrunk: that score without what luck added to it, and its 95 % interval, which also holds for the best of many
            (:mod:`temper.benchmark.analysis.shrinkage`). NaN where it cannot be told.
        chance: that it is the best of all that were compared, over protocols. NaN where ``shrunk`` is.
    """

    configuration: Configuration
    protocol: str
    epochs: int
    score: Ranged
    rank: Ranged
    shrunk: Ranged
    chance: float

    @property
    def outlook(self) -> float:
        """The score to expect, as far as can be told."""
        return self.score.value if np.isnan(self.shrunk.value) else self.shrunk.value

    def to_json(self) -> dict[str, object]:
        """Everything as plain data; NaN becomes null."""
        plain: dict[str, object] = {**vars(self.configuration), "protocol": self.protocol, "epochs": self.epochs}
        plain |= self.score.to_json("score", "") | self.rank.to_json("rank", "rank_")
        return _plain(plain | self.shrunk.to_json("shrunk", "shrunk_") | {"chance": self.chance})


@dataclass(frozen=True)
class Flattery:
    """How far the first choice's own score is to be believed: it is the best of many, and flattered.

    Attributes:
        among: how many configurations, over all protocols, it was chosen from.
        draws: what their scores are repeated over, "seed" where there are several, else "dataset".
        expected: score of a choice made in this way, of runs that it was not made by: the best by all seeds (data sets)
            but one, scored on that one, averaged over them. NaN with one seed and one data set.
        further: on one more such seed (data set), its score above the mean of its protocol's configurations there, and
            a 95 % interval. NaN where it cannot be told.
    """

    among: int
    draws: Draws
    expected: float
    further: Ranged


@dataclass(frozen=True)
class Advice:
    """What to take, and why.

    Attributes:
        source: what the results are, and who measured them.
        published: they are published ones, and nothing of them was measured by Temper.
        choices: the best of each protocol that the budget allows, the highest score to expect first; the first is the
            advice.
        rivals: the fewest others that with the first choice hold the best with a chance of 80 %, likeliest first; where
            that cannot be told, the next of its protocol by rank.
        flattery: how far the first choice's score is to be believed.
        basis: what it rests on: data sets, runs, how the widths were found.
        evidence: findings on losses, schedules and protocols.
    """

    source: str
    published: bool
    choices: Sequence[Choice]
    rivals: Sequence[Choice]
    flattery: Flattery
    basis: Sequence[str]
    evidence: Sequence[Finding]

    def to_json(self) -> dict[str, object]:
        """Everything as plain data; NaN becomes null."""
        flattery = self.flattery
        return {
            "source": self.source,
            "published": self.published,
            "choices": [each.to_json() for each in self.choices],
            "rivals": [each.to_json() for each in self.rivals],
            "among": flattery.among,
            **_plain({"expected": flattery.expected} | flattery.further.to_json("further", "further_")),
            "basis": list(self.basis),
            "evidence": [{"heading": heading, "text": text} for heading, text in self.evidence],
        }


def advise(
    results: str | None = None,
    *,
    size: WantedSize = "any",
    budget: int | None = None,
    data_spec: str | None = None,
    images: int | None = None,
    classes: int | None = None,
) -> Advice:
    """Advice from a store, or from the published figures of arXiv:2508.14079 that come along.

    Args:
        results: folder or URL of a store; None for the published figures.
        size: largest tier of backbone; "any" takes those of unknown size too.
        budget: most epochs of training.
        data_spec: a data set of the results, or one's own; its nearest ones in images per class and classes are then
            taken, unless that chooses worse on data sets that are held out.
        images, classes: in place of ``data_spec``, how many training images of how many classes one's own data have.

    Raises:
        ArgumentError: nothing is left within size and budget, or the data are not there.
        RunError, DataError: the results cannot be read. EvidenceError: too few results to compare.
    """
    rows, source = (_published(), f"published figures of {SOURCE}") if results is None else (_rows(results), results)
    metrics = [name for name in PERTURBATIONS if name in rows and rows[name].notna().all()]
    if not metrics:
        raise EvidenceError(f"{source}: no run has a perturbation ({', '.join(PERTURBATIONS)}) that all others have")
    rows = _affordable(rows, size, budget)
    draws: Draws = "seed" if rows["seed"].nunique() > 1 else "dataset"
    if data_spec in set(rows["dataset"]) and draws == "seed":
        rows, near = rows[rows["dataset"] == data_spec], [f"{data_spec} itself is among the results"]
    else:
        rows, near = _near(rows, metrics, own_size(data_spec, images, classes))
    rows = _whole(rows)
    basis = [f"{len(rows):,} runs on {', '.join(sorted(rows['dataset'].unique()))}", *near]
    if draws == "dataset":
        basis.append("one seed: no interval over seeds; ranks are given from the best to the worst on single data sets")
    tables = {str(name): _table(own, metrics, draws) for name, own in rows.groupby("protocol", sort=False)}
    shrunk = {name: shrink(table.to_numpy(np.float64)) for name, table in tables.items()}
    every = _with_chances(
        [
            choice
            for name, own in rows.groupby("protocol", sort=False)
            for choice in _choices(own, metrics, tables[str(name)], shrunk[str(name)])
        ]
    )
    best = _best_of_each(every)
    expected = _expected(tables)
    flattery = Flattery(len(every), draws, expected, _further(best[0], shrunk[best[0].protocol]))
    basis += [_flattery(best[0], flattery), *(_flaws() if results is None else [])]
    return Advice(
        source, results is None, best, _rivals(best[0], every), flattery, basis, comparisons(rows, None, metrics)
    )


def _table(rows: pd.DataFrame, metrics: Sequence[str], draws: Draws) -> pd.DataFrame:
    """Scores of one protocol, a row per configuration and a column per draw."""
    totals = rows.assign(total=perturbation_sum(rows, metrics))
    return totals.pivot_table(index=[*CONFIGURATION], columns=draws, values="total", aggfunc="mean")


def _expected(tables: Mapping[str, pd.DataFrame]) -> float:
    """Score of the configuration that is best by all draws but one, on that one; the mean over the draws. The tables
    are those of :func:`_table`, by protocol."""
    every = pd.concat(tables).sort_index().sort_index(axis="columns")
    by_draw = every.dropna(axis="columns")  # draws that every protocol has
    return held_out(by_draw.to_numpy(np.float64)) if by_draw.shape[1] > 1 else UNKNOWN


def _further(first: Choice, shrunk: Shrunk | None) -> Ranged:
    if shrunk is None:
        return Ranged(UNKNOWN, UNKNOWN, UNKNOWN)
    above, error = first.shrunk.value - shrunk.centre, (first.shrunk.high - first.shrunk.value) / shrunk.width
    half = shrunk.width * float(np.hypot(error, shrunk.noise))
    return Ranged(above, above - half, above + half)


def _with_chances(choices: Sequence[Choice]) -> list[Choice]:
    """The choices, each with its chance of being the best of those whose scores could be shrunk."""
    known = [each for each in choices if not np.isnan(each.shrunk.value)]
    if not known:
        return [*choices]
    means = np.array([each.shrunk.value for each in known])
    errors = np.array([each.shrunk.high for each in known]) - means
    chances = dict(zip(map(id, known), chance_of_best(means, errors / NORMAL), strict=True))
    return [replace(each, chance=float(chances.get(id(each), UNKNOWN))) for each in choices]


def _best_of_each(choices: Sequence[Choice]) -> list[Choice]:
    """The first of each protocol, the highest score to expect first."""
    best: dict[str, Choice] = {}
    for each in choices:
        best.setdefault(each.protocol, each)
    return sorted(best.values(), key=lambda choice: -choice.outlook)


def _rivals(first: Choice, choices: Sequence[Choice]) -> list[Choice]:
    if np.isnan(first.chance):
        own = [each for each in choices if each.protocol == first.protocol]
        return own[1:SHOWN]
    others = sorted((each for each in choices if each is not first), key=lambda each: -np.nan_to_num(each.chance))
    held = first.chance + np.cumsum([0.0, *(np.nan_to_num(each.chance) for each in others)])
    return others[: int((held < SURE).sum())]


def _flattery(first: Choice, flattery: Flattery) -> str:
    """How far the best score is to be believed, in words."""
    if flattery.among == 1:
        return "one configuration: nothing was chosen"
    word, score = WORDS[flattery.draws], first.score.value
    chosen = f"chosen as the best of {flattery.among} configurations"
    if flattery.draws == "seed":
        chosen += " on the test images that it is scored on"
    if np.isnan(flattery.expected):
        return f"{chosen}, so its score ({score:.2f}) is flattered, and one {word} cannot say by how much"
    return (
        f"{chosen}, so its score ({score:.2f}) is flattered: a choice by all {word}s but one scores "
        f"{flattery.expected:.2f} on that one"
        + ("; what the choice owes to these test images stays in that number" if flattery.draws == "seed" else "")
    )


def _flaws() -> list[str]:
    return [f"what is wrong with the published figures: {'; '.join(FLAWS)}; {' and '.join(UNTRAINED)} left out"]


def _published() -> pd.DataFrame:
    """The published rows of networks that had their weights."""
    rows = with_protocol(published_results())
    return rows[~rows["backbone"].isin(UNTRAINED)].reset_index(drop=True)


def _rows(results: str) -> pd.DataFrame:
    with naming({"store": "results"}):
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


def _near(rows: pd.DataFrame, metrics: Sequence[str], own: Size | None) -> tuple[pd.DataFrame, list[str]]:
    """The rows on the data sets that are most like one's own, where that chooses no worse, and why."""
    if own is None:
        return rows, []
    known = sizes(rows)
    if not known:
        return rows, ["the results do not say how many images and classes they had: all data sets count"]
    names = nearest_half(own, known)
    shown = ", ".join(f"{name} ({known[name][0]:.0f}, {known[name][1]})" for name in names)
    basis = [
        f"your data have {own[0]:.0f} training images per class and {own[1]} classes; nearest in that among the "
        f"results: {shown}"
    ]
    compared = whole(rows, rows)
    table = by_dataset(compared, perturbation_sum(compared, metrics))
    tried = held_out_choices(table, known)
    if tried is None:
        return rows[rows["dataset"].isin(names)], basis
    nearest, every = tried
    helps = nearest > every
    basis.append(
        f"{'only these' if helps else 'all data sets'} count: with each data set held out in turn, a choice by the "
        f"nearest half of the others scores {nearest:.2f} on it, by all others {every:.2f}"
    )
    return (rows[rows["dataset"].isin(names)] if helps else rows), basis


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
    """Configurations that have every data set and seed of their protocol; others are not compared."""
    compared = whole(rows, rows).reset_index(drop=True)
    if compared.empty:
        raise EvidenceError("no configuration has all data sets and seeds of its protocol; finish the benchmark first")
    return compared


def _choices(rows: pd.DataFrame, metrics: Sequence[str], draws: pd.DataFrame, shrunk: Shrunk | None) -> list[Choice]:
    """The configurations of one protocol by the sum of their accuracies.

    Borda would put a network that always says one class above those that attacks reach: its accuracy is at chance, but
    nothing lowers it (the facts of arXiv:2508.14079 show two such).

    Args:
        rows, metrics: the runs, and what is summed.
        draws: scores, a row per configuration (:func:`_table`).
        shrunk: what their means were moved to.
    """
    protocol, epochs = str(rows["protocol"].iloc[0]), int(rows["epochs"].iloc[0])
    table = _table(rows, metrics, "dataset")
    means, single = table.mean(axis=1), table.rank(ascending=False, method="min")
    ranks = pd.DataFrame({"rank": means.rank(ascending=False, method="min"), "low": single.min(axis=1)})
    ranks["high"], score = single.max(axis=1), pd.DataFrame({"low": np.nan, "high": np.nan}, index=table.index)
    if rows["seed"].nunique() > 1:
        drawn = rank_intervals(rows, metrics=metrics, score="sum").set_index([*CONFIGURATION])
        ranks = drawn.loc[table.index, ["rank", "low", "high"]]
        score = drawn.loc[table.index, ["score_low", "score_high"]].set_axis(["low", "high"], axis=1) / table.shape[1]
    moved = _moved(draws, shrunk)
    choices = []
    for key in means.sort_values(ascending=False, kind="stable").index:
        rank = Ranged(*(int(value) for value in ranks.loc[key, ["rank", "low", "high"]]))
        low, high = (float(value) for value in score.loc[key, ["low", "high"]])
        configuration = Configuration(**dict(zip(CONFIGURATION, map(str, key), strict=True)))
        own = Ranged(float(means[key]), low, high)
        choices.append(Choice(configuration, protocol, epochs, own, rank, Ranged(*moved.loc[key]), UNKNOWN))
    return choices


def _moved(draws: pd.DataFrame, shrunk: Shrunk | None) -> pd.DataFrame:
    """The shrunk mean of each configuration, and its interval."""
    if shrunk is None:
        return pd.DataFrame(np.nan, index=draws.index, columns=["value", "low", "high"])
    half = shrunk.width * shrunk.errors
    columns = {"value": shrunk.means, "low": shrunk.means - half, "high": shrunk.means + half}
    return pd.DataFrame(columns, index=draws.index)


def _plain(values: Mapping[str, object]) -> dict[str, object]:
    return {key: None if value != value else value for key, value in values.items()}
