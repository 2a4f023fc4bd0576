"""Does the detector keep its promise? Shares of brittle decisions that pass, over many choices of calibration samples:

    python benchmarks/brittleness/detector.py [TABLE.parquet ...]

Each repeat draws calibration samples without replacement, fits a detector at alpha, and looks at how many brittle
decisions among the rest pass. The promise is about the average over repeats: at most alpha. Two synthetic data sets,
one whose logit margin ranks decisions as the input margin does and one whose logit margin says nothing, and tables of
evidence if some are named (suite ``margin``; benchmarks/brittleness/pseudo.py makes some). Writes detector.csv and
detector.svg beside this file.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter
from numpy.typing import NDArray

from temper.core.drawing import STYLE
from temper.margins import EvidenceTable
from temper.margins.decisions import brittleness
from temper.margins.detector import conformal_threshold
from temper.report.figures import run_colour

HERE = Path(__file__).parent
REPEATS = 2000
ALPHAS = (0.02, 0.05, 0.1, 0.2)
CALIBRATION = 400

Decisions = tuple[NDArray[np.float64], NDArray[np.bool_]]  # logit margins, and which decisions are brittle


def synthetic(noise: float, rng: np.random.Generator) -> Decisions:
    """20,000 decisions, about half of them brittle; ``noise`` decides how well the logit margin tells which."""
    margin = rng.exponential(size=20_000)
    return margin * np.exp(noise * rng.normal(size=len(margin))), margin <= np.median(margin)


def measured(path: Path) -> Decisions:
    """Decisions of a table; brittle at the radius where half of them are."""
    table = EvidenceTable.load(path)
    eps = float(np.median(table.frame["upper"]))
    found = brittleness(table, table.norms[0], eps)
    known = ~found.unknown
    return found.logit_margin[known], found.brittle[known]


def simulate(decisions: Decisions, alpha: float, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Share of brittle decisions that pass, and share of all that are flagged, of each repeat."""
    scores, brittle = decisions
    missed, flagged = np.empty(REPEATS), np.empty(REPEATS)
    calibration = min(CALIBRATION, len(scores) // 2)
    for repeat in range(REPEATS):
        order = rng.permutation(len(scores))
        own, rest = order[:calibration], order[calibration:]
        threshold = conformal_threshold(scores[own][brittle[own]], alpha)
        missed[repeat] = (scores[rest][brittle[rest]] > threshold).mean()
        flagged[repeat] = (scores[rest] <= threshold).mean()
    return missed, flagged


def main() -> None:
    """Simulate, tabulate, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", type=Path, nargs="*")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    cases = {"synthetic, consistent": synthetic(0.2, rng), "synthetic, says nothing": synthetic(20.0, rng)}
    cases |= {path.stem: measured(path) for path in options.tables}
    rows = []
    for name, decisions in cases.items():
        for alpha in ALPHAS:
            missed, flagged = simulate(decisions, alpha, rng)
            error = 1.96 * missed.std(ddof=1) / np.sqrt(REPEATS)
            rows.append(
                {
                    "case": name, "n": len(decisions[0]), "brittle": decisions[1].mean(), "alpha": alpha,
                    "repeats": REPEATS, "missed": missed.mean(), "missed low": missed.mean() - error,
                    "missed high": missed.mean() + error, "missed 95th percentile": np.quantile(missed, 0.95),
                    "flagged": flagged.mean(),
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    results = pd.DataFrame(rows).round(5)
    results.to_csv(HERE / "detector.csv", index=False)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot([0, 0.21], [0, 0.21], color="#566471", lw=1, ls=":", label="alpha")
        for index, (case, own) in enumerate(results.groupby("case", sort=False)):
            colour = run_colour(index)
            spread = [own["missed"] - own["missed low"], own["missed high"] - own["missed"]]
            left.errorbar(own["alpha"], own["missed"], yerr=spread, color=colour, marker="o", ms=4, label=str(case))
            right.plot(own["alpha"], own["flagged"], color=colour, marker="o", ms=4)
        left.yaxis.set_major_locator(MultipleLocator(0.05))
        left.set(xlabel="alpha", ylabel="brittle decisions that pass, mean of repeats", ylim=0, xlim=0)
        right.set(xlabel="alpha", ylabel="decisions flagged", ylim=(0, 1.01), xlim=0)
        for axes in (left, right):
            axes.xaxis.set_major_locator(MultipleLocator(0.05))
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        figure.legend(loc="outside lower center", ncols=3)
        figure.savefig(HERE / "detector.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
