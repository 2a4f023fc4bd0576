"""The engine for this machine: worker processes, each of which carries one cell out at a time."""

import contextlib
import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Self

from temper.benchmark.engines import Placement
from temper.benchmark.engines.base import DEATHS, POLL_SECONDS, CellAnswer, CellTask, Died, Ended, attempt, drive
from temper.benchmark.grid import Cell
from temper.core.orphans import end_with_parent
from temper.errors import ArgumentError

ORPHAN_SECONDS = 10.0  # that a worker gets to save when its driver is gone


class LocalEngine:
    """Worker processes of this machine.

    Args:
        workers: processes; each runs one cell at a time.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers

    def run(self, cells: Sequence[Cell], task: CellTask) -> Iterator[Ended]:
        """Carry cells out; yields each as it ends. A worker that dies is replaced, and its cell begun again.

        Raises:
            Stopped: a signal asked to stop; the workers saved what they had.
            OSError: what a worker could not go on with, such as a full disk.
        """
        yield from drive(_Workers(task, self.workers), cells)


def make(placement: Placement) -> LocalEngine:
    """The engine, with as many workers as this machine has room for unless their number is given."""
    if placement.gpus_per_run or placement.address:
        raise ArgumentError("engine", "local", "gpus-per-run and address are for --engine ray")
    return LocalEngine(placement.workers or _room(placement.threads or 1))


def _room(threads: int) -> int:
    """How many runs of so many threads this machine computes at once: one where they share a GPU."""
    import torch

    return 1 if torch.cuda.is_available() else max((os.cpu_count() or 1) // threads, 1)


class _Workers:
    """At most so many worker processes; one that died is let go."""

    def __init__(self, task: CellTask, most: int) -> None:
        self._task, self._most = task, most
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
            idle = _Worker(self._task)
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
        pass  # the workers heard the signal

    def forward(self, number: int) -> None:
        for worker in self._workers:
            worker.signal(number)


class _Worker:
    """A process that carries cells out, one after the other."""

    def __init__(self, task: CellTask) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, task), daemon=True)
        with _unheard(signal.SIGINT):
            self.process.start()
        theirs.close()
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

    def signal(self, number: int) -> None:
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)

    def end(self) -> None:
        """Let it go: an idle one ends by itself when its pipe closes."""
        self.pipe.close()
        self.process.join(5 if self.cell is None else 0)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


def _work(pipe: Connection, task: CellTask) -> None:
    """A worker's life."""
    end_with_parent(ORPHAN_SECONDS)
    sys.stderr = _NoTerminal(sys.stderr.buffer, errors="replace", line_buffering=True)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        while True:
            pipe.send(attempt(task, pipe.recv()))
    except (EOFError, KeyboardInterrupt):  # nothing more to do
        return


@contextlib.contextmanager
def _unheard(number: signal.Signals) -> Iterator[None]:
    """Inside, a signal waits; a process that is started there does not hear it until it says so.

    A terminal sends Ctrl-C to workers, too; one that is still importing could only answer with a traceback.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


class _NoTerminal(io.TextIOWrapper):
    """stderr without progress bars: those of several workers would overwrite each other."""

    def isatty(self) -> bool:
        return False
