"""The engine for many machines: a Ray cluster (extra ``ray``) places the runs, by CPUs and shares of GPUs.

Every node needs Temper, and the store at the same path: a local store must be on a file system that all nodes share;
``s3://bucket/prefix`` needs none. The same holds for data, weights and modules that a run names; the folder that the
benchmark was started in is the working folder wherever it exists, and modules are looked for where they are here.
"""

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Self, TypedDict

from temper.benchmark.engines import Placement
from temper.benchmark.engines.base import DEATHS, POLL_SECONDS, CellAnswer, CellTask, Died, Ended, attempt, drive
from temper.benchmark.grid import Cell
from temper.core.interrupt import Stopped
from temper.errors import ArgumentError, MissingExtraError, RunError

NODE_LOSSES = 50  # of a run's nodes, until the run itself is to blame: a spot node goes for reasons of its own
# A worker outlives its node's raylet by up to a second; the run begins again elsewhere when it surely writes no more.
ORPHAN_SECONDS = 3.0
WINDOW = 512  # runs handed to Ray at once: more than a cluster has places for, less than its memory notices
SAVE_SECONDS = 60.0  # that runs get to save when another run's error ends the benchmark
REACH_SECONDS = 5.0  # for a cluster to answer; Ray itself tries for minutes


class RayEngine:
    """Places runs on the nodes of a Ray cluster, spread over them.

    Args:
        address: of the cluster, ``host:port``; by default the one that RAY_ADDRESS names, or a new one on this machine.
            Where Ray is initialised already, that cluster is used, and left running.
        threads: CPUs that a run gets; those that compute it are its own configuration's.
        gpus_per_run: share of a GPU, as 0.5, or a whole number of them.
        workers: at most so many runs at once; by default as many as the cluster has room for.

    Raises:
        ArgumentError: no possible share of GPUs.
    """

    def __init__(
        self, address: str | None = None, threads: int = 1, gpus_per_run: float = 0.0, workers: int | None = None
    ) -> None:
        if gpus_per_run < 0 or (gpus_per_run > 1 and gpus_per_run != int(gpus_per_run)):
            raise ArgumentError("gpus_per_run", gpus_per_run, "give a share such as 0.5, or a whole number of GPUs")
        self.address = address
        self.threads = threads
        self.gpus_per_run = gpus_per_run
        self.window = workers or WINDOW

    def run(self, cells: Sequence[Cell], task: CellTask) -> Iterator[Ended]:
        """Carry cells out; yields each as it ends. What a lost worker or node was at is begun again, elsewhere.

        Nodes may come and go meanwhile; while none has room, it waits for one.

        Raises:
            ArgumentError: no cluster answers, or none of its nodes could ever hold a run.
            MissingExtraError: Ray is not installed.
            Stopped: a signal asked to stop; the runs saved what they had.
            OSError: what a run could not go on with, such as a full disk.
            RunError: a node cannot begin runs, as it lacks the store or Temper.
        """
        try:
            import ray
        except ImportError:
            raise MissingExtraError("engine ray", "ray") from None
        with _cluster(ray, self.address):
            yield from drive(_Flight(ray, task, self), cells)


def make(placement: Placement) -> RayEngine:
    """The engine of a placement."""
    workers = None if placement.workers == "auto" else placement.workers
    return RayEngine(placement.address, placement.threads or 1, placement.gpus_per_run, workers)


@dataclass(frozen=True)
class _NodeLost(Died):
    """The node that a run was on is gone."""

    most = NODE_LOSSES
    pause = ORPHAN_SECONDS
    reason: str = f"its node was lost {NODE_LOSSES} times; does it bring nodes down?"


