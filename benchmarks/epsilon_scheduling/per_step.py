"""Is it as good to move epsilon at every step as once per epoch? On scikit-learn's digits, several seeds, one command:

    python benchmarks/epsilon_scheduling/per_step.py [--out runs/per_step] [--seeds N]

Writes per_step.csv beside this file and prints mean and spread over seeds and the paired differences.
"""

import argparse
from pathlib import Path

import pandas as pd

from temper.benchmark.analysis import paired_comparison, spread_over_seeds
from temper.evaluation.measurement import TABLE
from temper.margins import EvidenceTable
from temper.runs.finetune import finetune

EPS = 24 / 255
METRICS = ["clean", "robust", "expected"]


def measure(per: str, seed: int, out: Path) -> dict[str, object]:
    """One run, and its figures on the test images."""
    run = finetune(
        {
            "out": out / f"{per}-seed{seed}",
            "eps": EPS,
            "epochs": 8,
            "batch_size": 64,
            "attack": {"name": "pgd", "steps": 5},
            "data": {"augmentation": "none"},
            "schedule": {"name": "hinge", "per": per},
            "seed": seed,
        },
        resume=(out / f"{per}-seed{seed}" / "config.yaml").exists(),
    )
    table = EvidenceTable.load(run.folder / TABLE)
    grid = [EPS * k / 8 for k in range(1, 9)]
    return {
        "schedule": per,
        "seed": seed,
        "clean": table.clean_accuracy().value,
        "robust": table.robust_accuracy("Linf", EPS).value,
        "expected": table.expected_robustness("Linf", EPS, grid=grid).value,
    }


def main() -> None:
    """Run what is not finished, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/per_step"))
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows = [measure(per, seed, options.out) for seed in range(options.seeds) for per in ("step", "epoch")]
    results = pd.DataFrame(rows)
    results.round(6).to_csv(Path(__file__).with_name("per_step.csv"), index=False)
    print(spread_over_seeds(results, METRICS, ["schedule"]).round(3).to_string())
    comparison = paired_comparison(results, METRICS, treatment="step", baseline="epoch", pair_by=["seed"])
    print(comparison.round(3).to_string())


if __name__ == "__main__":
    main()
