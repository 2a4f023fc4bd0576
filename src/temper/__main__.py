"""The program ``temper``: it listens for signals before it imports anything that takes long."""

import os
import signal
import sys
from types import FrameType

TYPE_CHECKING = False  # see temper/__init__.py
if TYPE_CHECKING:
    from collections.abc import Callable

STOPPED = 3  # as in temper.cli, which takes too long to import for its sake
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAID = b"temper: stopped; what was saved is kept, and the same command continues\n"


def main() -> int:
    """Run a command; returns the exit status."""
    _listen(_stop)
    try:
        from temper.cli.main import main as run

        return run()
    except KeyboardInterrupt:  # before the command listened itself, or after
        os.write(2, _SAID)
        return STOPPED
    finally:
        _listen(signal.SIG_IGN)  # all is said: Python's way out, which takes a while, has nothing to add


def _listen(handler: "signal.Handlers | Callable[[int, FrameType | None], None]") -> None:
    for number in _SIGNALS:
        signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> None:
    """What Ctrl-C and SIGTERM do until a command listens itself.

    Inside an import nothing has begun, and an exception might be lost in what is imported, or come out as another.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, _SAID)
            os._exit(STOPPED)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
