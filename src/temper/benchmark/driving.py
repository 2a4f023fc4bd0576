"""Carrying a grid out on an engine: what is missing is run, what another process works on is waited for."""

import logging
import time
from collections.abc import Callable, Sequence

from temper.benchmark.engines.base import CellTask, Died, Engine, Execute
from temper.benchmark.grid import Cell
from temper.benchmark.progress import COUNTED, GridState, state
from temper.benchmark.running import record_failure
from temper.benchmark.store import RUN_FAILED, Store
from temper.core.progress import progress_bar
from temper.errors import RunError

log = logging.getLogger(__name__)
WAIT_SECONDS = 5.0


def run_grid(
    cells: Sequence[Cell],
    store: Store,
    engine: Engine,
    *,
    retry_failed: bool = False,
    task: Callable[[Store], CellTask] = Execute,
) -> GridState:
    """Carry out every cell that the store has no row of.

    Args:
        cells: the grid.
        store: where results go.
        engine: who carries the cells out.
        retry_failed: begin failed runs again.
        task: makes what is done with a cell; all cells of this call share it.

    Returns:
        What the store holds in the end.

    Raises:
        Stopped: a signal asked to stop.
    """
    work = task(store)
    if retry_failed:
        rows = store.rows()
        for run in rows.loc[rows["status"] == RUN_FAILED, "run"]:
            store.remove_run(run)
    waiting = state(cells, store, COUNTED).missing
    with progress_bar("benchmark", len(cells), len(cells) - len(waiting)) as bar:
        while waiting:
            elsewhere = []
            for cell, ending in engine.run(waiting, work):
                if isinstance(ending, Died):
                    record_failure(cell, store, RunError(ending.reason))
                    ending = "failed"
                if ending == "elsewhere":
                    elsewhere.append(cell)
                    continue
                bar.advance(cell.label)
                log.info(f"{ending}: {cell.label}")
            waiting = elsewhere
            if waiting:
                time.sleep(WAIT_SECONDS)  # another process is at them; it ends, or its claims grow stale
    return state(cells, store)
