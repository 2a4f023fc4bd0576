"""Data sets in NumPy archives."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from temper.data.dataset import ArrayImages, Dataset, numbered_classes
from temper.errors import DataError


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


def _read(path: Path) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(path):  # np.load would also take a .npy file, and then return an array
        raise DataError(f"{path}: not a readable .npz archive: write it anew with np.savez")
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name in ("images", "labels", "class_names")}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a readable .npz archive ({error}): write it anew with np.savez") from error
