"""How often the 95 % intervals that Temper prints hold the truth, in simulation; on one core.

``python benchmarks/intervals/coverage.py --repeats 1000`` writes coverage.csv and coverage.svg beside this file.
``--only NAME`` measures one interval again and keeps the rows of the others.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binom, binomtest, hypergeom, kendalltau, norm, rankdata

from temper.benchmark.analysis import proxy, rank_correlation_interval, rank_intervals
from temper.benchmark.findings import schedule_tests
from temper.corruptions.baseline import ALEXNET
from temper.margins import intervals
from temper.margins.consistency import kendall
from temper.margins.detection import TPR
from temper.margins.intervals import Estimate
from temper.margins.subset import SubsetPlan, plain_estimate

HERE = Path(__file__).parent
SIZES = (50, 200, 1000)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.5, 0.9, 0.95, 0.98, 0.99)
FEW = (0.01, 0.1, 0.5, 0.9, 0.99)
SLOW = 10  # what takes a second or so each is measured with so many times fewer repeats
POPULATION = 2000  # samples that a subset is drawn from
SPREAD = 0.01  # of accuracies over seeds
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73")  # Okabe and Ito
Row = dict[str, object]
Values = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, float], Values]


def simulated(
    name: str,
    case: str,
    n: int,
    share: float,
    repeats: int,
    truth: float,
    one: Callable[[np.random.Generator], Estimate],
) -> Row:
    """Coverage and mean width over repeats, each of which ``one`` draws and estimates."""
    rng = np.random.default_rng([n, int(share * 1000) % 2**32, repeats])
    ends = np.array([(found.low, found.high) for found in (one(rng) for _ in range(repeats))])
    return counted(name, case, n, share, ends, truth)


def counted(
    name: str, case: str, n: int, share: float, ends: Values, truth: "float | NDArray[np.floating[Any]]"
) -> Row:
    """Coverage and mean width of ``ends`` [repeats, ..., 2]; of several numbers, such as ranks, the worst one's."""
    held = (ends[..., 0] <= np.asarray(truth) + 1e-9) & (np.asarray(truth) - 1e-9 <= ends[..., 1])
    return {
        "interval": name, "case": case, "n": n, "share": share, "repeats": len(ends),
        "coverage": float(held.mean(axis=0).min()), "width": float((ends[..., 1] - ends[..., 0]).mean()),
    }  # fmt: skip


def wilson(count: int, n: int) -> tuple[float, float]:
    """Wilson's score interval, for comparison."""
    found = binomtest(count, n).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


def shares(_: int) -> Iterator[Row]:
    """Robust accuracy and all other shares, without chance: every count weighted by its probability."""
    for n in SIZES:
        counts = np.arange(n + 1)
        for name, ends in (
            ("share", np.array([intervals.exact(int(count), n) for count in counts])),
            ("share, Wilson (before)", np.array([wilson(int(count), n) for count in counts])),
        ):
            for share in SHARES:
                chance = binom.pmf(counts, n, share)
                held = (ends[:, 0] <= share) & (share <= ends[:, 1])
                yield {
                    "interval": name, "case": "exact", "n": n, "share": share, "repeats": 0,
                    "coverage": chance[held].sum(), "width": chance @ (ends[:, 1] - ends[:, 0]),
                }  # fmt: skip


def means(repeats: int) -> Iterator[Row]:
    """Expected robustness: samples robust to the end, samples wrong without attack, and margins between."""

    def atoms(rng: np.random.Generator, n: int, share: float) -> Values:
        kind = rng.random(n)
        between = rng.beta(2, 5, n)
        return np.where(kind < share, 1.0, np.where(kind < share + (1 - share) / 2, 0.0, between))

    def graded(rng: np.random.Generator, n: int, share: float) -> Values:
        return rng.beta(2 * share, 2 * (1 - share), n)

    def corrupted(rng: np.random.Generator, n: int, share: float) -> Values:
        return rng.binomial(15, rng.beta(1.5 * share, 1.5 * (1 - share), n)) / 15

    cases = {"atoms": atoms, "graded": graded, "15 corruptions of each image": corrupted}
    for case, draw in cases.items():
        for n in SIZES:
            for share in SHARES:
                truth = share + (1 - share) / 2 * 2 / 7 if case == "atoms" else share

                def one(rng: np.random.Generator, n: int = n, share: float = share, draw: Draw = draw) -> Estimate:
                    values = draw(rng, n, share)
                    return intervals.mean(values, values)

                yield simulated("mean", case, n, share, repeats, truth, one)


