"""How far a grid is."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from temper.benchmark.grid import Cell
from temper.benchmark.store import RUN_DONE, RUN_FAILED, Store

COUNTED = ("run", "status", "error")  # columns that say how far a grid is


@dataclass(frozen=True)
class GridState:
    """The runs of a grid by what became of them.

    Attributes:
        done, failed, missing: cells.
        rows: result rows of those that are done or failed.
    """

    done: list[Cell]
    failed: list[Cell]
    missing: list[Cell]
    rows: pd.DataFrame

    @property
    def all(self) -> list[Cell]:
        """Every run of the grid."""
        return [*self.done, *self.failed, *self.missing]

    @property
    def complete(self) -> bool:
        """Whether every run is done."""
        return not (self.failed or self.missing)

    def errors(self) -> dict[str, str]:
        """The error of every failed run, by the run's label."""
        by_run = dict(zip(self.rows["run"], self.rows["error"], strict=True)) if self.failed else {}
        return {cell.label: by_run[cell.run] for cell in self.failed}


def damaged(cells: Sequence[Cell], store: Store) -> set[str]:
    """The runs among these whose evidence cannot be read, which a warning says; what is not there is no damage."""
    margins = {f"{cell.run}-{suite}": cell.run for cell in cells for suite in cell.measure.evidence}
    corrupted = {cell.run for cell in cells if cell.measure.corruptions}
    without_corruptions = store.parts["corruptions"].damaged(corrupted)
    return without_corruptions | {margins[name] for name in store.parts["margins"].damaged(margins)}


def state(cells: Sequence[Cell], store: Store, columns: Sequence[str] | None = None) -> GridState:
    """What a store holds of a grid; of the rows these columns, by default all. A run whose evidence is damaged is
    missing."""
    rows = store.rows(columns)
    done = set(rows.loc[rows["status"] == RUN_DONE, "run"])
    lost = damaged([cell for cell in cells if cell.run in done], store)
    rows = rows[rows["run"].isin({cell.run for cell in cells} - lost)].reset_index(drop=True)
    of_run = dict(zip(rows["run"], rows["status"], strict=True))
    return GridState(
        [cell for cell in cells if of_run.get(cell.run) == RUN_DONE],
        [cell for cell in cells if of_run.get(cell.run) == RUN_FAILED],
        [cell for cell in cells if cell.run not in of_run],
        rows,
    )
