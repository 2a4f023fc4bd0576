"""The study's learning rate: that of a small grid with which fixed epsilon has the highest clean accuracy on validation
data, for one backbone, data set, epsilon and a seed that the study does not use. Stoppable, resumable."""

from pathlib import Path

import pandas as pd
from study_cells import CURVE, spec_at

from temper.benchmark.grid import Cell, cells
from temper.runs.finetune import train_only
from temper.runs.run import Run
from temper.training.config import FinetuneConfig

GRID = (5e-4, 1e-3, 2e-3)
EPS, SEED = 4, 100
RATES = Path(__file__).with_name("learning_rates.csv")


def choose(folder: Path) -> float:
    """Train with every rate in ``folder``, write the validation accuracies beside this file, and return the best."""
    for rate in GRID:
        train_only(_configuration(rate, folder))
    tabulate(folder)
    last = pd.read_csv(RATES).groupby("learning_rate")["validation_accuracy"].last()
    return max(GRID, key=lambda rate: float(last[rate]))


def tabulate(folder: Path) -> None:
    """Write the validation accuracies of the runs in ``folder``, of unfinished ones too, beside this file."""
    rows = [
        {"learning_rate": rate, "epoch": epoch["epoch"], "validation_accuracy": round(epoch["validation_accuracy"], 6)}
        for rate in GRID
        for epoch in Run(folder / f"{rate:g}").history()
    ]
    pd.DataFrame(rows).to_csv(RATES, index=False)


def _configuration(rate: float, folder: Path) -> FinetuneConfig:
    config = _fixed().config
    optimiser = config.optimiser.model_copy(update={"backbone_lr": rate, "head_lr": rate})
    return config.model_copy(update={"out": folder / f"{rate:g}", "seed": SEED, "optimiser": optimiser})


def _fixed() -> Cell:
    return next(
        cell
        for cell in cells(spec_at(EPS))
        if (cell.factors["backbone"], cell.factors["dataset"]) == CURVE
        and (cell.factors["objective"], cell.factors["schedule"]) == ("at", "fixed")
    )
