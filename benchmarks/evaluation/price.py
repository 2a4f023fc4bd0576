"""What ``fast`` costs on networks without signs of masked gradients, and which of its stages cost it. One command:

    PYTHONPATH=CHECKOUT/src python benchmarks/evaluation/price.py --data ../shared/data --version NAME

It measures the Temper that is imported: versions differ in the checkout, and NAME is what a version's rows are called.
Adds to price.csv beside this file, a row per network as it comes.
"""

import argparse
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
from groups import Entry
from masking import BATCH, prepared

from temper.attacks.suites import get_suite
from temper.evaluation.measurement import measure
from temper.evaluation.samples import from_arrays
from temper.threat import Threat

HERE = Path(__file__).parent
PASSES = ["forward", "backward"]
ENTRIES = (
    Entry("cifar_cnn_a_adv", "Linf", 3 / 255),
    Entry("cifar_cnn_a_adv", "L2", 0.4),
    Entry("cifar_resnet4b", "Linf", 4 / 255),
    Entry("resnet20", "Linf", 2 / 255),
    Entry("mnist_smallcnn_standard", "Linf", 0.1),
    Entry("cifar_cnn_a_mix", "Linf", 2 / 255),
    Entry("cifar_oval_base", "Linf", 2 / 255),
)


def outcomes(journal: Path) -> pd.DataFrame:
    """What was written down of each sample and stage: sample, stage, forward, backward."""
    lines = [line.split(",") for path in journal.glob("*.csv") for line in path.read_text().splitlines()[1:]]
    frame = pd.DataFrame([[line[place] for place in (1, 2, 5, 6)] for line in lines])
    frame.columns = pd.Index(["sample", "stage", *PASSES])
    return frame.astype(dict.fromkeys(["sample", *PASSES], int))


def priced(entry: Entry, data: Path) -> dict[str, Any]:
    """Passes of all samples, and those of the stages that run near a flip, or where there are signs, alone."""
    network, x, y = prepared(entry, data)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = measure(
            network,
            from_arrays(x, y),
            [Threat(entry.norm, entry.eps)],
            "fast",
            0,
            batch_size=BATCH,
            journal=Path(folder) / "journal",
        )
        told = outcomes(Path(folder) / "journal")
    if not done.complete:
        raise SystemExit("stopped; rows that are finished are kept")
    frame, passes = done.table.frame, done.table.passes()
    right = frame["label"] == frame["prediction"]
    row = {"case": entry.name, "n": entry.count, "survivors": int((right & (frame["upper"] > entry.eps)).sum())}
    row |= {name: passes[name] for name in PASSES}
    runs_on = {stage.name: getattr(stage, "on", "all") for stage in get_suite("fast").stages}
    for kind, stages_on in {"near": ("near", "edge"), "masked": ("masked", "flat")}.items():
        own = told[told["stage"].map(runs_on).isin(stages_on)]
        row |= {f"{kind} samples": own["sample"].nunique()}
        row |= {f"{kind} {name}": int(own[name].sum()) for name in PASSES}
    return row


def main() -> None:
    """Measure the networks asked for, and keep what was measured of others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--version", required=True, help="what the rows are called")
    parser.add_argument("--only", nargs="*", default=[], help="names of entries")
    parser.add_argument("--out", type=Path, default=HERE / "price.csv")
    options = parser.parse_args()
    for entry in ENTRIES:
        if options.only and entry.name not in options.only:
            continue
        row = {"version": options.version, **priced(entry, options.data)}
        print(row, flush=True)
        frame = pd.DataFrame([row])
        if options.out.exists():
            frame = pd.concat([pd.read_csv(options.out), frame]).drop_duplicates(["version", "case"], keep="last")
        frame.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
