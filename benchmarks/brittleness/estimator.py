"""Robust accuracy from few attacks: error, interval and cost of four estimators, over repeated draws.

    python benchmarks/brittleness/estimator.py [MARGINS.parquet ...] [--threat Linf:8/255] [--repeats N] [--out DIR]

Simulated test sets have 10,000 samples, 8,500 of them correct. Logit and input margins of the correct ones come from a
Gaussian copula with the Kendall tau asked for (rho = sin(pi tau / 2)); in "outliers", 3 % have input margins that have
nothing to do with their logit margins. Every repeat draws a new test set, so both intervals can be checked: that of the
test set and that of its distribution. Evidence tables that are given are fixed test sets, drawn from repeatedly.
500 repeats of the simulations take seven minutes on one core.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray
from paper_estimators import naive_estimate, paper_estimate
from scipy.stats import norm

from temper.core.drawing import PALETTE, STYLE
from temper.margins.decisions import brittleness
from temper.margins.subset import SubsetEstimate, SubsetPlan, plain_estimate
from temper.margins.table import EvidenceTable
from temper.threat import parse_threats

SAMPLES, CORRECT, OUTLIERS = 10_000, 8_500, 0.03
SIZES = (200, 500, 1000)
PRECISIONS = (0.02, 0.01)
METHODS = ("ours", "plain", "paper", "paper, fixed 95 %")
COLOURS = dict(zip(METHODS, PALETTE, strict=False))
LINES: dict[str, Any] = dict(zip(METHODS, ("-", "--", "-", "--"), strict=True))


@dataclass(frozen=True)
class TestSet:
    """A fully attacked test set: one entry per sample, and the share behind it where that is known."""

    logit_margin: NDArray[np.float64]
    correct: NDArray[np.bool_]
    brittle: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
    behind: float = float("nan")

    @property
    def robust(self) -> NDArray[np.bool_]:
        return self.correct & ~self.brittle & ~self.unknown


@dataclass(frozen=True)
class Scenario:
    name: str
    draw: Callable[[np.random.Generator], TestSet]
    tau: float = float("nan")
    robust_share: float = float("nan")


@dataclass(frozen=True)
class Result:
    """One estimate beside the truth; half widths and coverage are nan where there is no interval."""

    method: str
    rule: str
    attacks: int
    error: float
    half_width: float = float("nan")
    covered: float = float("nan")
    distribution_half_width: float = float("nan")
    distribution_covered: float = float("nan")


# --- test sets ------------------------------------------------------------------------------------


def simulated(tau: float, robust_share: float, outliers: float = 0.0) -> Callable[[np.random.Generator], TestSet]:
    """Draws of test sets whose correct samples have this Kendall tau and are robust with this probability."""
    rho = np.sin(np.pi * tau / 2)
    radius = norm.ppf(1 - robust_share)

    def draw(rng: np.random.Generator) -> TestSet:
        correct = rng.random(SAMPLES) < CORRECT / SAMPLES
        # Wrong decisions are less sure, as they are in real models; only the paper's rule looks at them.
        score = rng.standard_normal(SAMPLES) - ~correct
        noise = rng.standard_normal(SAMPLES)
        apart = rng.random(SAMPLES) < outliers
        margin = np.where(apart, noise, rho * score + np.sqrt(1 - rho**2) * noise)
        nothing = np.zeros(SAMPLES, dtype=np.bool_)
        return TestSet(score, correct, margin <= radius, nothing, robust_share * CORRECT / SAMPLES)

    return draw


def scenarios() -> Iterator[Scenario]:
    for tau in (0.85, 0.5, 0.0):
        for share in (0.1, 0.5, 0.9):
            yield Scenario(f"tau {tau:g}", simulated(tau, share), tau, share)
    for share in (0.5, 0.9):
        yield Scenario("tau 0.85, 3 % outliers", simulated(0.85, share, OUTLIERS), 0.85, share)


def measured(path: Path, threats: Sequence[str]) -> Iterator[Scenario]:
    """A fully attacked table, at each threat that it has evidence for."""
    table = EvidenceTable.load(path)
    for threat in parse_threats(threats):
        if threat.norm in table.norms:
            found = brittleness(table, threat.norm, threat.eps)
            labels = table.frame.drop_duplicates("sample").sort_values("sample")["label"].to_numpy(np.int64)
            fixed = TestSet(found.logit_margin, labels == found.prediction, found.brittle, found.unknown)
            yield Scenario(f"{path.parent.name}/{path.stem} {threat}", partial(_same, fixed))


def _same(fixed: TestSet, _: np.random.Generator) -> TestSet:
    return fixed


# --- estimators -----------------------------------------------------------------------------------


def judged(method: str, rule: str, found: SubsetEstimate, truth: TestSet) -> Result:
    """An estimate against the test set and what is behind it; what is unknown there must lie within, both ways."""
    least, most = truth.robust.mean(), (truth.robust | truth.correct & truth.unknown).mean()
    own, wide = found.test_set, found.distribution
    slack = 1e-12
    return Result(
        method=method,
        rule=rule,
        attacks=found.attacked,
        error=own.value - least,
        half_width=found.half_width,
        covered=float(own.low - slack <= least and most <= own.high + slack),
        distribution_half_width=(wide.high - wide.low) / 2,
        distribution_covered=float(wide.low <= truth.behind <= wide.high) if truth.behind >= 0 else float("nan"),
    )


def ours(truth: TestSet, seed: int) -> Iterator[Result]:
    ids = np.arange(len(truth.correct))
    plan = SubsetPlan(ids, truth.logit_margin, truth.correct, seed)
    sizes = [size for size in SIZES if size <= truth.correct.sum()]
    precisions = list(PRECISIONS)
    robust, unknown = truth.robust, truth.correct & truth.unknown
    attacked = 0
    while sizes or precisions:
        chosen = plan.next(sizes[0] - attacked if sizes else len(ids))
        plan.observe(chosen, robust[chosen], unknown[chosen])
        attacked += len(chosen)
        while sizes and attacked == sizes[0]:
            yield judged("ours", f"n = {sizes.pop(0)}", plan.estimate(), truth)
        while precisions and plan.done(precisions[0]):
            yield judged("ours", f"+-{precisions.pop(0):g}", plan.estimate(), truth)


def plain(truth: TestSet, seed: int) -> Iterator[Result]:
    order = np.random.default_rng(seed).permutation(np.flatnonzero(truth.correct))
    robust, unknown = truth.robust[order], truth.unknown[order]
    total = len(truth.correct)

    def at(n: int) -> SubsetEstimate:
        return plain_estimate(robust[:n], unknown[:n], len(order), total)

    for size in SIZES:
        if size <= len(order):
            yield judged("plain", f"n = {size}", at(size), truth)
    n = 100
    for precision in PRECISIONS:
        # A look after every tenth more, as in ours; the exact interval only where a rough one is near.
        while n < len(order):
            share = np.clip(robust[:n].mean(), 1 / n, 1 - 1 / n)
            rough = 1.96 * np.sqrt(share * (1 - share) / n * (1 - n / len(order))) * len(order) / total
            if rough <= precision and at(n).half_width <= precision:
                break
            n = min(int(np.ceil(n * 1.1)), len(order))
        yield judged("plain", f"+-{precision:g}", at(min(n, len(order))), truth)


def paper(truth: TestSet, seed: int) -> Iterator[Result]:
    rng = np.random.default_rng(seed)
    settled = rng.permutation(np.flatnonzero(~truth.unknown))
    for size in SIZES:
        if size <= len(settled):
            drawn = settled[:size]
            for method, estimate in (("paper", paper_estimate), ("paper, fixed 95 %", naive_estimate)):
                value = estimate(truth.logit_margin, truth.correct, drawn, truth.brittle[drawn]).value
                yield Result(method, f"n = {size}", size, value - truth.robust.mean())


def repeated(scenario: Scenario, repeats: int) -> pd.DataFrame:
    """Figures of every estimator and rule: a row each."""
    rows: list[Result] = []
    correct, samples = 0, 0
    for seed in range(repeats):
        truth = scenario.draw(np.random.default_rng([seed, 1]))
        correct, samples = correct + int(truth.correct.sum()), len(truth.correct)
        rows += [*ours(truth, seed), *plain(truth, seed), *paper(truth, seed)]
    grouped = pd.DataFrame(rows).groupby(["method", "rule"], sort=False)
    mean = grouped[["half_width", "covered", "distribution_half_width", "distribution_covered"]].mean()
    found = pd.DataFrame(
        {
            "attacks": grouped["attacks"].mean(),
            "attacks_90th": grouped["attacks"].quantile(0.9),
            "of_full": grouped["attacks"].mean() / (correct / repeats),
            "bias": grouped["error"].mean(),
            "rmse": grouped["error"].apply(lambda error: float(np.sqrt((error**2).mean()))),
            "half_width": mean["half_width"],
            "coverage": mean["covered"],
            "coverage_se": np.sqrt(mean["covered"] * (1 - mean["covered"]) / repeats),
            "distribution_half_width": mean["distribution_half_width"],
            "distribution_coverage": mean["distribution_covered"],
        }
    ).reset_index()
    about: dict[str, Any] = {"data": scenario.name, "tau": scenario.tau, "robust_share": scenario.robust_share}
    about |= {"samples": samples, "correct": round(correct / repeats), "repeats": repeats}
    return found.assign(**about)[[*about, *found.columns]]


# --- the figure -----------------------------------------------------------------------------------


@matplotlib.rc_context(STYLE)
def figure(results: pd.DataFrame) -> Figure:
    """Error and half width, where half of the correct samples are robust, and coverage: against attacks, one column
    per consistency."""
    simulated_rows = results[results["tau"].notna() & ~results["data"].str.contains("outliers")]
    fixed = simulated_rows[simulated_rows["rule"].str.startswith("n")]
    taus = sorted(fixed["tau"].unique(), reverse=True)
    drawn = Figure(figsize=(8.4, 7.2), layout="constrained")
    grid = drawn.subplots(3, len(taus), sharex=True, sharey="row", height_ratios=(1, 1, 0.9))
    words = {0.85: "as robust CIFAR models", 0.5: "weak", 0.0: "none"}
    for column, tau in enumerate(taus):
        own = fixed[fixed["tau"] == tau]
        grid[0, column].set_title(f"margin consistency {tau:g}\n({words[tau]})", fontsize=9)
        for method in METHODS:
            rows = own[(own["method"] == method) & (own["robust_share"] == 0.5)]
            style: dict[str, Any] = {
                "color": COLOURS[method],
                "linestyle": LINES[method],
                "marker": "o",
                "markersize": 4,
            }
            grid[0, column].plot(rows["attacks"], rows["rmse"], **style)
            grid[1, column].plot(rows["attacks"], rows["half_width"], **style)
        _coverage(grid[2, column], own)
        grid[1, column].axhline(0.01, color="#566471", linewidth=0.9, linestyle=(0, (1, 1.5)))
        grid[2, column].set_xlabel("attacks")
    for axes in grid.flat:
        axes.set_xscale("log")
        axes.set_xlim(160, 1250)
        axes.xaxis.set_major_locator(FixedLocator(SIZES))
        axes.xaxis.set_major_formatter(FixedFormatter([str(size) for size in SIZES]))
        axes.xaxis.set_minor_locator(NullLocator())
    for row, (label, ticks) in enumerate(
        [
            ("error (RMSE), points\n(half are robust)", (0.003, 0.01, 0.03, 0.1, 0.3)),
            ("half width of 95 % interval,\npoints (half are robust)", (0.01, 0.02, 0.04)),
        ]
    ):
        grid[row, 0].set_ylabel(label)
        grid[row, 0].set_yscale("log")
        grid[row, 0].yaxis.set_major_locator(FixedLocator(ticks))
        grid[row, 0].yaxis.set_major_formatter(FixedFormatter([f"{100 * tick:g}" for tick in ticks]))
        grid[row, 0].yaxis.set_minor_locator(NullLocator())
    grid[2, 0].set_ylabel("coverage of\nthe interval")
    grid[2, 0].set_ylim(0.89, 1.005)
    grid[2, 0].yaxis.set_major_formatter(PercentFormatter(1, 0))
    colours = [
        Line2D([], [], color=COLOURS[method], linestyle=LINES[method], marker="o", markersize=4, label=method)
        for method in METHODS
    ]
    drawn.legend(handles=colours, loc="outside lower center", ncols=4)
    return drawn


def _coverage(axes: Axes, own: pd.DataFrame) -> None:
    """Coverage with two standard errors of the simulation, robust shares of .1, .5 and .9 side by side."""
    axes.axhspan(0.93, 0.97, color="#dde3e8", alpha=0.6, linewidth=0)
    axes.axhline(0.95, color="#566471", linewidth=0.9)
    for method, side in (("ours", -1), ("plain", 1)):
        for share, marker in ((0.1, "v"), (0.5, "o"), (0.9, "^")):
            rows = own[(own["method"] == method) & (own["robust_share"] == share)]
            place = rows["attacks"] * np.exp(0.09 * side + 0.05 * (share - 0.5) / 0.4)
            style: dict[str, Any] = {"color": COLOURS[method], "marker": marker, "markersize": 4, "elinewidth": 1}
            axes.errorbar(place, rows["coverage"], yerr=2 * rows["coverage_se"], linestyle="", **style)
    if own["tau"].iloc[0] == 0.85:
        marks = ((".1", "v"), (".5", "o"), (".9", "^"))
        handles = [Line2D([], [], color="#1c2630", linestyle="", marker=m, markersize=4, label=s) for s, m in marks]
        axes.legend(
            handles=handles,
            loc="lower left",
            ncols=3,
            title="robust share of the correct",
            title_fontsize=8,
            fontsize=8,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", type=Path, help="fully attacked evidence tables")
    parser.add_argument("--threat", action="append", help="for the tables; default Linf:8/255")
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    threats = arguments.threat or ["Linf:8/255"]
    real = [scenario for path in arguments.tables for scenario in measured(path, threats)]
    parts: list[pd.DataFrame] = []
    for scenario in [*scenarios(), *real]:
        parts.append(repeated(scenario, arguments.repeats))
        shown = ["method", "rule", "attacks", "of_full", "bias", "rmse", "half_width", "coverage"]
        print(f"\n{scenario.name}, robust share {scenario.robust_share:g}")
        print(parts[-1][shown].round(4).to_string(index=False), flush=True)
    results = pd.concat(parts, ignore_index=True)
    results.round(6).to_csv(arguments.out / "estimator.csv", index=False)
    figure(results).savefig(arguments.out / "estimator.png", dpi=160)


if __name__ == "__main__":
    main()
