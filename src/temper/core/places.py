"""Folders of small files, here or in an object store, that several processes read and write at once."""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import fsspec

from temper.core.files import named, written
from temper.errors import ArgumentError, MissingExtraError, TemperError, UnreachableError
from temper.text import masked

# What file systems without hard links say (FAT, many that lie in a cloud).
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}


class Place:
    """A folder, or a URL that fsspec reads. Every file in it is whole or not there.

    Args:
        location: a local folder, or a URL such as ``s3://bucket/prefix``.

    Raises:
        ArgumentError: it cannot be read as a location. MissingExtraError: its kind of URL needs a package.
    """

    def __init__(self, location: str | Path) -> None:
        if not str(location):
            raise ArgumentError("store", "", "names no folder; give one, or s3://bucket/prefix")
        if str(location).rstrip("/").endswith(":") and "://" in str(location):
            raise ArgumentError("store", str(location), "names no bucket; write it as s3://bucket/prefix")
        self.location = str(location).rstrip("/")
        if isinstance(location, Path):  # fsspec would take some names for URLs
            self.folder: Path | None = location.absolute()
            self.fs, self.root = fsspec.filesystem("file"), str(self.folder)
            return
        _refuse_secrets(self.location)
        try:
            self.fs, root = fsspec.url_to_fs(self.location, **_options(self.location))
        except ImportError:
            raise MissingExtraError(f"store {self.location}", "s3") from None
        except ValueError as error:
            raise ArgumentError("store", self.location, f"is no folder or URL that can be read ({error})") from None
        self.root = root.rstrip("/")
        self.folder = Path(self.root) if "file" in _protocols(self.fs) else None

    def path(self, name: str) -> str:
        """Full path of a file, as the file system knows it."""
        return f"{self.root}/{name}"

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: it is not there. UnreachableError: nor can it be said whether it is.
        """
        with self.reached():
            content: bytes = self.fs.cat_file(self.path(name))
            return content

    def write(self, name: str, content: bytes) -> None:
        """Put a file down, in the place of an older one."""
        if self.folder:
            with written(self.folder / name) as unfinished:
                unfinished.write_bytes(content)
            return
        with self.reached(missing=True):
            self.fs.pipe_file(self.path(name), content)

    def create(self, name: str, content: bytes) -> None:
        """Put a file down that must not be there yet, so that of several processes one succeeds.

        Raises:
            FileExistsError: it is there.
        """
        if self.folder:
            _create(self.folder / name, content)
            return
        with self.reached(missing=True):
            self.fs.pipe_file(self.path(name), content, mode="create")

    def replace(self, name: str, old: bytes, new: bytes) -> bool:
        """Put ``new`` in the place of a file that holds ``old``; False where another process was faster.

        An object store has no such operation: there the last of two at the very same moment stands, which a look
        afterwards tells the others.
        """
        if not self.folder:
            if self.read(name) != old:
                return False
            self.write(name, new)
            return self.read(name) == new
        path = self.folder / name
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        path.rename(aside)
        try:
            if aside.read_bytes() == old:
                _create(path, new)
                return True
            link(aside, path)  # it was a fresher one
        except FileExistsError:
            pass
        finally:
            aside.unlink()
        return False

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(FileNotFoundError), self.reached():
            self.fs.rm_file(self.path(name))

    def modified(self, name: str) -> float:
        """When a file was last written, in seconds, by the clock of the file system.

        Raises:
            FileNotFoundError: it is not there.
        """
        if self.folder:
            return (self.folder / name).stat().st_mtime
        with self.reached():
            when: float = self.fs.modified(self.path(name)).timestamp()
            return when

    def touch(self, name: str, content: bytes) -> None:
        """Let a file that holds ``content`` be as new as one that is written now."""
        if self.folder:
            os.utime(self.folder / name)
        else:
            self.write(name, content)

    def open(self, name: str) -> IO[bytes]:
        """A file to read pieces of.

        Raises:
            FileNotFoundError: it is not there.
        """
        with self.reached():
            file: IO[bytes] = self.fs.open(self.path(name), "rb")
            return file

    def stamps(self, folder: str) -> dict[str, str]:
        """The files in a folder, each with what tells one content of it from another; none where it is not there."""
        try:
            if self.folder:
                with os.scandir(self.folder / folder) as entries:
                    files = [(entry.name, entry.stat()) for entry in entries if entry.is_file()]
                return {name: f"{stat.st_size}-{stat.st_mtime_ns}" for name, stat in files}
            with self.reached():
                self.fs.invalidate_cache()
                listed = self.fs.ls(self.path(folder), detail=True)
        except FileNotFoundError:
            return {}
        return {each["name"].rpartition("/")[2]: _stamp(each) for each in listed if each["type"] == "file"}

    def now(self, beside: str) -> float:
        """What the clock of the file system says, in seconds: that of this machine may differ by hours."""
        probe = str(Path(beside).with_name(f".now-{uuid.uuid4().hex}.part"))
        self.write(probe, b"")
        try:
            return self.modified(probe)
        finally:
            self.remove(probe)

    @contextlib.contextmanager
    def reached(self, *, missing: bool = False) -> Iterator[None]:
        """Inside, whatever an object store fails with is one error of one line; of local files it is left as it is.

        Args:
            missing: what is not there is such an error too, as a bucket that is written to.
        """
        try:
            yield
        except (FileExistsError, TemperError):
            raise
        except Exception as error:
            if self.folder or (isinstance(error, FileNotFoundError) and not missing):
                raise
            reason = " ".join(masked(str(error)).split())[:300] or type(error).__name__
            fix = "check the bucket's name, the credentials (AWS_ACCESS_KEY_ID and others) and the network"
            raise UnreachableError(f"{self.location}: cannot be used ({reason}); {fix}") from None


def _stamp(listed: Mapping[str, object]) -> str:
    stamps = (listed.get(key) for key in ("ETag", "etag", "mtime", "LastModified", "created"))
    return f"{listed['size']}-{next((each for each in stamps if each is not None), '')}"


def _create(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A link appears with its content, where creating and then writing would show an empty file.
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with named(path, unfinished):
            with unfinished.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            link(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def link(one: Path, other: Path) -> None:
    """Let a file bear another name too, which must be free."""
    try:
        os.link(one, other)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with other.open("xb") as file:  # for a moment it is there and empty
            file.write(one.read_bytes())


def _refuse_secrets(location: str) -> None:
    shown = masked(location)
    if shown != location:
        fix = "leave user name and password out of the URL; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise ArgumentError("store", shown, fix)


def _options(location: str) -> dict[str, bool]:
    # Other workers write too: what a listing said a moment ago is not to be trusted.
    return {"use_listings_cache": False} if "://" in location and not location.startswith("file:") else {}


def _protocols(filesystem: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    protocol: str | tuple[str, ...] = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
