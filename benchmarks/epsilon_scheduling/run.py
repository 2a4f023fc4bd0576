"""Does Epsilon-Scheduling cure suboptimal transfer, at a size that fits a CPU? One command:

    python benchmarks/epsilon_scheduling/run.py --data ../shared/data [--out runs/epsilon_scheduling] [--only NAME ...]

CIFAR-10 ResNet-20 (non-robust) fine-tuned on the first 20 classes of CIFAR-100 (5,000 training, 1,000 test images),
Linf 8/255, PGD-5 training, 16 epochs, batch 128, AdamW 2e-3; then APGD-CE with 10 steps at 1/255 ... 8/255. Standard,
fixed, hinge (25 %, 75 %), a short ramp (0, 25 %) and margin (0, 25 %) with three seeds; the grid of (T1, T2) and
epsilon per epoch with one. Finished runs are kept and a stopped one continues. Writes results.csv, history.csv,
table.md and figure.svg beside this file; rows of runs that are not in --out are kept.
"""

import argparse
import logging
import sys
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from runs import CANDIDATES, GRID, METHODS, PER_EPOCH, SEEDS, configuration

from temper.benchmark.analysis import spread_over_seeds
from temper.evaluation.measurement import TABLE
from temper.margins import EvidenceTable
from temper.runs.finetune import finetune
from temper.runs.run import Run

HERE = Path(__file__).parent
EPS = 8 / 255
RADII = [EPS * k / 8 for k in range(1, 9)]
METRICS = ["clean", "robust", "expected", "expected_exact"]
TITLES = {
    "clean": "clean accuracy",
    "robust": "robust accuracy at 8/255",
    "expected": "expected robustness, trapezoid of 9 points",
    "expected_exact": "expected robustness, exact",
}


def jobs() -> list[tuple[str, int]]:
    """(name, seed) of every run, the main comparison first."""
    main = [(name, seed) for seed in SEEDS for name in METHODS | CANDIDATES]
    return main + [(name, SEEDS[0]) for name in GRID | PER_EPOCH]


def measure(run: Run, name: str, seed: int) -> dict[str, object]:
    """A result row from a finished run's evidence: headline figures with intervals, and the accuracy curve."""
    table = EvidenceTable.load(run.folder / TABLE)
    estimates = {
        "clean": table.clean_accuracy(),
        "robust": table.robust_accuracy("Linf", EPS),
        "expected": table.expected_robustness("Linf", EPS, grid=RADII),
        "expected_exact": table.expected_robustness("Linf", EPS),
    }
    row: dict[str, object] = {"run": name, "seed": seed, "n": estimates["clean"].n}
    for metric, estimate in estimates.items():
        row |= {metric: estimate.value, f"{metric}_low": estimate.low, f"{metric}_high": estimate.high}
    curve = table.accuracy_curve("Linf", [0.0, *RADII])
    return row | {f"at_{k}": estimate.value for k, estimate in enumerate(curve)}


def history(run: Run, name: str, seed: int) -> list[dict[str, object]]:
    """The epochs of a run."""
    keys = ("epoch", "eps", "train_loss", "train_accuracy", "validation_accuracy")
    return [{"run": name, "seed": seed} | {key: row[key] for key in keys} for row in run.history()]


def merged(rows: list[dict[str, object]], path: Path, key: list[str]) -> pd.DataFrame:
    """New rows together with those of runs measured elsewhere, which the file already has; written back."""
    frame = pd.DataFrame(rows).round(6)
    if path.exists():
        frame = pd.concat([pd.read_csv(path), frame]).drop_duplicates(key, keep="last")
    order = {job: place for place, job in enumerate(jobs())}
    place = [order[job] for job in zip(frame["run"], frame["seed"], strict=True)]
    frame = frame.iloc[pd.Series(place).argsort(kind="stable")]
    frame.to_csv(path, index=False)
    return frame


