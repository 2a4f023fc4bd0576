"""Images that stay in their files until they are asked for."""

import functools
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from temper.data.decode import UNREADABLE, check_header, decode
from temper.errors import DataError

#: Bytes of the file of one image: a zip member of zeros declares a thousand times what it takes.
MAX_BYTES = 2**28


def check_bytes(size: int, where: str | Path) -> None:
    """Raise DataError where a file has more bytes than the file of an image has."""
    if size > MAX_BYTES:
        raise DataError(f"{where}: has {size:,} bytes, an image may have {MAX_BYTES:,}: replace or remove it")


class Files(Protocol):
    """A sequence of encoded images."""

    def __len__(self) -> int: ...

    def open(self, index: int) -> IO[bytes]:
        """The bytes of file ``index``; the caller closes it."""
        ...

    def where(self, index: int) -> str:
        """How a message to people names file ``index``."""
        ...

    def take(self, indices: NDArray[np.int64]) -> Self:
        """The files at ``indices``, in that order."""
        ...


@dataclass(frozen=True)
class FolderFiles:
    """Files in a folder; ``members`` are paths below ``root`` with forward slashes."""

    root: Path
    members: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.members)

    def open(self, index: int) -> IO[bytes]:
        """See :class:`Files`."""
        path = self.root / self.members[index]
        check_bytes(path.stat().st_size, path)
        return path.open("rb")

    def where(self, index: int) -> str:
        """See :class:`Files`."""
        return str(self.root / self.members[index])

    def take(self, indices: NDArray[np.int64]) -> "FolderFiles":
        """See :class:`Files`."""
        return FolderFiles(self.root, tuple(self.members[i] for i in indices))


@dataclass(frozen=True)
class ZipFiles:
    """Members of a zip archive, read from it without unpacking; safe in worker processes."""

    archive: Path
    members: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.members)

    def open(self, index: int) -> IO[bytes]:
        """See :class:`Files`."""
        archive = open_archive(self.archive, os.getpid())
        check_bytes(archive.getinfo(self.members[index]).file_size, self.where(index))
        return archive.open(self.members[index])  # gives no more than the size that was checked

    def where(self, index: int) -> str:
        """See :class:`Files`."""
        return f"{self.archive}/{self.members[index]}"

    def take(self, indices: NDArray[np.int64]) -> "ZipFiles":
        """See :class:`Files`."""
        return ZipFiles(self.archive, tuple(self.members[i] for i in indices))


@functools.lru_cache(maxsize=4)
def open_archive(path: Path, process: int) -> zipfile.ZipFile:
    """The open archive, one per process: forked processes that share a handle move each other's position.

    Raises:
        DataError: not a zip archive.

    """
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: not a readable zip archive ({error}): make it anew") from error


@dataclass(frozen=True)
class FileImages:
    """Images decoded from ``files`` each time they are asked for (see :func:`temper.data.decode.decode`)."""

    files: Files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        with self._open(index) as stream:
            return decode(stream, self.where(index))

    def where(self, index: int) -> str:
        """See :class:`temper.data.Images`."""
        return self.files.where(index)

    def content(self, index: int) -> bytes:
        """See :class:`temper.data.Images`."""
        with self._open(index) as stream:
            return stream.read()

    def take(self, indices: NDArray[np.int64]) -> "FileImages":
        """See :class:`temper.data.Images`."""
        return FileImages(self.files.take(indices))

    def check_headers(self) -> None:
        """Raise DataError naming the first file that does not begin like an image."""
        for index in range(len(self)):
            with self._open(index) as stream:
                check_header(stream, self.where(index))

    def _open(self, index: int) -> IO[bytes]:
        try:
            return self.files.open(index)
        except DataError:
            raise
        except UNREADABLE as error:
            raise DataError(f"{self.where(index)}: cannot be opened ({error}): replace or remove it") from error