def margins(repeats: int) -> Iterator[Row]:
    """Mean margin: skewed distances, known of a share of the samples, of one at least."""

    def exponential(rng: np.random.Generator, n: int, _: float) -> Values:
        return rng.exponential(1, n)

    def narrow(rng: np.random.Generator, n: int, _: float) -> Values:
        return rng.lognormal(0, 0.5, n)

    def wide(rng: np.random.Generator, n: int, _: float) -> Values:
        return rng.lognormal(0, 1, n)

    spreads: dict[str, tuple[Draw, float]] = {
        "exponential": (exponential, 1.0),
        "lognormal 0.5": (narrow, np.exp(0.125)),
        "lognormal 1.0": (wide, np.exp(0.5)),
    }
    for case, (draw, truth) in spreads.items():
        for n in SIZES:
            for share in SHARES:

                def one(rng: np.random.Generator, n: int = n, share: float = share, draw: Draw = draw) -> Estimate:
                    values = draw(rng, max(int(rng.binomial(n, share)), 1), share)
                    return intervals.open_mean(values, values)

                yield simulated("mean margin", case, n, share, repeats, float(truth), one)


def taus(repeats: int) -> Iterator[Row]:
    """Kendall's tau of two normal variables; ``share`` is the true tau."""
    for n in SIZES:
        for tau in (0.01, 0.1, 0.5, 0.9, 0.99, -0.9, -0.99):
            rho = np.sin(np.pi / 2 * tau)

            def one(rng: np.random.Generator, n: int = n, rho: float = rho) -> Estimate:
                first, noise = rng.normal(size=(2, n))
                return kendall(first, rho * first + np.sqrt(1 - rho**2) * noise)

            yield simulated("tau", "normal", n, tau, repeats, tau, one)


def _scores(rng: np.random.Generator, n: int, share: float, apart: float) -> tuple[Values, Values]:
    """Normal scores of brittle decisions, a ``share`` of n and at least one, and of robust ones, ``apart`` above."""
    brittle = min(max(int(rng.binomial(n, share)), 1), n - 1)
    return rng.normal(size=brittle) - apart, rng.normal(size=n - brittle)


def areas(repeats: int) -> Iterator[Row]:
    """AUROC of normal scores one and three standard deviations apart; ``share`` is that of brittle decisions."""
    for apart in (1.0, 3.0):
        for n in SIZES:
            for share in SHARES:

                def one(rng: np.random.Generator, n: int = n, share: float = share, apart: float = apart) -> Estimate:
                    brittle, robust = _scores(rng, n, share, apart)
                    ranks = rankdata(np.concatenate([brittle, robust]))
                    above = 1 - (ranks[: len(brittle)] - rankdata(brittle)) / len(robust)
                    below = (ranks[len(brittle) :] - rankdata(robust)) / len(brittle)
                    return Estimate(float(above.mean()), *intervals.area(above, below), n)

                truth = float(norm.cdf(apart / np.sqrt(2)))
                yield simulated("AUROC", f"{apart:g} apart", n, share, repeats, truth, one)


def precisions(repeats: int) -> Iterator[Row]:
    """Average precision of the same scores, and of scores that say nothing."""
    z = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    for apart in (0.0, 1.0, 3.0):
        for n in SIZES:
            for share in SHARES:

                def one(rng: np.random.Generator, n: int = n, share: float = share, apart: float = apart) -> Estimate:
                    brittle, robust = (np.sort(scores) for scores in _scores(rng, n, share, apart))
                    found = np.arange(1, len(brittle) + 1)
                    value = float((found / (found + np.searchsorted(robust, brittle, "right"))).mean())
                    return Estimate(value, *intervals.average_precision(value, len(brittle), len(robust)), n)

                hits, alarms = share * norm.cdf(z), (1 - share) * norm.cdf(z - apart)
                truth = float((hits / (hits + alarms)).mean())
                yield simulated("average precision", f"{apart:g} apart", n, share, repeats, truth, one)


def rates(repeats: int) -> Iterator[Row]:
    """FPR at 95 % TPR of the same scores."""
    for apart in (1.0, 3.0):
        for n in SIZES:
            for share in SHARES:

                def one(rng: np.random.Generator, n: int = n, share: float = share, apart: float = apart) -> Estimate:
                    low, high = intervals.false_alarms(*_scores(rng, n, share, apart), TPR)
                    return Estimate(low, low, high, n)

                truth = float(norm.cdf(norm.ppf(TPR) - apart))
                yield simulated("FPR at 95 % TPR", f"{apart:g} apart", n, share, repeats, truth, one)


