"""What a process that was spawned logs and fails with, told to the process that spawned it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import QueueHandler
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Thread

OURS = "temper"


class Line:
    """The way back to the parent; it can be handed to a process when that is spawned.

    Attributes:
        failures: in the parent, what processes failed with; all of it is there when the listening is over.
    """

    def __init__(self, end: Connection, level: int) -> None:
        self._end, self._level = end, level
        self.failures: list[Exception] = []

    def speak(self) -> None:
        """Send what this process logs from now on to its parent, from that one's level up. One process speaks."""
        logging.getLogger().addHandler(_Sender(self._end))
        logging.getLogger(OURS).setLevel(self._level)

    def fail(self, error: Exception) -> None:
        """Tell the parent what this process cannot go on with."""
        self._end.send(error)


class _Sender(QueueHandler):
    """Sends records whole. A pipe, because a queue's lock would outlive a process that is killed while it holds it."""

    def __init__(self, end: Connection) -> None:
        super().__init__(end)  # type: ignore[arg-type]  # only enqueue looks at it
        self._end = end

    def enqueue(self, record: logging.LogRecord) -> None:
        self._end.send(record)


@contextmanager
def listening() -> Iterator[Line]:
    """Log here, with the handlers of this process, what the process that was handed the line logs, and keep what any
    that was handed it fails with."""
    heard, end = Pipe(duplex=False)
    line = Line(end, logging.getLogger(OURS).getEffectiveLevel())
    listener = Thread(target=_hear, args=(heard, line), daemon=True)
    listener.start()
    try:
        yield line
    finally:
        end.close()  # the last one open: all that was sent is heard first
        listener.join()


def _hear(heard: Connection, line: Line) -> None:
    with heard:
        while True:
            try:
                told = heard.recv()
            except (EOFError, OSError):  # all have ended, or one was killed in the middle of a record
                return
            if isinstance(told, Exception):
                line.failures.append(told)
            else:
                logging.getLogger(told.name).handle(told)
