"""Processes that leave Ctrl-C to the one that started them, and end with it, however that ended: killed, too."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import wait

SAVING_SECONDS = 10.0  # that a process with work of its own gets to save it when the one that started it is gone


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Inside, Ctrl-C waits, and a process that this thread starts there never hears it: whoever starts it tells it to
    stop, by SIGTERM.

    A terminal sends Ctrl-C to all processes; one that is still importing could only answer with a traceback.
    """
    resource_tracker.ensure_running()  # when it starts it lets Ctrl-C through again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def end_with_parent(grace: float = 0.0) -> None:
    """From now on, let this worker process end when the one that started it is gone.

    Args:
        grace: seconds to save in, from a SIGTERM on; 0: it ends at once.
    """
    threading.Thread(target=_end_with_parent, args=(grace,), daemon=True).start()


def serve_parent(worker: int) -> None:
    """What a worker of a data loader does first: it ends with its parent, and leaves signals to it.

    A terminal sends Ctrl-C to workers too, which would die noisily before the parent stops in order.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _end_with_parent(grace: float) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    if grace:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
    os._exit(1)