def write_table(results: pd.DataFrame, path: Path) -> None:
    """Mean and spread over seeds, and the grid, as Markdown."""
    methods = [*METHODS, *CANDIDATES]
    main = results[results["run"].isin(methods)]
    spread = spread_over_seeds(main, METRICS, ["run"])
    seeds = int(main.groupby("run")["seed"].nunique().min())
    lines = [f"Mean ± standard deviation over {seeds} seeds (n = {int(main['n'].iloc[0])} test images each).", ""]
    lines += ["| | " + " | ".join(TITLES.values()) + " |", "|---" * (len(TITLES) + 1) + "|"]
    for name, row in spread.loc[[name for name in methods if name in spread.index]].iterrows():
        cells = [f"{row[(metric, 'mean')]:.3f} ± {row[(metric, 'std')]:.3f}" for metric in METRICS]
        lines.append(f"| {hinges(str(name))} | " + " | ".join(cells) + " |")
    single = results[(results["seed"] == SEEDS[0]) & ~results["run"].isin(["standard"])]
    lines += ["", "One seed (0), 95 % intervals over test images; T1 and T2 as shares of the training.", ""]
    lines += ["| T1, T2 | " + " | ".join(TITLES.values()) + " |", "|---" * (len(TITLES) + 1) + "|"]
    for _, row in single.iterrows():
        cells = [f"{row[m]:.3f} [{row[f'{m}_low']:.3f}, {row[f'{m}_high']:.3f}]" for m in METRICS]
        lines.append(f"| {hinges(str(row['run']))} | " + " | ".join(cells) + " |")
    path.write_text("\n".join(lines) + "\n")


def hinges(name: str) -> str:
    """How the table calls a run of seed 0."""
    known = {
        "fixed": "0, 0 (fixed)",
        "hinge": "0.25, 0.75 (hinge)",
        "short": "0, 0.25 (short ramp)",
        "margin": "0, 0.25, by each sample's margin (margin)",
        "hinge-per-epoch": "0.25, 0.75, epsilon per epoch",
    }
    return known.get(name) or name.removeprefix("grid-").replace("-", ", ")


def write_figure(results: pd.DataFrame, epochs: pd.DataFrame, path: Path) -> None:
    """Accuracy against epsilon, and clean validation accuracy over training: a line per seed."""
    matplotlib.rcParams["svg.hashsalt"] = "temper"
    figure = Figure(figsize=(10, 4), layout="constrained")
    curve, training = figure.subplots(1, 2)
    for name, colour in zip(METHODS, ("#0072b2", "#d55e00", "#009e73"), strict=True):
        for row in results[results["run"] == name].itertuples():
            style = {"color": colour, "label": name if row.seed == SEEDS[0] else None, "marker": ".", "alpha": 0.8}
            values = [getattr(row, f"at_{k}") for k in range(len(RADII) + 1)]
            curve.plot(range(len(values)), values, **style)
            own = epochs[(epochs["run"] == name) & (epochs["seed"] == row.seed)]
            training.plot(own["epoch"], own["validation_accuracy"], **style)
    curve.set(xlabel="epsilon (n/255, Linf)", ylabel="robust accuracy (1,000 test images)", ylim=(0, 1))
    training.set(xlabel="epoch", ylabel="clean validation accuracy", ylim=(0, 1))
    for axes in (curve, training):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Run what is not finished, then tabulate what is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and networks/")
    parser.add_argument("--out", type=Path, default=Path("runs/epsilon_scheduling"))
    parser.add_argument("--only", nargs="*", help="names of runs; all by default")
    parser.add_argument("--tabulate", action="store_true", help="run nothing, only tabulate finished runs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sys.path.insert(0, str(HERE))
    wanted = [(name, seed) for name, seed in jobs() if not options.only or name in options.only]
    for name, seed in wanted:
        config = configuration(name, seed, options.data.resolve(), options.out)
        if not options.tabulate:
            finetune(config, resume=(Path(config["out"]) / "config.yaml").exists())
    rows, epochs = [], []
    for name, seed in jobs():
        run = Run(options.out / f"{name}-seed{seed}")
        if (run.folder / "run.json").exists() and run.finished:
            rows.append(measure(run, name, seed))
            epochs += history(run, name, seed)
    results = merged(rows, HERE / "results.csv", ["run", "seed"])
    write_table(results, HERE / "table.md")
    write_figure(results, merged(epochs, HERE / "history.csv", ["run", "seed", "epoch"]), HERE / "figure.svg")
    have = set(zip(results["run"], results["seed"], strict=True))
    for name, seed in jobs():
        if (name, seed) not in have:
            print(f"not measured: {name}, seed {seed}")
    print((HERE / "table.md").read_text())


if __name__ == "__main__":
    main()
