"""Files that are whole or not there: everything Temper writes is written aside and then moved into place."""

import errno
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from temper.text import masked

# What the system says of a path that cannot be used as the call asks; anything else is a failure on the way.
WRONG_PLACE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP,
    errno.ENAMETOOLONG,
}  # fmt: skip


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; on success it is flushed to the disk and takes the place of ``path``.

    A crash leaves the old file, or none; an error removes the unfinished one. Of a link, what it points to is written.

    Raises:
        OSError: it cannot be written; names ``path``. Of a folder or a device, before anything is written.
    """
    place = target(path)
    unfinished = place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(place)
    except OSError as error:
        if error.filename in (None, str(unfinished), unfinished):  # a limit or a full disk names no file
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def target(path: Path) -> Path:
    """The file that writing to ``path`` makes or replaces: ``path``, or what it links to.

    Raises:
        OSError: a folder is there, something else that is no file, or a link to itself; or nothing can be made there.
    """
    place = Path(os.path.realpath(path)) if path.is_symlink() else path
    if place.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
    if place.is_symlink() or (place.exists() and not place.is_file()):
        raise OSError(errno.EPERM, "is no regular file", str(path))
    above = next(folder for folder in place.absolute().parents if folder.exists())
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{above.name} is a file, and no folder", str(path))
    if not os.access(above, os.W_OK):
        raise PermissionError(errno.EACCES, "may not be written to", str(path))
    return place


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as readable JSON, without credentials of addresses."""
    with written(path) as unfinished:
        unfinished.write_text(masked(json.dumps(content, indent=1)) + "\n")
