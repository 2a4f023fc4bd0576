"""How the settings of ``temper demo`` were chosen, on seeds that demo_seeds.py does not judge; one command:

    python benchmarks/demo/demo_settings.py [--out runs/demo-choice] [--tried]

The learning rate is the one at which *fixed* epsilon has the highest expected robustness on validation images, all on
one seed, the better half on a second. (The paper takes the best clean accuracy, which does not see that a network has
fitted its own attack alone, as it does here at lower rates.) Writes rates.csv beside this file and prints the means.
``--tried`` repeats the trials that the task was found by, on one seed, and writes tried.csv. Started again, it
continues.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from temper import models
from temper.cli.demo import FIXED, SCHEDULED, SETTINGS, THREAT, WAYS
from temper.evaluation.measurement import TABLE, measure
from temper.evaluation.samples import from_dataset
from temper.margins import EvidenceTable
from temper.runs.finetune import finetune, train_only
from temper.runs.run import CONFIG
from temper.training.config import read_config
from temper.training.splits import splits_of

HERE = Path(__file__).parent
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = (100, 101)


@dataclass(frozen=True)
class Trial:
    """What the demonstration might have been."""

    eps: float
    epochs: int
    rate: float
    data: Mapping[str, object]
    image_size: int


DIGITS, MNIST = {"train": "digits", "augmentation": "none"}, {"train": "mnist-5k", "augmentation": "none"}
TRIED = (
    Trial(72 / 255, 12, 1e-3, DIGITS, 32),
    Trial(72 / 255, 12, 1e-2, DIGITS, 32),
    Trial(0.4, 10, 1e-2, MNIST | {"train_limit": 1000}, 28),
    Trial(0.4, 20, 1e-2, MNIST | {"train_limit": 1500}, 28),
    Trial(0.45, 20, 1e-2, MNIST | {"train_limit": 1500}, 28),
)


def same_rate(rate: float) -> dict[str, object]:
    """The optimiser's settings for one learning rate of backbone and head."""
    return {"optimiser": {"backbone_lr": rate, "head_lr": rate}}


def rate_row(rate: float, seed: int, out: Path) -> dict[str, object]:
    """Fixed epsilon at one learning rate: clean accuracy and expected robustness on validation images in the end."""
    folder = out / f"{rate:g}-{seed}"
    run = train_only(read_config({**SETTINGS, **WAYS[FIXED], **same_rate(rate), "out": folder, "seed": seed}))
    model, validation = models.load(str(folder)), splits_of(run.config).validation
    table = measure(model, from_dataset(validation, model), [THREAT], "apgd", seed).table
    expected = table.expected_robustness(THREAT.norm, THREAT.eps).value
    return {"rate": rate, "seed": seed, "clean": table.clean_accuracy().value, "expected": expected, "n": len(table)}


def tried_row(trial: Trial, way: str, out: Path) -> dict[str, object]:
    """One trial in one way, on the test images of a seed that is not judged."""
    folder = (
        out / "tried" / f"{trial.data['train']}-{trial.eps:g}-{trial.epochs}-{trial.rate:g}" / way.replace(" ", "-")
    )
    changed: dict[str, object] = {"eps": trial.eps, "epochs": trial.epochs, "data": trial.data}
    changed |= {"model": {"image_size": trial.image_size}, "evaluation": {"points": 4}, "precision": "auto"}
    changed |= {"out": folder, "seed": SEEDS[0]}
    config = read_config({**SETTINGS, **WAYS[way], **same_rate(trial.rate), **changed})
    run = finetune(config, resume=(folder / CONFIG).exists())
    table = EvidenceTable.load(run.folder / TABLE)
    return {
        "data": config.data.train,
        "eps": config.eps,
        "epochs": config.epochs,
        "train_images": len(run.record["data"]["train"]["ids"]),
        "rate": trial.rate,
        "way": way,
        "clean": table.clean_accuracy().value,
        "robust": table.robust_accuracy("Linf", config.threats[0].eps).value,
        "expected": table.expected_robustness("Linf", config.threats[0].eps).value,
        "n": len(table),
    }


def main() -> None:
    """Run what is not finished, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo-choice"))
    parser.add_argument("--tried", action="store_true", help="repeat the trials that the task was found by")
    options = parser.parse_args()
    if options.tried:
        rows = pd.DataFrame([tried_row(trial, way, options.out) for trial in TRIED for way in (FIXED, SCHEDULED)])
        rows.round(6).to_csv(HERE / "tried.csv", index=False)
        print(rows.round(3).to_string(index=False))
        return
    rates = pd.DataFrame([rate_row(rate, SEEDS[0], options.out) for rate in RATES])
    better = rates.nlargest(len(RATES) // 2, "expected")["rate"]
    rates = pd.concat([rates, pd.DataFrame([rate_row(rate, SEEDS[1], options.out) for rate in better])])
    rates.round(6).to_csv(HERE / "rates.csv", index=False)
    print(rates.groupby("rate")[["clean", "expected"]].mean().round(3).to_string())


if __name__ == "__main__":
    main()
