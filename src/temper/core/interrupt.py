"""Stopping at a good moment: a signal is a request, and the work says when it is safe."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType, TracebackType
from typing import Self

from temper.errors import TemperError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(TemperError):  # noqa: N818  (an outcome, not a fault)
    """Work stopped early on request; everything done is saved, and the same command continues."""


class Stop:
    """Inside ``with Stop() as stop``, Ctrl-C and SIGTERM set ``stop.requested``; a second one acts at once.

    Only the main thread can catch signals; in others nothing is changed.
    """

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Self:
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


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
