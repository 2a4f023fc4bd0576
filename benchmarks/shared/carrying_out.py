"""What long benchmarks do alike: prepare files, run the cells that have no committed row, record them as they end."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from committed_rows import Planned, Rows

from temper.benchmark import engines, planning
from temper.benchmark.driving import run_grid
from temper.benchmark.engines import Placement
from temper.benchmark.engines.base import CellTask, Ended, Engine
from temper.benchmark.grid import Cell
from temper.benchmark.store import Store
from temper.cli.console import show_state
from temper.core.interrupt import Stopped


@dataclass(frozen=True)
class Recording:
    """An engine that has every cell recorded as it ends."""

    engine: Engine
    record: Callable[[], object]

    def run(self, cells: Sequence[Cell], task: CellTask) -> Iterator[Ended]:
        """See :class:`temper.benchmark.engines.base.Engine`."""
        for ended in self.engine.run(cells, task):
            self.record()
            yield ended


def link(file: Path, folder: Path) -> None:
    """Put a link to a file into a folder."""
    place = folder / file.name
    if not place.exists():
        place.unlink(missing_ok=True)  # a link to where the file no longer is
        place.symlink_to(file.resolve(strict=True))


def fetched(requirement: str, folder: Path) -> Path:
    """The wheel of a package; a wheel that is in ``folder`` is not fetched again."""
    name = requirement.partition("==")[0].replace("-", "_")
    if not list(folder.glob(f"{name}-*.whl")):
        call = ["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
        subprocess.run([sys.executable, "-m", *call], check=True)
    return next(folder.glob(f"{name}-*.whl"))


def carry_out(plan: Sequence[Planned], store: Store, rows: Rows, workers: int) -> bool:
    """Run what is missing; returns whether all is done."""
    cells = [each.cell for each in plan]
    planning.check(cells)

    def record() -> None:
        rows.collect(plan, store)

    engine = Recording(engines.make("local", Placement(workers=workers)), record)
    try:
        reached = run_grid(cells, store, engine, retry_failed=True)
    finally:
        record()
    show_state(reached, store.place)
    return reached.complete


def status_of(work: Callable[[], bool], write: Callable[[], object]) -> int:
    """Do work that says whether all is done, and write the page of what there is, however it ended; the exit status."""
    try:
        return 0 if work() else 1
    except Stopped as stopped:
        print(stopped)
        return 130
    finally:
        write()
