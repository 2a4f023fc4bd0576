"""Processes that end with the one that started them, however that ended: killed, too."""

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.connection import wait

SAVING_SECONDS = 10.0  # that a process with work of its own gets to save it when the one that started it is gone


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
