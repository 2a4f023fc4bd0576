"""What the study's rows say, in sentences and tables: pure functions from rows; nothing is said that no row supports.

Rows are those of :func:`committed_rows.store_rows`, with the severity of each beside its standard fine-tuning.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from study_cells import COMPARED, EPSILONS, EVERYWHERE

from temper.benchmark.analysis import rank_correlation_interval, rank_intervals, spread_over_seeds
from temper.benchmark.findings import schedule_tests

METRICS = ("clean", "linf", "expected", "l2", "l1", "common", "tau")
BESIDE = ("severity", "delay")
SCORED = ("clean", "linf", "l2", "l1", "common")
HEADS = {
    "clean": "clean", "linf": "at eps", "expected": "expected", "l2": "L2 0.57", "l1": "L1 6.1", "common": "common",
    "tau": "τ", "severity": "severity, points", "delay": "delay, epochs",
}  # fmt: skip
PAIR = ["backbone", "dataset"]
FAILED = 0.05  # clean accuracy below this is the paper's example of a transfer that failed (section 3)
PLACE = ["backbone", "dataset", "objective", "schedule"]


def mean_table(rows: pd.DataFrame) -> Iterator[str]:
    """Mean and standard deviation over seeds of everything measured, a line per cell without its seed, as Markdown."""
    shown = [name for name in (*METRICS, *BESIDE) if name in rows]
    columns = {name: spreads(rows, name) for name in shown}
    yield "| backbone | data | trained by | seeds | " + " | ".join(HEADS[name] for name in shown) + " |"
    yield "|---" * (4 + len(shown)) + "|"
    for place, own in rows.groupby(PLACE, sort=False):
        backbone, dataset, objective, schedule = place
        numbers = [columns[name].get(place, "–") for name in shown]
        method = objective if objective == "standard" else schedule
        yield f"| {backbone} | {dataset} | {method} | {own['seed'].nunique()} | " + " | ".join(numbers) + " |"


def spreads(rows: pd.DataFrame, name: str) -> dict[object, str]:
    """Mean ± standard deviation over seeds, by place; no standard deviation of a single seed."""
    scale, digits = {"tau": (1.0, 2), "delay": (1.0, 1)}.get(name, (100.0, 1))
    spread = spread_over_seeds(rows.dropna(subset=[name]), [name], PLACE)[name] * scale
    words = {}
    for place, mean, deviation in zip(spread.index, spread["mean"], spread["std"], strict=True):
        words[place] = f"{mean:.{digits}f}" + ("" if np.isnan(deviation) else f" ± {deviation:.{digits}f}")
    return words


def differences(rows: pd.DataFrame, treatment: str, baseline: str = "fixed") -> pd.DataFrame:
    """Treatment minus baseline in clean accuracy, at eps and in expected robustness, pair by pair (a backbone on a data
    set at an epsilon), averaged over the seeds that have both."""
    wide = _with_both(rows, treatment, baseline).pivot(
        index=["eps", *PAIR, "seed"], columns="schedule", values=["clean", "linf", "expected"]
    )
    if wide.empty:
        return pd.DataFrame(columns=["eps", *PAIR, "clean", "linf", "expected", "seeds"])
    of = {name: pd.DataFrame(wide.xs(name, axis=1, level="schedule")).astype(float) for name in (treatment, baseline)}
    by_pair = (of[treatment] - of[baseline]).groupby(level=["eps", *PAIR], sort=False)
    return by_pair.mean().assign(seeds=by_pair["clean"].count()).reset_index()


def _with_both(rows: pd.DataFrame, treatment: str, baseline: str) -> pd.DataFrame:
    """The rows of two schedules, of the seeds that have both."""
    own = rows[(rows["objective"] == "at") & rows["schedule"].isin([treatment, baseline])]
    return own[own.groupby(["eps", *PAIR, "seed"])["schedule"].transform("nunique") == 2]


def fails(rows: pd.DataFrame) -> str:
    """Does fixed epsilon fail here?"""
    fixed = rows[(rows["objective"] == "at") & (rows["schedule"] == "fixed")].dropna(subset=["severity"])
    if fixed.empty:
        return "Not measured yet: no fixed run stands beside its standard fine-tuning."
    said = []
    for eps, own in fixed.groupby("eps", sort=True):
        pairs = own.groupby(PAIR, sort=False)[["clean", "severity"]].mean()
        lost = pairs["severity"] * 100
        said.append(
            f"at {eps}/255 clean accuracy lies {lost.mean():.1f} points below standard fine-tuning on average over "
            f"{_count(len(pairs), 'pair')} of backbone and data ({lost.min():.1f} to {lost.max():.1f}), and is below "
            f"{FAILED:.0%}, the paper's example of a transfer that failed, in {(pairs['clean'] < FAILED).sum()} of them"
        )
    return _sentence("; ".join(said))


def onset(rows: pd.DataFrame, backbone: str, dataset: str) -> str:
    """From which epsilon on? The severity of one backbone on one data set at every epsilon."""
    own = rows[(rows["objective"] == "at") & (rows["backbone"] == backbone) & (rows["dataset"] == dataset)]
    own = own[own["schedule"].isin(COMPARED)].dropna(subset=["severity"])
    if own.empty:
        return "Not measured yet."
    said = [
        f"{schedule} {eps}/255: {next(iter(spreads(cell, 'severity').values()))} ({_count(len(cell), 'seed')})"
        for (eps, schedule), cell in own.groupby(["eps", "schedule"], sort=True)
    ]
    missing = sorted({*EPSILONS} - set(own["eps"]))
    left = f" Not measured yet: {', '.join(f'{eps}/255' for eps in missing)}." if missing else ""
    return f"Severity in points, {backbone} on {dataset}: {'; '.join(said)}.{left}"


def cure(rows: pd.DataFrame) -> str:
    """Does the schedule cure it? Gains in clean accuracy and expected robustness, and the share of what was lost."""
    gains = differences(rows, "hinge")
    if gains.empty:
        return "Not measured yet: no pair has both schedules."
    fixed = _with_both(rows, "hinge", "fixed").query("schedule == 'fixed'")  # gains and loss are of the same seeds
    lost = fixed.groupby(["eps", *PAIR])["severity"].agg(lambda seeds: seeds.mean(skipna=False))
    said = []
    for eps, own in gains.groupby("eps", sort=True):
        severity = lost.reindex(pd.MultiIndex.from_frame(own[["eps", *PAIR]])).to_numpy(float)
        known = ~np.isnan(severity)
        suffered = severity[known].sum()
        regained = own["clean"].to_numpy()[known].sum() / suffered if suffered > 0 else None
        share = "" if regained is None else f" ({regained:.0%} of what fixed epsilon lost)"
        said.append(
            f"at {eps}/255 hinge has {100 * own['clean'].mean():+.1f} points of clean accuracy{share} and "
            f"{100 * own['expected'].mean():+.1f} of expected robustness, on average over {_count(len(own), 'pair')}"
        )
    return _sentence("; ".join(said))


def price(rows: pd.DataFrame) -> str:
    """What does it cost at the full eps?"""
    gains = differences(rows, "hinge")
    if gains.empty:
        return "Not measured yet: no pair has both schedules."
    said = [
        f"at {eps}/255 robust accuracy at the full epsilon changes by {100 * own['linf'].mean():+.1f} points on "
        f"average over {_count(len(own), 'pair')} ({100 * own['linf'].min():+.1f} to {100 * own['linf'].max():+.1f})"
        for eps, own in gains.groupby("eps", sort=True)
    ]
    return _sentence("; ".join(said))


def statements(rows: pd.DataFrame) -> str:
    """Which of the paper's counts hold: pairs in which the schedule is higher."""
    gains = differences(rows, "hinge")
    gains = gains[gains["eps"].isin(EVERYWHERE)]
    if gains.empty:
        return "Not measured yet."
    said = []
    for eps, own in gains.groupby("eps", sort=True):
        counts = [_higher(own[name], words) for name, words in _PAPER.items()]
        said.append(f"at {eps}/255 the schedule is higher in {', '.join(counts)}")
    return _sentence("; ".join(said)) + " The paper, at 8/255: 30 of 30, 30 of 30 and 27 of 30."


