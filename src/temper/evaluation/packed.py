"""The file of adversarial images: what it holds, written and read image by image, so that memory holds one.

Arrays of ``NORM.npz``, one row per sample, ids rising, not compressed: ``images`` float32 [N, C, H, W] in [0, 1];
``sample``, ``label``, ``prediction`` (of the clean image) and ``adversarial_prediction`` int64 [N]; ``distance``
float64 [N] to the clean image at the model's size, in the file's norm; ``about``, fingerprints of model and data, JSON.
"""

import struct
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from temper.core.files import written
from temper.errors import DamagedError, EvidenceError

PIXEL = np.dtype("<f4")
IMAGES = "images.npy"
COLUMNS = ("sample", "adversarial_prediction", "distance")
# What NumPy and zipfile raise of a file that is damaged.
DAMAGE = (zipfile.BadZipFile, struct.error, ValueError, EOFError, KeyError, IndexError, TypeError)


class Packing:
    """A file of adversarial images that is being written: its images first, then the other arrays."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    def images(self, count: int, shape: tuple[int, ...], contents: Iterable[bytes]) -> None:
        """Write so many images of that shape, each as its bytes in float32."""
        with self._archive.open(IMAGES, "w", force_zip64=True) as stream:
            header = {"descr": PIXEL.str, "fortran_order": False, "shape": (count, *shape)}
            np.lib.format.write_array_header_1_0(stream, header)
            for content in contents:
                stream.write(content)

    def array(self, name: str, array: NDArray[np.generic]) -> None:
        """Write another array."""
        with self._archive.open(f"{name}.npy", "w") as stream:
            np.lib.format.write_array(stream, array, allow_pickle=False)


@contextmanager
def packing(path: Path) -> Iterator[Packing]:
    """A file that takes the place of ``path`` when it is whole."""
    with written(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        yield Packing(archive)


@dataclass(frozen=True)
class Packed:
    """A file of adversarial images, without its images.

    Attributes:
        path: of the file.
        sample, becomes: int64 [N], rising ids and the classes of the flips.
        distance: float64 [N].
    """

    path: Path
    sample: NDArray[np.int64]
    becomes: NDArray[np.int64]
    distance: NDArray[np.float64]

    @classmethod
    def read(cls, path: Path, about: str, shape: tuple[int, ...]) -> "Packed":
        """What a file holds beside its images.

        Raises:
            DamagedError: it was cut short or overwritten. EvidenceError: it is about something else than ``about``, or
                its images have another shape.
        """
        with _undamaged(path), zipfile.ZipFile(path) as archive:
            if "about.npy" not in archive.namelist() or str(_array(archive, "about")) != about:
                raise EvidenceError(f"{path}: holds no adversarial images of this model and data; move it away")
            with archive.open(IMAGES) as stream:
                count, *held = _shape_of(stream)
            columns = [_array(archive, name) for name in COLUMNS]
            if tuple(held) != shape or {len(column) for column in columns} != {count}:
                raise ValueError(f"arrays of {count} images {held} do not go together")
        return cls(path, *columns)

    def images(self) -> Iterator[bytes]:
        """The images in their order, each as its bytes in float32.

        Raises:
            DamagedError: it was cut short or overwritten.
        """
        with _undamaged(self.path), zipfile.ZipFile(self.path) as archive, archive.open(IMAGES) as stream:
            count, *shape = _shape_of(stream)
            size = int(np.prod(shape)) * PIXEL.itemsize
            for _ in range(count):
                content = stream.read(size)
                if len(content) < size:
                    raise EOFError("it ends within an image")
                yield content


def _array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        return array


def _shape_of(stream: IO[bytes]) -> tuple[int, ...]:
    """Shape of the images, from the header before them."""
    np.lib.format.read_magic(stream)
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if fortran or dtype != PIXEL:
        raise ValueError(f"images are {dtype}")
    return tuple(shape)


@contextmanager
def _undamaged(path: Path) -> Iterator[None]:
    """Inside, what NumPy and zipfile say of a damaged file is one line with the way out."""
    try:
        yield
    except EvidenceError:
        raise
    except DAMAGE as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise DamagedError(
            f"{path}: is damaged ({what}); remove it, and the same command finds its images again"
        ) from None
