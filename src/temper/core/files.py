"""Files that are whole or not there: everything Temper writes is written aside and then moved into place."""

import errno
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from temper.errors import ArgumentError, DamagedError
from temper.text import did_you_mean, masked, nearest

log = logging.getLogger(__name__)
T = TypeVar("T")
JsonObject = dict[str, Any]
"""What is kept as a JSON object; whoever reads one knows what is in it."""

# What the system says of a path that cannot be used as the call asks; anything else is a failure on the way.
WRONG_PLACE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP,
    errno.ENAMETOOLONG,
}  # fmt: skip


@contextmanager
def named(path: Path, unfinished: Path) -> Iterator[None]:
    """Inside, an error of writing ``unfinished`` tells of the ``path`` that it is for; a full disk names no file."""
    try:
        yield
    except OSError as error:
        if error.filename in (None, str(unfinished), unfinished):
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; on success it is flushed to the disk and takes the place of ``path``.

    A crash leaves the old file, or none; an error removes the unfinished one, and the folders that were made for it. Of
    a link, what it points to is written.

    Raises:
        OSError: it cannot be written; names ``path``. Of a folder or a device, before anything is written.
    """
    place = target(path)
    unfinished = place.with_name(f".{place.name}.{uuid.uuid4().hex[:12]}.part")
    made = [folder for folder in place.parents if not folder.exists()]
    try:
        with named(path, unfinished):
            place.parent.mkdir(parents=True, exist_ok=True)
            yield unfinished
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(place)
    finally:
        unfinished.unlink(missing_ok=True)
        if not place.exists():
            for folder in made:
                with suppress(OSError):  # another file came into it
                    folder.rmdir()


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Inside, a folder is there; what of it was made for that and is empty in the end is removed."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # something is in it
            for each in missing:
                each.rmdir()


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


def check_writable(folder: Path, argument: str) -> None:
    """Refuse a folder that cannot be made or written to, before hours are spent on what goes into it; none is made.

    Raises:
        ArgumentError: about ``argument``.
    """
    try:
        there = next(each for each in (folder, *folder.absolute().parents) if each.exists() or each.is_symlink())
    except OSError as error:
        raise ArgumentError(
            argument, str(folder), f"cannot be made ({error.strerror}); choose another folder"
        ) from None
    if not there.is_dir():
        raise ArgumentError(argument, str(folder), f"cannot be made ({there.name} is no folder); choose another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ArgumentError(argument, str(folder), "may not be written to; choose another folder")


def near(path: Path) -> list[Path]:
    """What lies where ``path`` does not, and is called nearly so: at most one."""
    beside = [entry.name for entry in path.parent.glob("*")] if path.name else []
    return [path.parent / name for name in nearest(path.name, beside)]


def not_there(path: Path, fix: str) -> str:
    """What to say of a ``path`` that leads to no file: what may be meant, or, where nothing is near, what to give."""
    if path.is_dir():
        return "is a folder, give one of its files"
    return f"is not there; {did_you_mean([*map(str, near(path))], fix)}"


def write_json(path: Path, content: object) -> None:
    """Write ``content`` as readable JSON, without credentials of addresses."""
    with written(path) as unfinished:
        unfinished.write_text(masked(json.dumps(content, indent=1)) + "\n")


def read_json(path: Path) -> JsonObject:
    """The object that :func:`write_json` wrote.

    Raises:
        OSError: it is not there, or may not be read. DamagedError: it was cut short or overwritten since.
    """
    try:
        content = json.loads(path.read_bytes().decode())
    except ValueError as error:
        raise DamagedError(f"{path}: is damaged ({error})") from None
    if not isinstance(content, dict):
        raise DamagedError(f"{path}: is damaged (it holds no object)")
    return content


def unless_damaged(read: Callable[[Path], T], path: Path, consequence: str) -> T | None:
    """What a file holds; None where it is not there, or damaged, which a warning says, and what follows from it.

    Args:
        read: reads it, and raises DamagedError where that cannot be.
        path: of the file.
        consequence: what follows, for the warning.
    """
    if not path.exists():
        return None
    try:
        return read(path)
    except DamagedError as error:
        log.warning("%s; %s", error, consequence)
        return None
