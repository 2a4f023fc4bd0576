"""Files that are whole or not there: everything Temper writes is written aside and then moved into place."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; on success it is flushed to the disk and takes the place of ``path``.

    A crash leaves the old file, or none; an error removes the unfinished one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as readable JSON."""
    with written(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=1) + "\n")
