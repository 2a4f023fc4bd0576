"""torchvision's classification sets by name."""

import contextlib
import difflib
import inspect
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision.datasets
from numpy.typing import NDArray

from temper.data.dataset import Dataset, numbered_classes
from temper.data.decode import UNREADABLE, to_pixels
from temper.data.parts import SplitName, check_split
from temper.errors import ArgumentError, DataError

_LOG = logging.getLogger(__name__)

#: What sets with a ``split`` argument call the part to train and the part to test on; the first known wins.
_WORDS: dict[SplitName, tuple[str, ...]] = {"train": ("train", "trainval"), "test": ("test", "val", "valid")}

#: Readers of the user's own files, which temper.data reads itself.
_GENERIC = ("DatasetFolder", "FakeData", "ImageFolder")

#: Where torchvision's sets keep all labels.
_LABEL_ATTRIBUTES = ("targets", "labels", "_labels", "y")


@dataclass(frozen=True, eq=False)
class TorchvisionImages:
    """Images of a torchvision set, read when asked for."""

    source: Any
    positions: NDArray[np.int64]
    name: str

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        try:
            image = self.source[int(self.positions[index])][0]
            return to_pixels(image, self.where(index))
        except DataError:
            raise
        except UNREADABLE as error:
            raise DataError(f"{self.where(index)}: not readable ({error}): download the set anew") from error

    def where(self, index: int) -> str:
        """See :class:`temper.data.Images`."""
        return f"{self.name}[{self.positions[index]}]"

    def content(self, index: int) -> bytes:
        """See :class:`temper.data.Images`."""
        pixels = self[index]
        return repr(pixels.shape).encode() + pixels.tobytes()

    def take(self, indices: NDArray[np.int64]) -> "TorchvisionImages":
        """See :class:`temper.data.Images`."""
        return TorchvisionImages(self.source, self.positions[indices], self.name)


def load_torchvision(spec: str, split: SplitName | None) -> Dataset:
    """The set that ``NAME[:ROOT]`` names; see :func:`temper.data.load`.

    CIFAR is published as pickles; torchvision reads them only if their checksum is the known one.
    """
    name, _, root = spec.partition(":")
    check_split(split, torchvision_parts(spec), f"torchvision:{name}")
    folder = Path(root).expanduser() if root else Path(torch.hub.get_dir()).parent / "datasets"
    source = _open(name, folder, split)
    labels = _labels(source, name)
    classes = getattr(source, "classes", None)
    label = "/".join(filter(None, (f"torchvision:{name}", split)))
    return Dataset(
        images=TorchvisionImages(source, np.arange(len(labels), dtype=np.int64), label),
        labels=labels,
        class_names=tuple(map(_class_name, classes)) if classes else numbered_classes(labels, label),
        ids=np.arange(len(labels), dtype=np.int64),
        name=label,
    )


def torchvision_parts(spec: str) -> tuple[SplitName, ...]:
    """The parts of the set that ``NAME[:ROOT]`` names; empty if torchvision does not divide it."""
    parameters = _parameters(spec.partition(":")[0])
    return ("train", "test") if {"train", "split"} & parameters.keys() else ()


def _parameters(name: str) -> dict[str, inspect.Parameter]:
    """Parameters of the set's class.

    Raises:
        ArgumentError: no such set, or one that a name alone does not determine.

    """
    names = torchvision.datasets.__all__
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4)
        raise ArgumentError(
            "data",
            f"torchvision:{name}",
            f"torchvision has no such data set; near: {', '.join(near) or 'none'}",
        )
    parameters = dict(inspect.signature(getattr(torchvision.datasets, name)).parameters)
    required = {
        key
        for key, value in parameters.items()
        if value.default is value.empty and value.kind != value.VAR_KEYWORD
    }
    if not required <= {"root", "split", "train"} or "root" not in parameters or name in _GENERIC:
        raise ArgumentError("data", f"torchvision:{name}", "not a classification set that a name determines")
    return parameters


def _open(name: str, root: Path, split: SplitName | None) -> Any:
    """The set, downloaded if it is not in ``root``."""
    parameters = _parameters(name)
    try:
        return _construct(name, root, split, parameters, {})
    except (RuntimeError, OSError) as error:
        if "download" not in parameters:
            raise DataError(
                f"torchvision:{name}: not in {root} ({_reason(error)}): put its files there"
            ) from error
    _LOG.info("torchvision:%s is not in %s: downloading it", name, root)
    try:
        return _construct(name, root, split, parameters, {"download": True})
    except (RuntimeError, OSError, ImportError) as error:
        raise DataError(
            f"torchvision:{name}: not in {root} and not downloaded ({_reason(error)}): "
            f"put its files there or give their folder, torchvision:{name}:ROOT"
        ) from error


def _construct(
    name: str,
    root: Path,
    split: SplitName | None,
    parameters: dict[str, inspect.Parameter],
    options: dict[str, Any],
) -> Any:
    constructor = getattr(torchvision.datasets, name)
    # torchvision reports downloads on stdout, which belongs to the caller's own output.
    with contextlib.redirect_stdout(sys.stderr):
        if split is None:
            return constructor(str(root), **options)
        if "train" in parameters:
            return constructor(str(root), train=split == "train", **options)
        *others, last = _WORDS[split]
        for word in others:
            # Sets call their parts differently and refuse other words with a ValueError.
            with contextlib.suppress(ValueError):
                return constructor(str(root), split=word, **options)
        return constructor(str(root), split=last, **options)


def _labels(source: Any, name: str) -> NDArray[np.int64]:
    """Class number of every image."""
    for attribute in _LABEL_ATTRIBUTES:
        stored = getattr(source, attribute, None)
        if stored is not None and len(stored) == len(source):
            labels = np.asarray(stored)
            break
    else:
        _LOG.info("torchvision:%s keeps no list of labels: reading it once from end to end", name)
        first = source[0][1]
        labels = np.asarray([source[i][1] for i in range(len(source))] if isinstance(first, int) else first)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"torchvision:{name}: its targets are no class numbers: choose a classification set")
    return labels.astype(np.int64)


def _class_name(name: str | tuple[str, ...]) -> str:
    """ImageNet's classes are tuples of synonyms."""
    return name if isinstance(name, str) else name[0]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
