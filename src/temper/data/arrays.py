"""Data sets in NumPy archives."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from temper.data.dataset import ArrayImages, Dataset
from temper.errors import DataError

#: Above what any published set has (ImageNet-21k: 21,841): a larger label is a mistake, not a class.
MAX_CLASSES = 100_000


def load_npz(path: Path) -> Dataset:
    """The data set in a ``.npz`` file, see :func:`temper.data.load`; never unpickles.

    Raises:
        DataError: damaged, an array missing or of the wrong type or shape, or a label out of range.

    """
    arrays = _read(path)
    for name in ("images", "labels"):
        if name not in arrays:
            raise DataError(f"{path}: has no array {name!r} (it has {', '.join(arrays) or 'none'}): add it")
    images, labels = arrays["images"], arrays["labels"]
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{path}: labels are {labels.dtype} of shape {labels.shape}: give integers [N]")
    _check_range(labels, path)
    labels = labels.astype(np.int64)
    try:
        stored = ArrayImages(images[..., np.newaxis] if images.ndim == 3 else images)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return Dataset(
        images=stored,
        labels=labels,
        class_names=_class_names(arrays, labels),
        ids=np.arange(len(stored), dtype=np.int64),
        name=path.name,
    )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {
                name: archive[name] for name in archive.files if name in ("images", "labels", "class_names")
            }
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path}: not a readable .npz archive ({error}): write it anew with np.savez"
        ) from error


def _check_range(labels: NDArray[Any], path: Path) -> None:
    wrong = np.flatnonzero((labels < 0) | (labels >= MAX_CLASSES))
    if wrong.size:
        first = int(wrong[0])
        raise DataError(
            f"{path}: images[{first}] has label {labels[first]}: labels are class numbers from 0 to K-1, "
            f"and K is at most {MAX_CLASSES}"
        )


def _class_names(arrays: dict[str, NDArray[Any]], labels: NDArray[np.int64]) -> tuple[str, ...]:
    """The names stored, or else the numbers up to the largest label."""
    if "class_names" in arrays:
        return tuple(str(name) for name in arrays["class_names"])
    return tuple(str(label) for label in range(int(labels.max(initial=-1)) + 1))