def corruption_errors(repeats: int) -> Iterator[Row]:
    """mCE against AlexNet of 15 corruptions at severity 3; ``share`` is the accuracy, which goes together by image."""
    totals = np.array([errors[3] for errors in ALEXNET.errors.values()])
    for n in SIZES:
        for share in SHARES:

            def one(rng: np.random.Generator, n: int = n, share: float = share) -> Estimate:
                wrong = rng.random((n, len(totals))) < rng.beta(1.5 * (1 - share), 1.5 * share, n)[:, None]
                samples = (wrong / totals).mean(axis=1)
                return intervals.mean(samples, samples, float((1 / totals).mean()))

            truth = (1 - share) * float((1 / totals).mean())
            yield simulated("mCE", "15 corruptions of each image", n, share, repeats, truth, one)


def subsets(_: int) -> Iterator[Row]:
    """Robust accuracy from n samples of a test set, drawn at random, of the test set and of its distribution; without
    chance."""
    for n in SIZES:
        counts = np.arange(n + 1)
        settled = np.zeros(n, dtype=np.bool_)
        found = [plain_estimate(np.arange(n) < count, settled, POPULATION, POPULATION) for count in counts]
        for share in SHARES:
            for case, among, chance in (
                ("test set", [each.test_set for each in found],
                 hypergeom.pmf(counts, POPULATION, round(POPULATION * share), n)),
                ("distribution", [each.distribution for each in found], binom.pmf(counts, n, share)),
            ):  # fmt: skip
                ends = np.array([(each.low, each.high) for each in among])
                held = (ends[:, 0] <= share + 1e-9) & (share - 1e-9 <= ends[:, 1])
                yield {
                    "interval": "subset", "case": case, "n": n, "share": share, "repeats": 0,
                    "coverage": chance[held].sum(), "width": chance @ (ends[:, 1] - ends[:, 0]),
                }  # fmt: skip


