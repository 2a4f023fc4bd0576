"""Files of adversarial images, as Temper and other tools write them."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from temper.core.files import not_there
from temper.data.arrays import DAMAGE, read_archive
from temper.errors import DataError

#: What the images are called, the first that is there: by Temper, AutoAttack, torchattacks, and by hand.
NAMES = ("adversarial", "adv_complete", "adv_inputs", "x_adv", "adv", "images")
SAMPLE = "sample"

Arrays = tuple[NDArray[np.generic] | Tensor, NDArray[np.int64] | None]


def load_adversarial(path: Path) -> Arrays:
    """Adversarial images of a file, and the ids of the samples that they belong to, int64 [N], or None without any.

    Nothing in it is executed.

    Args:
        path: ``.npz`` or a torch file (``.pt``, ``.pth``) with images under one of :data:`NAMES` and, optionally, ids
            under ``sample``; a torch file, or an ``.npy`` one, may be the images alone.

    Raises:
        DataError: not there, damaged, of another kind, or without images.
    """
    if not path.is_file():
        raise DataError(f"{path}: {not_there(path, 'give a .npz, .npy or .pt file')}")
    kind = path.suffix.lower()
    if kind == ".npz":
        return _chosen(path, read_archive(path, partial(_names, path)))
    if kind == ".npy":
        return _npy(path), None
    if kind in (".pt", ".pth"):
        content = _torch(path)
        return (content, None) if isinstance(content, Tensor) else _chosen(path, _tensors(path, content))
    raise DataError(f"{path}: no kind of file that adversarial images are read from: give .npz, .npy, .pt or .pth")


def _names(path: Path, there: Iterable[str]) -> dict[str, str]:
    """Which array is the images, and which the ids, where there are some."""
    there = list(there)
    images = next((name for name in NAMES if name in there), None)
    if images is None:
        raise DataError(f"{path}: has no images under {', '.join(NAMES)} (it has {', '.join(there) or 'nothing'})")
    return {"images": images} | ({SAMPLE: SAMPLE} if SAMPLE in there else {})


def _chosen(path: Path, arrays: dict[str, NDArray[np.generic]] | dict[str, Tensor]) -> Arrays:
    sample = arrays.get(SAMPLE)
    if sample is None:
        return arrays["images"], None
    ids = np.asarray(sample)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise DataError(f"{path}: {SAMPLE} is {ids.dtype} of shape {ids.shape}: give the samples' ids, int64 [N]")
    return arrays["images"], ids.astype(np.int64)


def _npy(path: Path) -> NDArray[np.generic]:
    try:
        images: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGE as error:
        raise DataError(f"{path}: not a readable .npy file ({error}): write it anew with np.save") from None
    return images


def _torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch takes any bytes for a program, and fails as they have it
        fix = "save the tensors alone with torch.save({'adversarial': images}, FILE)"
        raise DataError(f"{path}: damaged, no torch file, or one with Python objects in it: {fix}") from error


def _tensors(path: Path, content: object) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}: give a tensor, or a dict of tensors")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return {name: tensors[own] for name, own in _names(path, tensors).items()}