def _higher(gains: pd.Series, words: str) -> str:
    """In how many pairs a metric is higher, and in how many it is just the same, as where no image is left robust."""
    equal = (gains == 0).sum()
    return f"{(gains > 0).sum()} of {len(gains)} {words}" + (f" (equal in {equal})" if equal else "")


_PAPER = {"clean": "in clean accuracy", "expected": "in expected robustness", "linf": "at the full epsilon"}


def ranking(rows: pd.DataFrame) -> str:
    """Does the ranking of backbones change with the schedule? Kendall's tau, over what is complete."""
    said = []
    for eps, own in rows[rows["objective"] == "at"].groupby("eps", sort=True):
        own = complete(own[own["schedule"].isin(COMPARED)], 2)
        if own["backbone"].nunique() < 3 or own["seed"].nunique() < 2:
            continue
        found = rank_correlation_interval(own, "schedule", COMPARED, metrics=SCORED).iloc[0]
        said.append(
            f"at {eps}/255 Kendall's tau between the rankings of {found['n']} backbones under fixed and scheduled "
            f"epsilon is {found['tau']:.2f} (95 % interval over seeds {found['low']:.2f} to {found['high']:.2f})"
        )
    return _sentence("; ".join(said)) if said else "Not to be told yet: that takes two seeds of all three backbones."


