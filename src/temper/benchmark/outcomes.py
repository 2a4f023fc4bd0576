"""What happened to every test sample of every run: the ground that intervals over samples stand on."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from temper.benchmark.columns import RunEvidence, columns
from temper.benchmark.configuration import FACTORS
from temper.benchmark.grid import Cell
from temper.benchmark.store import Store
from temper.corruptions.table import CorruptionTable
from temper.errors import EvidenceError, RunError
from temper.margins import EvidenceTable


def outcomes(cells: Sequence[Cell], store: Store) -> pd.DataFrame:
    """A row per run and test sample: the factors, ``sample``, and 1 or 0 (float) in each column that configurations
    are scored by.

    Args:
        cells: runs that are done.
        store: that holds them.

    Raises:
        RunError: evidence of a run is not there.
    """
    return pd.concat([_of_run(cell, store) for cell in cells], ignore_index=True)


def _of_run(cell: Cell, store: Store) -> pd.DataFrame:
    measure = cell.measure
    tables = {suite: margins_of(store, cell.run, suite) for suite in measure.searched}
    corrupted = _corruptions_of(store, cell.run) if measure.corruptions else None
    left = RunEvidence(measure, tables, corrupted)
    by_sample = {column.key: column.by_sample(left) for column in columns(measure) if column.by_sample}
    samples = {"sample": np.sort(left.main.frame["sample"].unique())}
    return pd.DataFrame({name: cell.factors[name] for name in FACTORS} | samples | by_sample)


def _corruptions_of(store: Store, run: str) -> CorruptionTable:
    with store.evidence("corruptions", run) as path:
        return CorruptionTable.load(path)


def margins_of(store: Store, run: str, suite: str) -> EvidenceTable:
    """The evidence that a run left.

    Raises:
        RunError: it is not there, or damaged.
    """
    with store.evidence("margins", f"{run}-{suite}") as path:
        try:
            return EvidenceTable.load(path)
        except EvidenceError as error:
            raise RunError(f"{store.place}: {error}") from None
