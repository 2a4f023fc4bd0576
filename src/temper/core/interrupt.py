"""Stopping at a good moment: a signal is a request, and the work says when it is safe."""

import signal
import threading
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
