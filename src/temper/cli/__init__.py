"""The commands: they read the call, hand it on, and say how it went."""

import sys

from temper.text import one_line

DONE, FAILED, WRONG_CALL, STOPPED = 0, 1, 2, 3  # exit statuses


def end(message: str, status: int) -> int:
    """Say how a command ended, in a line on stderr; returns the status."""
    sys.stderr.write(f"temper: {one_line(message)}\n")
    return status
