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
from scipy.stats import binom, norm

from temper.benchmark.analysis import rank_intervals
from temper.margins import intervals
from temper.margins.brittleness import Brittleness
from temper.margins.consistency import detection, kendall
from temper.margins.intervals import Estimate
from temper.margins.metrics import BEYOND
from temper.margins.subset import plain_estimate

HERE = Path(__file__).parent
SIZES = (50, 200, 1000)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.5, 0.9, 0.95, 0.98, 0.99)
SLOW = 10  # bootstraps of thousands of draws are measured with so many times fewer repeats
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
    rng = np.random.default_rng([n, int(share * 1000), repeats])
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
    """Mean margin: skewed distances, of a share of the samples."""

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
            for share in (0.1, 0.5, 1.0):

                def one(rng: np.random.Generator, n: int = n, share: float = share, draw: Draw = draw) -> Estimate:
                    values = draw(rng, max(int(n * share), 2), share)
                    return intervals.mean(values, values, bound=BEYOND * values.max())

                yield simulated("mean margin", case, n, share, repeats, float(truth), one)


def taus(repeats: int) -> Iterator[Row]:
    """Kendall's tau of two normal variables; ``share`` is the true tau."""
    for n in SIZES:
        for tau in (0.0, 0.5, 0.9, 0.99):
            rho = np.sin(np.pi / 2 * tau)

            def one(rng: np.random.Generator, n: int = n, rho: float = rho) -> Estimate:
                first, noise = rng.normal(size=(2, n))
                return kendall(first, rho * first + np.sqrt(1 - rho**2) * noise, seed=int(rng.integers(2**31)))

            yield simulated("tau", "normal", n, tau, repeats if n == 50 else repeats // SLOW, tau, one)


def detections(repeats: int) -> Iterator[Row]:
    """AUROC of normal scores a standard deviation apart; ``share`` is that of brittle decisions."""
    truth = float(norm.cdf(1 / np.sqrt(2)))
    for n in SIZES[:2]:
        for share in (0.1, 0.5, 0.9):

            def one(rng: np.random.Generator, n: int = n, share: float = share) -> Estimate:
                brittle = np.arange(n) < round(n * share)
                scores = rng.normal(size=n) - brittle
                return detection(_decisions(brittle), scores, seed=int(rng.integers(2**31))).auroc

            yield simulated("AUROC", "normal", n, share, repeats // SLOW, truth, one)


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


def _decisions(brittle: NDArray[np.bool_]) -> Brittleness:
    ids = np.arange(len(brittle))
    margin = np.where(brittle, 0.0, np.inf)
    return Brittleness(ids, ids, ids, np.zeros(len(ids)), margin, brittle, ~brittle, "simulated")


PARTS = {
    "share": shares, "mean": means, "mean margin": margins, "tau": taus, "AUROC": detections, "subset": subsets,
    "score over seeds": ranks,
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