def strata(repeats: int) -> Iterator[Row]:
    """Robust accuracy of a test set from n of its samples, drawn by logit margins that say nothing, or much."""
    for slope, case in ((0.0, "margins say nothing"), (3.0, "margins say much")):
        for n, most in zip(SIZES, (repeats, repeats // 2, repeats // SLOW), strict=True):
            for share in SHARES if n == SIZES[0] else FEW:

                def one(rng: np.random.Generator, n: int = n, share: float = share, slope: float = slope) -> Estimate:
                    margins, order = rng.normal(size=POPULATION), rng.logistic(size=POPULATION)
                    robust = rankdata(slope * margins + order) > POPULATION - round(POPULATION * share)
                    correct = np.ones(POPULATION, dtype=np.bool_)
                    plan = SubsetPlan(np.arange(POPULATION), margins, correct, int(rng.integers(2**31)))
                    attacked = 0
                    while attacked < n:
                        drawn = plan.next(n - attacked)
                        plan.observe(drawn, robust[drawn], np.zeros(len(drawn), dtype=np.bool_))
                        attacked += len(drawn)
                    return plan.estimate().test_set

                yield simulated("stratified subset", case, n, share, most, share, one)


def board_means(repeats: int) -> Iterator[Row]:
    """Leaderboard: means over 3 seeds on the same samples, and over data sets; as leaderboard/app.js joins them."""
    for datasets in (1, 3):
        for n in SIZES:
            ends = np.array([intervals.exact(count, n) for count in range(n + 1)])
            for share in SHARES:
                accuracy = norm.cdf(norm.ppf(share) + 0.3 * (np.arange(datasets) - (datasets - 1) / 2))

                def one(
                    rng: np.random.Generator, n: int = n, accuracy: Values = accuracy, ends: Values = ends
                ) -> Estimate:
                    size = (len(accuracy), 1, n)
                    hard = np.sqrt(0.7) * rng.normal(size=size) + np.sqrt(0.3) * rng.normal(size=(len(accuracy), 3, n))
                    counts = (hard < norm.ppf(accuracy)[:, None, None]).sum(axis=-1)
                    values = counts.mean(axis=1) / n
                    low, high = ends[counts].mean(axis=1).T
                    below, above = (float(np.linalg.norm(values - end)) / len(values) for end in (low, high))
                    mean = float(values.mean())
                    return Estimate(mean, mean - below, mean + above, n)

                case = f"3 seeds, {datasets} data sets"
                yield simulated("leaderboard mean", case, n, share, repeats, float(accuracy.mean()), one)


def runs(values: Values, **factors: str) -> pd.DataFrame:
    """Result rows of accuracies [backbones, data sets, seeds]."""
    backbone, dataset, seed = (each.ravel() for each in np.indices(values.shape))
    common = {"objective": "at", "schedule": "fixed", "protocol": "p"} | factors
    return pd.DataFrame(
        {"backbone": np.array([*"abcdefgh"])[backbone], "dataset": dataset.astype(str), "seed": seed}
    ).assign(clean=values.ravel(), **common)


def ranks(repeats: int) -> Iterator[Row]:
    """Ranks and scores of 6 configurations over seeds (``n``) and 3 data sets; the worst of the six.

    Their spread over seeds is .01, of the first .03; ``share`` is by how much neighbours differ in truth.
    """
    for n in (3, 5):
        for score in ("sum", "borda"):
            for gap in (0.0, 0.003, 0.01):
                rng = np.random.default_rng([n, int(gap * 1000)])
                truth, spread = 0.5 + gap * np.arange(6)[::-1], SPREAD * np.array([3, 1, 1, 1, 1, 1])
                found = []
                for _ in range(repeats):
                    values = truth[:, None, None] + spread[:, None, None] * rng.normal(size=(6, 3, n))
                    table = rank_intervals(runs(values), metrics=["clean"], score=score)
                    found.append(table.sort_values("backbone")[["low", "high", "score_low", "score_high"]].to_numpy())
                ends = np.array(found)
                right = np.arange(1.0, 7) if gap else np.ones(6)
                yield counted("rank over seeds", score, n, gap, ends[..., :2], right)
                if score == "sum":
                    yield counted("score over seeds", score, n, gap, ends[..., 2:], 3 * truth)


def sample_ranks(repeats: int) -> Iterator[Row]:
    """Ranks and scores of 4 configurations over ``n`` samples of 2 data sets; ``share`` is the first one's accuracy."""
    for case, apart, seeds in (("alike", 0.0, 1), ("apart", 0.2, 1), ("alike, 3 seeds", 0.0, 3)):
        for n in SIZES if seeds == 1 else SIZES[:1]:
            for share in FEW[::2]:
                rng = np.random.default_rng([n, int(share * 1000), int(apart * 10)])
                accuracy = norm.cdf(norm.ppf(share) - apart * np.arange(4))
                found = []
                for _ in range(repeats if n < SIZES[-1] else repeats // SLOW):
                    hard = np.sqrt(0.7) * rng.normal(size=(1, 2, 1, n))
                    hard = hard + np.sqrt(0.3) * rng.normal(size=(4, 2, seeds, n))
                    right = (hard < norm.ppf(accuracy)[:, None, None, None]).astype(float)
                    rows = runs(right.mean(axis=-1))
                    told = rows.loc[rows.index.repeat(n)].assign(
                        sample=np.tile(np.arange(n), len(rows)), clean=right.ravel()
                    )
                    table = rank_intervals(rows, outcomes=told, metrics=["clean"], score="sum")
                    found.append(table.sort_values("backbone")[["low", "high", "score_low", "score_high"]].to_numpy())
                ends = np.array(found)
                places = np.arange(1.0, 5) if apart else np.ones(4)
                yield counted("rank over samples", case, n, share, ends[..., :2], places)
                yield counted("score over samples", case, n, share, ends[..., 2:], 2 * accuracy)


def rank_correlations(repeats: int) -> Iterator[Row]:
    """Tau between 5 backbones' rankings at two levels, over seeds (``n``) and 3 data sets; ``share`` as for ranks."""
    first, second = np.arange(5)[::-1], np.array([3, 4, 2, 0, 1])
    truth = float(kendalltau(first, second).statistic)
    for n in (3, 5):
        for gap in (0.003, 0.01, 0.03):

            def one(rng: np.random.Generator, n: int = n, gap: float = gap) -> Estimate:
                rows = [
                    runs(0.5 + gap * order[:, None, None] + SPREAD * rng.normal(size=(5, 3, n)), schedule=schedule)
                    for order, schedule in ((first, "fixed"), (second, "hinge"))
                ]
                told = rank_correlation_interval(pd.concat(rows), "schedule", ("fixed", "hinge"), metrics=["clean"])
                found = told.iloc[0]
                return Estimate(float(found["tau"]), float(found["low"]), float(found["high"]), n)

            yield simulated("tau between levels", "5 backbones", n, gap, repeats, truth, one)


def proxies(repeats: int) -> Iterator[Row]:
    """Spearman's and Pearson's correlation of two protocols over n backbones; ``share`` is Pearson's in truth."""
    for n in (4, 8, 16, 50):
        names = [f"b{place}" for place in range(n)]
        for rho in (-0.9, 0.0, 0.5, 0.9, 0.99):
            rng, found = np.random.default_rng([n, int(100 * rho) + 100]), []
            for _ in range(repeats):
                first, noise = rng.normal(size=(2, n))
                scores = {"linear": first, "full": rho * first + np.sqrt(1 - rho**2) * noise}
                scored = pd.concat(
                    pd.DataFrame({"backbone": names, "sum": sums}).assign(
                        objective="all", schedule="all", protocol=name
                    )
                    for name, sums in scores.items()
                )
                told = proxy(scored, "linear", "full").loc["all"]
                found.append([[told[f"{kind}_{end}"] for end in ("low", "high")] for kind in ("pearson", "spearman")])
            ends = np.array(found)
            yield counted("Pearson of protocols", "normal", n, rho, ends[:, 0], rho)
            yield counted("Spearman of protocols", "normal", n, rho, ends[:, 1], 6 / np.pi * np.arcsin(rho / 2))


def comparisons(repeats: int) -> Iterator[Row]:
    """Schedules without any effect: how often no p-value, corrected by Holm, is .05 or less; ``n`` pairs, 3 seeds.

    Backbones and data sets have their own level; ``share`` is the spread over seeds.
    """
    metrics = ["clean", "linf", "l2", "l1", "common"]
    for backbones, datasets in ((4, 1), (4, 2), (8, 3)):
        for spread in (0.01, 0.1):
            rng = np.random.default_rng([backbones, datasets])
            found = []
            for _ in range(repeats):
                levels = rng.normal(size=(backbones, datasets, 1))
                rows = [
                    runs(levels + spread * rng.normal(size=(backbones, datasets, 3)), schedule=schedule)
                    for schedule in ("fixed", "hinge", "linear")
                ]
                table = pd.concat(rows, ignore_index=True)
                for metric in metrics[1:]:
                    table[metric] = table["clean"] + spread * rng.normal(size=len(table))
                found.append((schedule_tests(table, metrics)["holm"].min(), 1.0))
            yield counted("schedules, Holm's p", "no effect", backbones * datasets, spread, np.array(found), 1.0) | {
                "coverage": float((np.array(found)[:, 0] > 0.05).mean()), "width": float("nan"),
            }  # fmt: skip


PARTS = {
    "share": shares, "mean": means, "mCE": corruption_errors, "mean margin": margins, "tau": taus, "AUROC": areas,
    "average precision": precisions, "FPR at 95 % TPR": rates, "subset": subsets, "stratified subset": strata,
    "leaderboard mean": board_means, "rank over seeds": ranks, "rank over samples": sample_ranks,
    "tau between levels": rank_correlations, "protocols": proxies, "schedules": comparisons,
}  # fmt: skip


def figure(rows: pd.DataFrame) -> None:
    """The lowest coverage of each interval: at each number of samples, or over all numbers of seeds and the like."""
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(rows["interval"]))
    drawing, axes = plt.subplots(figsize=(8, 0.32 * len(names) + 1.4), layout="constrained")
    sampled = rows["interval"].isin(rows.loc[rows["n"] == SIZES[1], "interval"])
    kinds = [
        ("seeds, pairs or backbones, a few to 50", rows[~sampled], COLOURS[0]),
        *(
            (f"{n:,} samples", rows[sampled & (rows["n"] == n)], colour)
            for n, colour in zip(SIZES, COLOURS[1:], strict=True)
        ),
    ]
    for place, (label, own, colour) in enumerate(kinds):
        lowest = own.groupby("interval")["coverage"].min()
        heights = [names.index(str(name)) + 0.18 * (place - 2) * (place > 0) for name in lowest.index]
        axes.plot(lowest, heights, "o", color=colour, markersize=5, label=label)
    axes.axvline(0.935, color="black", linewidth=1)
    axes.axvline(0.95, color="black", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="y", color="#0002")
    axes.set_xlabel("lowest coverage over shares and cases; lines at .935 and .95")
    drawing.legend(loc="outside lower center", ncols=4, fontsize=8, handletextpad=0.2)
    drawing.savefig(HERE / "coverage.svg")


def main() -> None:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--only", choices=list(PARTS), action="append")
    arguments = parser.parse_args()
    target = HERE / "coverage.csv"
    kept = pd.read_csv(target) if target.exists() else pd.DataFrame({"interval": []})
    for name in arguments.only or PARTS:
        measured = pd.DataFrame(PARTS[name](arguments.repeats))
        kept = pd.concat([kept[~kept["interval"].isin(measured["interval"])], measured], ignore_index=True)
        kept.astype({"n": int, "repeats": int}).round(4).to_csv(target, index=False)
    figure(kept)


if __name__ == "__main__":
    main()
