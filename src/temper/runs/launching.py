"""Work that several processes of this machine do together, and how it ends: alike in all, or with an error of one."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException

from temper.core.interrupt import Stop, Stopped
from temper.core.orphans import SAVING_SECONDS, end_with_parent, unheard
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
    others = set(multiprocessing.active_children())
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


def _wait(launched: Future[Exception | None], stop: Stop, others: set[BaseProcess]) -> None:
    """Wait for the processes; after a signal each of them is told to stop, once, those that were still to start too."""
    told = set(others)
    try:
        while not wait([launched], POLL_SECONDS).done:
            if stop.requested:
                told |= _terminated(told)
    except KeyboardInterrupt:  # a second signal: what is not saved is lost
        _terminated(others)
        raise


def _terminated(others: set[BaseProcess]) -> set[BaseProcess]:
    """Send SIGTERM to the processes that were started from here, but for ``others``; returns them."""
    mine = set[BaseProcess](multiprocessing.active_children()) - others
    for process in mine:
        process.terminate()
    return mine


def _launch(fabric: Fabric, line: Line, work: Work, args: tuple[object, ...]) -> Exception | None:
    with unheard():
        end: Exception | None = fabric.launch(partial(_process, line=line, work=work, args=args))
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
