"""The engine for this machine: worker processes, each of which carries one cell out at a time."""

import contextlib
import io
import logging
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Self

from temper.benchmark.engines import Placement
from temper.benchmark.engines.base import DEATHS, POLL_SECONDS, CellAnswer, CellTask, Died, Ended, attempt, drive
from temper.benchmark.grid import Cell
from temper.core.environment import cores
from temper.core.orphans import SAVING_SECONDS, end_with_parent, unheard
from temper.errors import ArgumentError

log = logging.getLogger(__name__)


class LocalEngine:
    """Worker processes of this machine.

    Args:
        workers: processes; each runs one cell at a time.
        gpus: names of GPUs, as CUDA_VISIBLE_DEVICES has them; each process sees one, the least taken.
    """

    def __init__(self, workers: int = 1, gpus: Sequence[str] = ()) -> None:
        self.workers, self.gpus = workers, gpus

    def run(self, cells: Sequence[Cell], task: CellTask) -> Iterator[Ended]:
        """Carry cells out; yields each as it ends. A worker that dies is replaced, and its cell begun again.

        Raises:
            Stopped: a signal asked to stop; the workers saved what they had.
            OSError: what a worker could not go on with, such as a full disk.
        """
        yield from drive(_Workers(task, self.workers, self.gpus), cells)


def make(placement: Placement) -> LocalEngine:
    """The engine, with as many workers as this machine has room for unless their number is given."""
    if placement.gpus_per_run or placement.address:
        raise ArgumentError("engine", "local", "gpus-per-run and address are for --engine ray")
    gpus, threads = visible_gpus(), placement.threads or 1
    if placement.workers != "auto":
        return LocalEngine(placement.workers, gpus)
    workers = len(gpus) or max(cores() // threads, 1)
    log.info(f"workers auto: {workers}, {'one for each GPU' if gpus else f'{cores()} cores, {threads} for each run'}")
    return LocalEngine(workers, gpus)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    names = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    count = torch.cuda.device_count()
    return names[:count] or [str(number) for number in range(count)]


class _Workers:
    """At most so many worker processes; one that died is let go."""

    def __init__(self, task: CellTask, most: int, gpus: Sequence[str]) -> None:
        self._task, self._most, self._gpus = task, most, gpus
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.end()

    @property
    def busy(self) -> bool:
        return any(worker.cell for worker in self._workers)

    @property
    def has_room(self) -> bool:
        return len(self._workers) < self._most or not all(worker.cell for worker in self._workers)

    def launch(self, cell: Cell) -> None:
        idle = next((worker for worker in self._workers if worker.cell is None), None)
        if idle is None:
            taken = Counter(worker.gpu for worker in self._workers)
            idle = _Worker(self._task, min(self._gpus, key=lambda gpu: taken[gpu], default=None))
            self._workers.append(idle)
        idle.give(cell)

    def landed(self) -> Iterator[tuple[Cell, CellAnswer]]:
        busy = {worker.pipe: worker for worker in self._workers if worker.cell}
        for pipe in wait(list(busy), timeout=POLL_SECONDS):
            worker = busy[pipe]  # type: ignore[index]
            cell, answer = worker.take()
            if isinstance(answer, Died):
                self._workers.remove(worker)
            yield cell, answer

    def cancel(self) -> None:
        for worker in self._workers:
            worker.stop()


class _Worker:
    """A process that carries cells out, one after the other."""

    def __init__(self, task: CellTask, gpu: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, task, gpu), daemon=True)
        with unheard():
            self.process.start()
        theirs.close()
        self.gpu = gpu
        self.cell: Cell | None = None

    def give(self, cell: Cell) -> None:
        self.cell = cell
        with contextlib.suppress(OSError):  # it died; taking its answer tells
            self.pipe.send(cell)

    def take(self) -> tuple[Cell, CellAnswer]:
        """Its cell and what became of it."""
        cell, self.cell = self.cell, None
        assert cell is not None
        try:
            return cell, self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            reason = f"signal {-code}" if code < 0 else f"exit status {code}"
            return cell, Died(f"its process died {DEATHS} times ({reason}); out of memory?")

    def stop(self) -> None:
        """Ask it to save what it is at, and to answer that it has stopped."""
        if self.cell:
            self.process.terminate()  # SIGTERM, which its work listens to; before it does, it has nothing to save

    def end(self) -> None:
        """Let it go: an idle one ends by itself when its pipe closes."""
        self.pipe.close()
        self.process.join(5 if self.cell is None else 0)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


def _work(pipe: Connection, task: CellTask, gpu: str | None) -> None:
    """A worker's life, on a GPU of its own where there are several."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # CUDA reads it when a run begins to compute
    end_with_parent(SAVING_SECONDS)
    sys.stderr = _NoTerminal(sys.stderr.buffer, errors="replace", line_buffering=True)
    try:
        while True:
            pipe.send(attempt(task, pipe.recv()))
    except EOFError:  # nothing more to do
        return


class _NoTerminal(io.TextIOWrapper):
    """stderr without progress bars: those of several workers would overwrite each other."""

    def isatty(self) -> bool:
        return False
