"""What all engines share: what is done with a cell, how that ends, and the loop that hands cells out."""

import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import ClassVar, Protocol, Self

from temper.benchmark.grid import Cell
from temper.benchmark.store import Ending, Store
from temper.core.interrupt import Stop, Stopped
from temper.errors import RunError

DEATHS = 3  # of a run's processes, until the run itself is to blame
POLL_SECONDS = 0.5


class CellTask(Protocol):
    """What an engine does with each cell, in another process."""

    def __call__(self, cell: Cell) -> Ending:
        """Carry the cell out."""


@dataclass(frozen=True)
class Execute:
    """:func:`running.execute` with a store and an owner; it travels to other processes and machines."""

    store: Store
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __call__(self, cell: Cell) -> Ending:
        """Carry the cell out."""
        from temper.benchmark.running import execute  # seconds, where runs are carried out, not where they are begun

        return execute(cell, self.store, self.owner)


@dataclass(frozen=True)
class Died:
    """What carried a run out is gone. The run is begun again, unless that has happened to it ``most`` times.

    Attributes:
        reason: what is then said of the run.
    """

    most: ClassVar[int] = DEATHS
    pause: ClassVar[float] = 0.0  # seconds until the run may be begun again
    reason: str


Ended = tuple[Cell, Ending | Died]
CellAnswer = Ending | Died | Exception


class Engine(Protocol):
    """Carries cells out somewhere; yields each as it ends."""

    def run(self, cells: Sequence[Cell], task: CellTask) -> Iterator[Ended]:
        """Carry them out."""


class Pool(Protocol):
    """Where an engine carries cells out at the moment; left, whatever ends the work, nothing is at work any more."""

    def __enter__(self) -> Self:
        """Make it ready."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let it go."""

    @property
    def busy(self) -> bool:
        """Whether a cell is being carried out."""

    @property
    def has_room(self) -> bool:
        """Whether a further cell may be launched."""

    def launch(self, cell: Cell) -> None:
        """Begin a cell."""

    def landed(self) -> Iterator[tuple[Cell, CellAnswer]]:
        """Cells that ended, and what became of them; waits for one, but not for ever."""

    def cancel(self) -> None:
        """Ask for all that was launched to end soon; called once, after a signal."""


def drive(pool: Pool, cells: Sequence[Cell]) -> Iterator[Ended]:
    """Carry cells out; yields each as it ends. What is gone is begun again, as often as it may be.

    Raises:
        Stopped: a signal asked to stop; the runs saved what they had.
        OSError: what a run could not go on with, such as a full disk.
    """
    waiting = deque(cells)
    deaths: Counter[tuple[str, type[Died]]] = Counter()
    with Stop() as stop, pool:
        while (waiting or pool.busy) and not stop.requested:
            while waiting and pool.has_room and not stop.requested:
                pool.launch(waiting.popleft())
            yield from _settled(pool, waiting, deaths, stop)
        if stop.requested:
            pool.cancel()
            while pool.busy:
                yield from _settled(pool, waiting, deaths, stop)
            raise Stopped("stopped; finished runs are kept, and the same command continues the others")


def _settled(pool: Pool, waiting: deque[Cell], deaths: Counter[tuple[str, type[Died]]], stop: Stop) -> Iterator[Ended]:
    """Cells that have ended for good; those that are to begin again go to the front of the ``waiting``."""
    pause = 0.0
    for cell, answer in pool.landed():
        if isinstance(answer, Died):
            deaths[cell.run, type(answer)] += 1
            pause = max(pause, answer.pause)
            if stop.requested or deaths[cell.run, type(answer)] < answer.most:
                waiting.appendleft(cell)
                continue
        if isinstance(answer, Stopped):
            continue
        if isinstance(answer, Exception):
            raise answer
        yield cell, answer
    if pause and not stop.requested:
        time.sleep(pause)


def attempt(task: CellTask, cell: Cell) -> CellAnswer:
    """Carry a cell out in a worker; what it raised is an answer too, for the engine to raise in its own process."""
    try:
        return task(cell)
    except Exception as error:  # noqa: BLE001
        return _sendable(error)
    except KeyboardInterrupt:
        return Stopped(f"{cell.label}: stopped")


def _sendable(error: Exception) -> Exception:
    """An error that surely survives the way to the other process."""
    return error if isinstance(error, Stopped | OSError) else RunError(f"{type(error).__name__}: {error}")
