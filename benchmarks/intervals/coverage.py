"""How often the 95 % intervals that Temper prints hold the truth, in simulation; on one core.

``python benchmarks/intervals/coverage.py --repeats 1000`` writes coverage.csv and coverage.svg beside this file.
``--only NAME`` measures one interval again and keeps the rows of the others.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binom, norm, rankdata

from temper.benchmark.analysis import rank_intervals
from temper.margins import intervals
from temper.margins.consistency import TPR, kendall
from temper.margins.intervals import Estimate
from temper.margins.subset import plain_estimate

HERE = Path(__file__).parent
SIZES = (50, 200, 1000)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.5, 0.9, 0.95, 0.98, 0.99)
SLOW = 10  # what draws thousands of times, or sorts many pairs, is measured with so many times fewer repeats
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
    found = [one(rng) for _ in range(repeats)]
    covered = np.mean([each.low <= truth <= each.high for each in found])
    width = float(np.mean([each.high - each.low for each in found]))
    return {
        "interval": name, "case": case, "n": n, "share": share, "repeats": repeats, "coverage": float(covered),
        "width": width,
    }  # fmt: skip


def shares(_: int) -> Iterator[Row]:
    """Robust accuracy and all other shares, without chance: every count weighted by its probability."""
    for n in SIZES:
        counts = np.arange(n + 1)
        for name, ends in (
            ("share", np.array([intervals.exact(int(count), n) for count in counts])),
            ("share, Wilson (before)", np.array([intervals.wilson(count / n, n) for count in counts])),
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

            yield simulated("tau", "normal", n, tau, repeats // SLOW if n > 500 else repeats, tau, one)


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
                count = repeats if n == SIZES[0] else repeats // SLOW
                yield simulated("AUROC", f"{apart:g} apart", n, share, count, truth, one)


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


def subsets(repeats: int) -> Iterator[Row]:
    """Robust accuracy of 2,000 samples from n of them, drawn at random."""
    for n in SIZES:
        for share in SHARES:

            def one(rng: np.random.Generator, n: int = n, share: float = share) -> Estimate:
                drawn = rng.permutation(np.arange(2000) < round(2000 * share))[:n]
                return plain_estimate(drawn, np.zeros(n, dtype=bool), 2000, 2000).test_set

            yield simulated("subset", "test set", n, share, repeats // SLOW, share, one)


def ranks(repeats: int) -> Iterator[Row]:
    """Score of a configuration over seeds (``n``) and 3 data sets; its spread over seeds is .01."""
    for n in (3, 5):

        def one(rng: np.random.Generator, n: int = n) -> Estimate:
            records = [
                {"backbone": name, "objective": "at", "schedule": "fixed", "protocol": "p", "dataset": d, "seed": seed,
                 "clean": 0.5 + 0.01 * rng.normal()}
                for name in ("a", "b") for d in ("x", "y", "z") for seed in range(n)
            ]  # fmt: skip
            found = rank_intervals(pd.DataFrame(records), metrics=["clean"], score="sum")
            first = found[found["backbone"] == "a"].to_dict("records")[0]
            return Estimate(first["score"], first["score_low"], first["score_high"], n)

        yield simulated("score over seeds", "normal", n, 0.5, repeats // SLOW, 1.5, one)


PARTS = {
    "share": shares, "mean": means, "mean margin": margins, "tau": taus, "AUROC": areas,
    "average precision": precisions, "FPR at 95 % TPR": rates, "subset": subsets, "score over seeds": ranks,
}  # fmt: skip


def figure(rows: pd.DataFrame) -> None:
    """The lowest coverage of each interval at each n."""
    import matplotlib.pyplot as plt

    lowest = rows.groupby(["interval", "n"], sort=False)["coverage"].min().unstack("n")
    drawing, axes = plt.subplots(figsize=(8, 4))
    lowest.plot.barh(ax=axes)
    axes.axvline(0.935, color="black", linewidth=1)
    axes.set(xlim=(min(0.85, lowest.min().min() - 0.01), 1), xlabel="lowest coverage over shares and cases", ylabel="")
    drawing.tight_layout()
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
        kept.round(4).to_csv(target, index=False)
    figure(kept)


if __name__ == "__main__":
    main()
