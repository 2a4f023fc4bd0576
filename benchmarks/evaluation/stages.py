"""Which stage of ``fast`` finds the flips, and which takes the passes. One command:

    python benchmarks/evaluation/stages.py --data ../shared/data

Writes stages.csv beside this file: per network and ball, and per stage, the samples that it searched, those that it
broke, and its passes. ``targets`` is the search for the nearest classes.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import pandas as pd
from groups import Entry
from masking import BATCH, prepared

from temper.evaluation.measurement import measure
from temper.evaluation.samples import from_arrays
from temper.threat import Threat

HERE = Path(__file__).parent
ENTRIES = (
    Entry("resnet20", "Linf", 2 / 255),
    Entry("cifar_cnn_a_adv", "Linf", 3 / 255),
    Entry("cifar_cnn_a_adv", "L2", 0.4),
    Entry("cifar_resnet4b", "Linf", 4 / 255),
    Entry("cifar_resnet4b", "L2", 0.5),
    Entry("mnist_smallcnn_standard", "Linf", 0.1),
)


def by_stage(entry: Entry, data: Path) -> pd.DataFrame:
    """Samples, flips and passes of each stage."""
    network, x, y = prepared(entry, data)
    threat = Threat(entry.norm, entry.eps)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = measure(network, from_arrays(x, y), [threat], "fast", 0, batch_size=BATCH, journal=Path(folder))
        lines = [line.split(",") for path in Path(folder).glob("*.csv") for line in path.read_text().splitlines()[1:]]
    if not done.complete:
        raise SystemExit("stopped; rows that are finished are kept")
    told = pd.DataFrame(
        {
            "stage": [line[2] for line in lines],
            "broke": [float(line[4]) <= float(line[3]) < float("inf") for line in lines],
            "forward": [int(line[5]) for line in lines],
            "backward": [int(line[6]) for line in lines],
        }
    )
    whole = told.groupby("stage", sort=False).agg(
        searched=("broke", "size"), broke=("broke", "sum"), forward=("forward", "sum"), backward=("backward", "sum")
    )
    whole.insert(0, "case", entry.name)
    return whole.reset_index()


def main() -> None:
    """Measure all, a network at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    parts = []
    for entry in ENTRIES:
        parts.append(by_stage(entry, options.data))
        print(parts[-1].to_string(), flush=True)
        pd.concat(parts).to_csv(HERE / "stages.csv", index=False)


if __name__ == "__main__":
    main()