class _Flight:
    """The runs that Ray has at the moment."""

    def __init__(self, ray: ModuleType, task: CellTask, engine: RayEngine) -> None:
        self._ray, self._task, self._engine = ray, task, engine
        self.cells: dict[object, Cell] = {}

    def __enter__(self) -> Self:
        ray, threads, gpus = self._ray, self._engine.threads, self._engine.gpus_per_run
        _check_room(ray.nodes(), threads, gpus)
        # Whether a run is begun again is the engine's to say: of Ray's own retries, those after a lost node count as
        # much as those after a crash, and those for want of memory never end.
        placed = ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0, scheduling_strategy="SPREAD")
        self._function = placed(_attempt)
        # As bytes, for a worker knows only afterwards where to look for the task's modules.
        self._shared = (ray.put(ray.cloudpickle.dumps(self._task)), str(Path.cwd()), list(sys.path))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Where an error ends the benchmark, the other runs are told to stop, and get the time to save."""
        if self.cells and isinstance(error, Exception | GeneratorExit):
            self.cancel()
            self._ray.wait(list(self.cells), num_returns=len(self.cells), timeout=SAVE_SECONDS)

    @property
    def busy(self) -> bool:
        return bool(self.cells)

    @property
    def has_room(self) -> bool:
        return len(self.cells) < self._engine.window

    def launch(self, cell: Cell) -> None:
        self.cells[self._function.remote(cell, *self._shared)] = cell

    def cancel(self) -> None:
        """Take back what waits for a place; running ones hear it as Ctrl-C, and end when they have saved."""
        for ref in self.cells:
            self._ray.cancel(ref, force=False)

    def landed(self) -> Iterator[tuple[Cell, CellAnswer]]:
        first, others = self._ray.wait(list(self.cells), timeout=POLL_SECONDS) if self.cells else ([], [])
        if first and others:
            first += self._ray.wait(others, num_returns=len(others), timeout=0)[0]
        for ref in first:
            yield self.cells.pop(ref), self._answer(ref)

    def _answer(self, ref: object) -> CellAnswer:
        errors = self._ray.exceptions
        try:
            answer: CellAnswer = self._ray.get(ref)
            return answer
        except errors.TaskCancelledError:
            return Stopped("taken back before it began")
        except errors.NodeDiedError:
            return _NodeLost()
        except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            short = "out of memory" if isinstance(error, errors.OutOfMemoryError) else "out of memory?"
            return Died(f"its process died {DEATHS} times on the Ray cluster; {short}")
        except errors.RayTaskError as error:  # the run's own errors are answers; this one came before it
            return _unready(error.cause)
        except errors.RayError as error:
            return RunError(f"the Ray cluster failed: {type(error).__name__}: {_line(error)}")


def _attempt(cell: Cell, pickled: bytes, folder: str, path: Sequence[str]) -> CellAnswer:
    """A cell, in a worker of Ray."""
    import ray.cloudpickle

    with contextlib.suppress(OSError):
        os.chdir(folder)
    sys.path.extend(each for each in path if each not in sys.path)
    try:
        task = ray.cloudpickle.loads(pickled)
    except (ImportError, RunError) as error:
        return _unready(error)
    return attempt(task, cell)


def _unready(error: object) -> RunError:
    fix = "every node needs Temper, and the store at the same path (a shared file system, or s3://)"
    return RunError(f"a node of the Ray cluster cannot begin runs ({_line(error)}); {fix}")


@contextlib.contextmanager
def _cluster(ray: ModuleType, address: str | None) -> Iterator[None]:
    """A connection to Ray, and to nobody else; what was not there before is gone afterwards."""
    if ray.is_initialized():
        yield
        return
    argument, target = ("address", address) if address else ("RAY_ADDRESS", os.environ.get("RAY_ADDRESS"))
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        if target:
            _connect(ray, argument, target)
        else:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports home unless told otherwise
            ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        yield
    finally:
        ray.shutdown()
        if main:  # Ray takes it and does not give it back
            signal.signal(signal.SIGTERM, before)


def _connect(ray: ModuleType, argument: str, address: str) -> None:
    fix = "start a cluster with ray start --head and give its address, or leave it out for one on this machine"
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        if host and port.isdigit():
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:  # nobody there, no address at all, another version of Ray
        raise ArgumentError(argument, address, f"no Ray cluster can be used there ({_line(error)}); {fix}") from None


class _Node(TypedDict):
    """What Ray says of a node, as far as it is asked for."""

    Alive: bool
    Resources: dict[str, float]


def _check_room(nodes: Sequence[_Node], threads: int, gpus: float) -> None:
    """Some node could hold a run if it had nothing else to do.

    Raises:
        ArgumentError: none could, so that Ray would wait for ever.
    """
    sizes = [(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in nodes if node["Alive"]]
    roomy = [size for size in sizes if size[0] >= threads]
    if not roomy:
        most = max((cpus for cpus, _ in sizes), default=0)
        raise ArgumentError("threads", threads, f"no node of the Ray cluster has more than {most:g} CPUs; ask for less")
    most = max(held for _, held in roomy)
    if gpus > most:
        fix = f"no node of the Ray cluster with {threads} CPUs has more than {most:g} GPUs; ask for less"
        raise ArgumentError("gpus_per_run", gpus, fix)


def _line(error: object) -> str:
    """An error in one short line."""
    return " ".join(str(error).split())[:200]
