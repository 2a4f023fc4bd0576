"""Data sets in NumPy archives."""

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from temper.data.dataset import ArrayImages, Dataset, numbered_classes
from temper.errors import DataError

#: Bytes of an array: from where on it is mapped and not read, and how many a compressed one may unpack to.
MAPPED, UNPACKED = 2**28, 2**31
CHUNK = 2**20

#: What images and labels are called where they have not the names of :func:`temper.data.load`.
PAIRS = (
    ("image", "label"), ("images", "targets"), ("imgs", "labels"), ("data", "labels"), ("data", "targets"),
    ("x", "y"), ("X", "y"), ("x_test", "y_test"), ("X_test", "y_test"), ("test_images", "test_labels"),
)  # fmt: skip

#: What NumPy and zipfile raise of a file that is damaged.
DAMAGE = (
    OSError, ValueError, EOFError, RuntimeError, SyntaxError, LookupError, OverflowError, struct.error, zlib.error,
    lzma.LZMAError, tokenize.TokenError, zipfile.BadZipFile,
)  # fmt: skip


def load_npz(path: Path) -> Dataset:
    """The data set in a ``.npz`` file, see :func:`temper.data.load`; never unpickles.

    Raises:
        DataError: damaged, an array missing or of the wrong type or shape, or a label out of range.

    """
    arrays = read_archive(path, partial(_names, path))
    images, labels = arrays["images"], arrays["labels"]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{path}: labels are {labels.dtype} of shape {labels.shape}: give integers [N]")
    try:
        stored = ArrayImages(images[..., np.newaxis] if images.ndim == 3 else images)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    names = arrays.get("class_names")
    return Dataset(
        images=stored,
        labels=labels.astype(np.int64),
        class_names=numbered_classes(labels, str(path)) if names is None else tuple(map(str, names)),
        ids=np.arange(len(stored), dtype=np.int64),
        name=path.name,
    )


def read_archive(path: Path, choose: Callable[[list[str]], Mapping[str, str]]) -> dict[str, NDArray[Any]]:
    """Arrays of an ``.npz`` file; never unpickles.

    Args:
        path: of the file.
        choose: from the names of its arrays to those that are wanted, each under the name that it gets.

    Raises:
        DataError: it is damaged, or what ``choose`` raises.
    """
    if not zipfile.is_zipfile(path):  # np.load would also take a .npy file, and then return an array
        raise DataError(f"{path}: not a readable .npz archive: write it anew with np.savez")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            chosen = choose(list(members))
            return {name: _array(path, archive, members[array]) for name, array in chosen.items()}
    except DataError:
        raise
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: not a readable .npz archive ({reason}): write it anew with np.savez") from error


def _names(path: Path, arrays: list[str]) -> dict[str, str]:
    """Which array is which; where neither usual name is there, the one known pair that is."""
    pair = ("images", "labels")
    if "adversarial_prediction" in arrays:
        fix = "8 bits would spoil them; in Python, temper.evaluate takes its images and label"
        raise DataError(f"{path}: holds adversarial images, float32 as temper evaluate keeps them: {fix}")
    if not set(pair) <= set(arrays):
        there = [known for known in PAIRS if set(known) <= set(arrays)]
        pair = there[0] if len(there) == 1 else pair
    for what, name in zip(("images", "labels"), pair, strict=True):
        if name not in arrays:
            raise DataError(f"{path}: has no array {what!r} (it has {', '.join(arrays) or 'none'}): add it")
    chosen = {"images": pair[0], "labels": pair[1]}
    return chosen | ({"class_names": "class_names"} if "class_names" in arrays else {})


def _array(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One array of the archive, after a look at the size that its header declares; a large one is mapped.

    Raises:
        DataError: it declares another size than the archive has, or one too large to unpack.
    """
    with archive.open(member) as stream:
        shape, fortran, dtype = _header(member.filename, stream)
        start, size = stream.tell(), math.prod(shape) * dtype.itemsize
        what = f"{path}: array {member.filename} declares {size:,} bytes"
        if size != member.file_size - start:
            raise DataError(f"{what}, the archive has {member.file_size - start:,} for it: write it anew")
        order: Literal["C", "F"] = "F" if fortran else "C"
        if size > MAPPED and member.compress_type == zipfile.ZIP_STORED:
            return np.memmap(path, dtype, "r", _offset(path, member) + start, shape, order).view(np.ndarray)
        if size > UNPACKED:
            raise DataError(f"{what}, compressed ones may have {UNPACKED:,}: store it with np.savez, uncompressed")
        content = np.empty(size, np.uint8)
        for first in range(0, size, CHUNK):
            piece = stream.read(min(CHUNK, size - first))
            content[first : first + CHUNK] = np.frombuffer(piece, np.uint8)  # a ValueError where it is cut short
    return np.ndarray(shape, dtype, content.data, order=order)


def _header(name: str, stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Shape, whether in Fortran's order, and dtype of an array that is to be read."""
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"array {name} has format version {version}")
    shape, fortran, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError(f"array {name} holds Python objects")
    return shape, fortran, dtype


def _offset(path: Path, member: zipfile.ZipInfo) -> int:
    """Where in the archive the bytes of a member begin: after its own header, whose length is not in the directory."""
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return member.header_offset + 30 + int(name) + int(extra)
