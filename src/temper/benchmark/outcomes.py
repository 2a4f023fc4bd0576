"""What happened to every test sample of every run: the ground that intervals over samples stand on."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from temper.benchmark.grid import FACTORS, Cell
from temper.benchmark.store import Store
from temper.corruptions.table import CorruptionTable
from temper.errors import EvidenceError, RunError
from temper.margins import EvidenceTable
from temper.margins.metrics import evidence


def outcomes(cells: Sequence[Cell], store: Store) -> pd.DataFrame:
    """A row per run and test sample: the factors, ``sample``, and 1 or 0 (float) by metric: classified correctly
    (clean), robust at the threat's eps (what was not searched counts as not robust, as in the run's own row), correct
    under its corruption (common).

    Args:
        cells: runs that are done.
        store: that holds them.

    Raises:
        RunError: evidence of a run is not there.
    """
    return pd.concat([_of_run(cell, store) for cell in cells], ignore_index=True)


def _of_run(cell: Cell, store: Store) -> pd.DataFrame:
    measure = cell.measure
    table = margins_of(store, cell.run, measure.suite)
    clean = table.frame.drop_duplicates("sample").set_index("sample").sort_index()
    columns = {"clean": (clean["label"] == clean["prediction"]).to_numpy(np.float64)}
    for name, threat in measure.parsed.items():
        columns[name] = evidence(table, threat.norm).robust(threat.eps).astype(np.float64)
    if measure.corruptions:
        with store.evidence("corruptions", cell.run) as path:
            frame = CorruptionTable.load(path).to_pandas()
        corrupted = frame[frame["severity"] > 0].set_index("sample").sort_index()
        columns["common"] = (corrupted["label"] == corrupted["prediction"]).to_numpy(np.float64)
    return pd.DataFrame({name: cell.factors[name] for name in FACTORS} | {"sample": clean.index} | columns)


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
