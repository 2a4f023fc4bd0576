"""What an engine adds to each run: a grid of 10,000 tiny runs, simulated, with the bookkeeping of real ones.

A simulated run trains and measures nothing. Everything that surrounds that is done as for a real one: it takes its
claim, looks whether the store holds its row, writes the row, gives the claim back. The same is timed in one process
without an engine ("none"). The figure is wall time per run, from the call to the last row, the engine's start included.

    python benchmarks/bench_engines/overhead.py [--runs N] [--workers N] [--engines local ray none] [--out FILE.csv]
"""

import argparse
import csv
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from temper.benchmark import running
from temper.benchmark.driving import run_grid
from temper.benchmark.engines.base import Engine
from temper.benchmark.engines.local import LocalEngine
from temper.benchmark.engines.ray import RayEngine
from temper.benchmark.grid import Cell
from temper.benchmark.spec import Measure
from temper.benchmark.store import Ending, Store
from temper.training.config import FinetuneConfig


@dataclass(frozen=True)
class Simulate:
    """A run whose training and measuring take no time."""

    store: Store

    def __call__(self, cell: Cell) -> Ending:
        """Carry it out."""
        with mock.patch.object(running, "_carry_out", lambda cell, store: {"clean": 0.5}):
            return running.execute(cell, self.store, "overhead")


def grid(runs: int) -> list[Cell]:
    """Cells that differ in their seed."""
    factors = {"backbone": "none", "dataset": "none", "objective": "at", "schedule": "fixed", "protocol": "full"}
    return [Cell(factors | {"seed": seed}, {}, FinetuneConfig(seed=seed), Measure()) for seed in range(runs)]


def timed(cells: Sequence[Cell], engine: Engine | None) -> float:
    """Seconds of the whole grid (None: in this process, without an engine)."""
    place = Path(tempfile.mkdtemp(prefix="temper-overhead-"))
    try:
        store = Store(place, create=True)
        started = time.perf_counter()
        if engine is None:
            task = Simulate(store)
            for cell in cells:
                task(cell)
        else:
            assert run_grid(cells, store, engine, task=Simulate).complete
        seconds = time.perf_counter() - started
        assert len(store.finished()) == len(cells)
    finally:
        shutil.rmtree(place)
    return seconds


def main() -> None:
    """Time each engine and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--engines", nargs="+", default=["local", "ray", "none"], choices=["local", "ray", "none"])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("overhead.csv"))
    options = parser.parse_args()
    cells = grid(options.runs)
    engines: dict[str, Engine | None] = {
        "none": None,
        "local": LocalEngine(options.workers),
        "ray": RayEngine(threads=1, workers=options.workers),
    }
    with options.out.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["engine", "workers", "runs", "seconds", "ms_per_run"])
        for name in options.engines:
            seconds = timed(cells, engines[name])
            workers = 1 if name == "none" else options.workers
            table.writerow([name, workers, len(cells), f"{seconds:.1f}", f"{1000 * seconds / len(cells):.2f}"])
            file.flush()


if __name__ == "__main__":
    main()