def complete(rows: pd.DataFrame, schedules: int) -> pd.DataFrame:
    """The rows of the seeds that have every backbone and data set that are in the rows, under so many schedules."""
    places = rows[PAIR].drop_duplicates()
    counts = rows.groupby("seed")["clean"].transform("size")
    return rows[counts == len(places) * schedules]


def test_table(rows: pd.DataFrame) -> Iterator[str]:
    """Paired t-tests of every schedule against fixed epsilon, as Markdown; a sentence where there are too few pairs."""
    attacked = rows[rows["objective"] == "at"]
    # A test is made protocol by protocol; here that is epsilon by epsilon.
    tests = schedule_tests(attacked.assign(protocol=[f"{eps}/255" for eps in attacked["eps"]]), METRICS)
    if tests.empty:
        yield "No test yet: it takes four pairs of a backbone and a data set with both schedules."
        return
    yield "| schedule, epsilon | metric | mean difference | higher / lower of pairs | t | p | p by Holm |"
    yield "|---|---|---|---|---|---|---|"
    for _, row in tests.iterrows():
        scale, unit = (1, "") if row["metric"] == "tau" else (100, " points")
        cells = [
            f"{row['schedule']}, {row['protocol']}",
            row["metric"],
            f"{row['mean_difference'] * scale:+.2f}{unit}",
            f"{row['wins']} / {row['losses']} of {row['n']}",
            _number(row["t"], ".2f"),
            _number(row["p"], ".2g"),
            _number(row["holm"], ".2g"),
        ]
        yield f"| {' | '.join(cells)} |"


def leaderboard(rows: pd.DataFrame, outcomes: pd.DataFrame) -> Iterator[str]:
    """Configurations ranked by Borda points over both data sets, with the intervals of their ranks, as Markdown."""
    ranked = rank_intervals(rows, outcomes=outcomes, metrics=SCORED)
    yield "| rank | 95 % | backbone | trained by | Borda points |"
    yield "|---|---|---|---|---|"
    for _, row in ranked.iterrows():
        method = "standard" if row["objective"] == "standard" else row["schedule"]
        place = f"{row['rank']} | {row['low']:.0f} to {row['high']:.0f}"
        yield f"| {place} | {row['backbone']} | {method} | {row['score']:.0f} |"


def _number(value: float, form: str) -> str:
    """A statistic; "–" where all differences are equal and there is none."""
    return "–" if np.isnan(value) else f"{value:{form}}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
