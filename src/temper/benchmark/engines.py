"""Engines carry a list of runs out: this one on worker processes of this machine; see also :mod:`ray_engine`."""

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from temper.benchmark.grid import Cell
from temper.benchmark.store import Outcome, Store
from temper.core.interrupt import Stop, Stopped
from temper.core.orphans import end_with_parent
from temper.errors import RunError

DEATHS = 3  # of a run's processes, until the run itself is to blame
POLL_SECONDS = 2.0
ORPHAN_SECONDS = 10.0  # that a worker gets to save when its driver is gone


class Task(Protocol):
    """What an engine does with each cell, in another process."""

    def __call__(self, cell: Cell) -> Outcome:
        """Carry the cell out."""


@dataclass(frozen=True)
class Execute:
    """:func:`running.execute` with a store and an owner; it travels to other processes and machines."""

    store: Store
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __call__(self, cell: Cell) -> Outcome:
        """Carry the cell out."""
        from temper.benchmark.running import execute  # seconds, where runs are carried out, not where they are begun

        return execute(cell, self.store, self.owner)


@dataclass(frozen=True)
class Died:
    """A run's processes died, again and again."""

    reason: str


Ended = tuple[Cell, Outcome | Died]


class LocalEngine:
    """Worker processes of this machine.

    Args:
        workers: processes; each runs one cell at a time.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers

    def run(self, cells: Sequence[Cell], task: Task) -> Iterator[Ended]:
        """Carry cells out; yields each as it ends. A worker that dies is replaced, and its cell begun again.

        Raises:
            Stopped: a signal asked to stop; the workers saved what they had.
            OSError: what a worker could not go on with, such as a full disk.
        """
        waiting, deaths = deque(cells), dict.fromkeys((cell.run for cell in cells), 0)
        workers: list[_Worker] = []

        def tell(number: int) -> None:
            for worker in workers:
                worker.signal(number)

        with Stop(forward=tell) as stop:
            try:
                while waiting or any(worker.cell for worker in workers):
                    if stop.requested:
                        waiting.clear()
                    while waiting and len(workers) < self.workers:
                        workers.append(_Worker(task))
                    for worker in workers:
                        if worker.cell is None and waiting:
                            worker.give(waiting.popleft())
                    for worker in _ready(workers):
                        cell, answer = worker.take()
                        if isinstance(answer, Died):
                            workers.remove(worker)
                            deaths[cell.run] += 1
                            if stop.requested:
                                continue
                            if deaths[cell.run] < DEATHS:
                                waiting.appendleft(cell)
                                continue
                        if isinstance(answer, Stopped):
                            continue
                        if isinstance(answer, Exception):
                            raise answer
                        yield cell, answer
            finally:
                for worker in workers:
                    worker.end()
            if stop.requested:
                raise Stopped("stopped; finished runs are kept, and the same command continues the others")


def room(threads: int) -> int:
    """How many runs of so many threads this machine computes at once: one where they share a GPU."""
    import torch

    return 1 if torch.cuda.is_available() else max((os.cpu_count() or 1) // threads, 1)


class _Worker:
    """A process that carries cells out, one after the other."""

    def __init__(self, task: Task) -> None:
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

    def take(self) -> tuple[Cell, Any]:
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


def _ready(workers: Sequence[_Worker]) -> list[_Worker]:
    """Workers that have an answer, or died; waits for one, but not for ever."""
    busy = {worker.pipe: worker for worker in workers if worker.cell}
    return [busy[pipe] for pipe in wait(list(busy), timeout=POLL_SECONDS)]  # type: ignore[index]


def attempt(task: Task, cell: Cell) -> Any:
    """Carry a cell out in a worker; what it raised is an answer too, for the engine to raise in its own process."""
    try:
        return task(cell)
    except Exception as error:  # noqa: BLE001
        return _sendable(error)
    except KeyboardInterrupt:
        return Stopped(f"{cell.label}: stopped")


def _work(pipe: Connection, task: Task) -> None:
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


def _sendable(error: Exception) -> Exception:
    """An error that surely survives the way to the other process."""
    return error if isinstance(error, Stopped | OSError) else RunError(f"{type(error).__name__}: {error}")
