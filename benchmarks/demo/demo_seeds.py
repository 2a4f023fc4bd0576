"""Does ``temper demo`` show what it says on every seed? Its three runs on seeds 0 to 4, one command:

    python benchmarks/demo/demo_seeds.py [--out runs/demo] [--seeds 5]

Writes results.csv (a row per run), changes.csv (the paired changes) and table.md beside this file. Started again, it
continues. The settings were chosen on other seeds: demo_settings.py.
"""

import argparse
from pathlib import Path

import pandas as pd

from temper.benchmark.analysis import spread_over_seeds
from temper.cli.demo import WAYS, Compared, compare
from temper.margins import Estimate

HERE = Path(__file__).parent
METRICS = ("clean", "robust", "expected")
POINTS = 0.10  # how much more clean accuracy the schedule is to keep
PROMISES = {
    "fixed epsilon is below standard fine-tuning in clean accuracy, outside the interval": "suffers",
    "the schedule has at least 10 points more clean accuracy than fixed epsilon, its whole interval": "clean",
    "the schedule has the higher expected robustness, outside the interval": "expected",
    "all of these": "all",
    "the schedule is more robust at the full epsilon, outside the interval": "robust_higher",
    "the schedule is less robust at the full epsilon, outside the interval": "robust_lower",
}


def ends(name: str, estimate: Estimate) -> dict[str, float]:
    """An estimate and its interval under three names."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def measured(compared: Compared, seed: int) -> list[dict[str, object]]:
    """A row per run: its figures with their intervals."""
    rows = []
    for way in WAYS:
        row: dict[str, object] = {"seed": seed, "way": way}
        for metric, estimate in zip(METRICS, compared.results[way].values(), strict=True):
            row |= ends(metric, estimate)
        rows.append(row | {"n": next(iter(compared.results[way].values())).n})
    return rows


def changed(compared: Compared, seed: int) -> dict[str, object]:
    """One row: paired changes with their intervals, and which promises hold."""
    loss, gain = compared.loss.clean, compared.gain
    held = {"suffers": loss.low > 0, "clean": gain.clean.low >= POINTS, "expected": gain.expected.low > 0}
    held |= {"all": all(held.values()), "robust_higher": gain.robust.low > 0, "robust_lower": gain.robust.high < 0}
    row: dict[str, object] = {"seed": seed, **ends("severity", loss)}
    for metric in METRICS:
        row |= ends(metric, getattr(gain, metric))
    return row | {f"holds_{name}": holds for name, holds in held.items()}


def table(results: pd.DataFrame, changes: pd.DataFrame) -> str:
    """Markdown: on how many seeds each promise holds, the figures of METRICS by seed, and the paired changes."""
    lines = ["| | seeds |", "|---|---|"]
    for words, name in PROMISES.items():
        lines.append(f"| {words} | {int(changes[f'holds_{name}'].sum())} of {len(changes)} |")
    lines += ["", f"| seed | {' | '.join(WAYS)} | scheduled - fixed, points |", "|---" * (len(WAYS) + 2) + "|"]
    for seed, row in changes.set_index("seed").iterrows():
        figures = results[results["seed"] == seed].set_index("way")
        cells = [" / ".join(f"{figures[metric][way]:.3f}" for metric in METRICS) for way in WAYS]
        gains = " / ".join(f"{points(row[m])} [{points(row[f'{m}_low'])}, {points(row[f'{m}_high'])}]" for m in METRICS)
        lines.append(f"| {seed} | {' | '.join(cells)} | {gains} |")
    spread = spread_over_seeds(results, METRICS, ["way"])
    means, deviations = spread.xs("mean", axis=1, level=1), spread.xs("std", axis=1, level=1)
    cells = [" / ".join(f"{means[m][way]:.3f} ± {deviations[m][way]:.3f}" for m in METRICS) for way in WAYS]
    lines.append(f"| mean ± sd | {' | '.join(cells)} | {' / '.join(points(changes[m].mean()) for m in METRICS)} |")
    return "\n".join(lines) + "\n"


def points(share: float) -> str:
    """A difference of shares in points."""
    return f"{100 * share:+.1f}"


def main() -> None:
    """Run what is not finished, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    found = {seed: compare(options.out / f"seed{seed}", seed) for seed in range(options.seeds)}
    results = pd.DataFrame([row for seed, compared in found.items() for row in measured(compared, seed)])
    changes = pd.DataFrame([changed(compared, seed) for seed, compared in found.items()])
    results.round(6).to_csv(HERE / "results.csv", index=False)
    changes.round(6).to_csv(HERE / "changes.csv", index=False)
    text = table(results, changes)
    (HERE / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
