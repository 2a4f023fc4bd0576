"""The program ``temper``: it listens for signals before it imports anything that takes long."""

import os
import signal
import sys
from types import FrameType

from temper.cli import STOPPED


def main() -> int:
    """Run a command; returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    from temper.cli.main import main as run

    return run()


def _stop(number: int, frame: FrameType | None) -> None:
    """What Ctrl-C and SIGTERM do until a command listens itself.

    Inside an import nothing has begun, and an exception might be lost in what is imported, or come out as another.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"temper: stopped; what was saved is kept, and the same command continues\n")
            os._exit(STOPPED)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
