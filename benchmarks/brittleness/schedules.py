"""Is a model that was fine-tuned with scheduled epsilon as margin consistent as one with fixed epsilon, and does its
detector stand up to an attacker as well? One command, which goes on where it was stopped:

    python benchmarks/brittleness/schedules.py --data ../shared/data [--runs FOLDER] [--out runs/brittleness]

The runs are those of benchmarks/epsilon_scheduling (in runs/epsilon_scheduling: ResNet-20, CIFAR-10 to 20 classes of
CIFAR-100, Linf 8/255), as many of them as are there. For each: input margins of 1,000 test images (suite ``margin``),
their rank correlation with the scores, detection at three radii, and attacks on the detectors of a second measurement
with 300 images. Writes schedules.csv, attacks.csv and schedules.svg beside this file.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from temper.core.drawing import STYLE
from temper.errors import EvidenceError
from temper.evaluation.measurement import TABLE
from temper.margins import EvidenceTable
from temper.margins.decisions import brittleness
from temper.margins.detection import detection
from temper.report.brittleness_figures import tau_bars
from temper.runs.brittleness import SCORES
from temper.runs.margins import margins_into

HERE = Path(__file__).parent
RADII = (2 / 255, 4 / 255, 8 / 255)
MEASURED, ATTACKED = 1000, 300
NAMES = {
    "standard": "not robust",
    "fixed": "fixed",
    "hinge": "hinge 25-75 %",
    "grid-0-0.25": "hinge 0-25 %",
}
COMPARED = ("logit_margin", "feature_margin")


def rows(name: str, seed: str, summary: dict[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    """A row per score and radius."""
    table, scores = EvidenceTable.load(folder / TABLE), pd.read_parquet(folder / SCORES)
    for score in COMPARED:
        tau = summary["consistency"][score]["tau"]
        for eps in RADII:
            found = brittleness(table, "Linf", eps)
            row = {"run": name, "seed": seed, "score": score, "n": tau["n"], "unknown": tau["unknown"]}
            row |= {"tau": tau["value"], "tau low": tau["low"], "tau high": tau["high"], "eps": eps}
            row |= {"clean accuracy": table.clean_accuracy().value, "brittle": float(found.brittle.mean())}
            try:
                quality = detection(found, scores[score].to_numpy())
            except EvidenceError:  # all brittle, or none: the columns stay empty
                yield row
                continue
            for key, each in (("auroc", quality.auroc), ("aupr", quality.aupr), ("fpr95", quality.fpr_at_95_tpr)):
                row |= {key: each.value, f"{key} low": each.low, f"{key} high": each.high} if each else {}
            yield row


def attacks(name: str, seed: str, summary: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A row per detector: shares with the ends of their intervals."""
    for score, found in summary["adaptive"].items():
        if score == "refused":
            continue
        row = {"run": name, "seed": seed, "score": score, "threshold": found["threshold"]}
        for key in ("missed", "flagged", "plain_missed", "evaded", "raised"):
            each = found[key] or {}
            row |= {key: each.get("value"), f"{key} low": each.get("low"), f"{key} high": each.get("high")}
            row |= {f"{key} n": each.get("n")}
        yield row


def main() -> None:
    """Measure every run that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/epsilon_scheduling"))
    parser.add_argument("--out", type=Path, default=Path("runs/brittleness"))
    options = parser.parse_args()
    sys.path.insert(0, str(HERE.parent / "epsilon_scheduling"))  # the architecture of the runs
    images = str((options.data / "images/cifar100_20classes_test.npz").resolve())
    found, attacked, taus = [], [], {}
    for run in sorted(options.runs.glob("*-seed*")):
        name, _, seed = run.name.rpartition("-seed")
        if name not in NAMES or not (run / "weights.safetensors").exists():
            continue
        folder = options.out / run.name
        measured = margins_into(folder, str(run), images, "Linf:8/255", limit=MEASURED)
        few = options.out / f"{run.name}-attacked"
        adaptive = margins_into(few, str(run), images, "Linf:8/255", limit=ATTACKED, adaptive=True)
        if not (measured.brittleness and adaptive.brittleness):
            raise SystemExit("stopped; the same command goes on")
        found += list(rows(name, seed, measured.to_json(), folder))
        attacked += list(attacks(name, seed, adaptive.to_json()))
        for score in COMPARED:
            label = f"{NAMES[name]}, {score.removesuffix('_margin')}"
            taus[label] = measured.brittleness.consistency[score].tau
    pd.DataFrame(found).round(4).to_csv(HERE / "schedules.csv", index=False)
    pd.DataFrame(attacked).round(4).to_csv(HERE / "attacks.csv", index=False)
    with matplotlib.rc_context(STYLE):
        tau_bars(taus).savefig(HERE / "schedules.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
