"""Work that several processes of this machine do together, and how it ends: alike in all, or with an error of one."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException

from temper.core.interrupt import Stop, Stopped, unheard
from temper.core.orphans import SAVING_SECONDS, end_with_parent
from temper.core.relay import Line, listening
from temper.errors import NonFiniteLossError, RunError, TemperError

POLL_SECONDS = 0.5
Work = Callable[..., None]


def together(fabric: Fabric, folder: Path, work: Work, *args: object) -> None:
    """Do work in each process of ``fabric``, which are started for it; the first one's log is said here.

    Args:
        fabric: of a strategy that spawns.
        folder: what the work is about, for messages.
        work: called with the process's fabric and ``args``; all of it travels to the processes.
        args: of the work.

    Raises:
        Stopped: a signal asked to stop. NonFiniteLossError: all of them met it.
        TemperError, OSError: what one of them could not go on with. RunError: one was killed.
        ProcessException: what else one of them failed with.
    """
    others = _children()
    with Stop() as stop:
        # Another thread: this one hears signals, and a process is started deaf by a thread that hears none.
        with listening() as line, ThreadPoolExecutor(1) as launcher:
            launched = launcher.submit(_launch, fabric, line, work, args)
            _wait(launched, stop, others)
            error = launched.exception()
        if isinstance(error, ProcessException):
            error = Stopped(f"{folder}: stopped; --resume continues") if stop.requested else _ended(error, line, folder)
    end = error or launched.result()
    if end is not None:
        raise end


def _wait(launched: Future[Exception | None], stop: Stop, others: set[int]) -> None:
    """Wait for the processes; after a signal each of them is told to stop, once, those that were still to start too."""
    told = set(others)
    try:
        while not wait([launched], POLL_SECONDS).done:
            if stop.requested:
                untold = _children() - told
                _end(untold)
                told |= untold
    except KeyboardInterrupt:  # a second signal: what is not saved is lost
        _end(_children() - others)
        raise


def _launch(fabric: Fabric, line: Line, work: Work, args: tuple[object, ...]) -> Exception | None:
    with unheard():
        # lightning-fabric types the launched function as one without arguments of its own.
        end: Exception | None = fabric.launch(_process, line, work, args)  # type: ignore[arg-type]
        return end


def _process(fabric: Fabric, line: Line, work: Work, args: tuple[object, ...]) -> Stopped | NonFiniteLossError | None:
    """One of the processes."""
    end_with_parent(SAVING_SECONDS)
    try:
        if fabric.is_global_zero:
            line.speak()
        work(fabric, *args)
    except (Stopped, NonFiniteLossError) as end:
        return end  # of all processes
    except (TemperError, OSError, torch.OutOfMemoryError) as error:
        line.fail(error)  # of this one; that it raises ends the others
        raise
    return None


def _ended(error: ProcessException, line: Line, folder: Path) -> Exception:
    """What to say of a process that did not come to its end."""
    if line.failures:
        return line.failures[0]
    if isinstance(error, ProcessExitedException):
        how = error.signal_name or f"exit status {error.exit_code}"
        fix = "out of memory? --resume continues from the last checkpoint"
        return RunError(f"{folder}: process {error.error_index} of the training ended ({how}); {fix}")
    return error


def _children() -> set[int]:
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}


def _end(processes: set[int]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
