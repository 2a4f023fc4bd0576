"""torchvision's classification sets by name."""

import contextlib
import inspect
import logging
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torchvision.datasets
from numpy.typing import NDArray
from torchvision.datasets import VisionDataset

from temper.data.dataset import Dataset, numbered_classes
from temper.data.decode import UNREADABLE, to_pixels
from temper.data.parts import PART_NAMES, SplitName, check_split
from temper.data.root import NotThereError, default_root
from temper.errors import ArgumentError, DataError
from temper.text import nearest

_LOG = logging.getLogger(__name__)

#: The arguments that choose a part of a set.
SplitArguments = dict[SplitName, dict[str, str | bool]]

_BY_FLAG: SplitArguments = {"train": {"train": True}, "test": {"train": False}}
_UNDIVIDED: SplitArguments = {}


def _by_word(**words: str) -> SplitArguments:
    return {part: {"split": words[part]} for part in PART_NAMES if part in words}


_TRAIN_TEST = _by_word(train="train", test="test")
_TRAIN_VAL = _by_word(train="train", validation="val", test="val")
_TRAIN_VAL_TEST = _by_word(train="train", validation="val", test="test")

#: torchvision's image classification sets and the parts they are published in.
SETS: dict[str, SplitArguments] = {
    "CIFAR10": _BY_FLAG,
    "CIFAR100": _BY_FLAG,
    "Caltech101": _UNDIVIDED,
    "Caltech256": _UNDIVIDED,
    "Country211": _by_word(train="train", validation="valid", test="test"),
    "DTD": _TRAIN_VAL_TEST,
    "EuroSAT": _UNDIVIDED,
    "FER2013": _TRAIN_TEST,
    "FGVCAircraft": _TRAIN_VAL_TEST,
    "FashionMNIST": _BY_FLAG,
    "Flowers102": _TRAIN_VAL_TEST,
    "Food101": _TRAIN_TEST,
    "GTSRB": _TRAIN_TEST,
    "ImageNet": _TRAIN_VAL,
    "Imagenette": _TRAIN_VAL,
    "KMNIST": _BY_FLAG,
    "MNIST": _BY_FLAG,
    "OxfordIIITPet": _by_word(train="trainval", test="test"),
    "Places365": _by_word(train="train-standard", validation="val", test="val"),
    "RenderedSST2": _TRAIN_VAL_TEST,
    "SEMEION": _UNDIVIDED,
    "STL10": _TRAIN_TEST,
    "SUN397": _UNDIVIDED,
    "SVHN": _TRAIN_TEST,
    "StanfordCars": _TRAIN_TEST,
    "USPS": _BY_FLAG,
}

#: Where these sets keep the label of every image, and where pairs of a file and its label.
_LABEL_ATTRIBUTES = ("targets", "labels", "_labels", "y")
_PAIR_ATTRIBUTES = ("samples", "_samples")


@dataclass(frozen=True, eq=False)
class TorchvisionImages:
    """Images of a torchvision set, read when asked for."""

    source: VisionDataset
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
    folder = Path(root).expanduser() if root else default_root()
    source = _open(name, folder, SETS[name][split] if split else {})
    labels = _labels(source, name)
    classes = getattr(source, "classes", None) or getattr(source, "categories", None)
    label = "/".join(filter(None, (f"torchvision:{name}", split)))
    return Dataset(
        images=TorchvisionImages(source, np.arange(len(labels), dtype=np.int64), label),
        labels=labels,
        class_names=tuple(map(_class_name, classes)) if classes else numbered_classes(labels, label),
        ids=np.arange(len(labels), dtype=np.int64),
        name=label,
    )


def torchvision_parts(spec: str) -> tuple[SplitName, ...]:
    """The parts of the set that ``NAME[:ROOT]`` names; empty if torchvision does not divide it.

    Raises:
        ArgumentError: no such set among :data:`SETS`.

    """
    name = spec.partition(":")[0]
    if name not in SETS:
        near = nearest(name, SETS, 3, 0.4) or SETS
        raise ArgumentError("data", f"torchvision:{name}", f"no such set, choose among {', '.join(near)}")
    return tuple(SETS[name])


def _open(name: str, root: Path, part: dict[str, str | bool]) -> VisionDataset:
    """The set, downloaded if it is not in ``root`` and torchvision can."""
    constructor = getattr(torchvision.datasets, name)
    try:
        return constructor(str(root), **part)
    except (RuntimeError, OSError, ValueError) as error:
        if "download" not in inspect.signature(constructor).parameters:
            problem = f"torchvision:{name}: not in {root} ({_reason(error)})"
            raise NotThereError(problem, "put its files there") from error
    _LOG.info("torchvision:%s is not in %s: downloading it", name, root)
    try:
        # torchvision reports downloads on stdout, which belongs to the caller's own output.
        with contextlib.redirect_stdout(sys.stderr):
            return constructor(str(root), download=True, **part)
    except (RuntimeError, OSError, ImportError, ValueError) as error:
        raise NotThereError(
            f"torchvision:{name}: not in {root} and not downloaded ({_reason(error)})",
            f"put its files there or give their folder, torchvision:{name}:ROOT",
        ) from error


def image_paths(whole: Dataset) -> list[Path]:
    """File of every image of a set that :func:`load_torchvision` opened, in its order.

    Raises:
        DataError: torchvision does not say where this set's images are.

    """
    assert isinstance(whole.images, TorchvisionImages)
    source = whole.images.source
    if hasattr(source, "categories"):  # Caltech: numbered files in one folder per class
        names = [
            f"101_ObjectCategories/{source.categories[label]}/image_{number:04d}.jpg"
            if isinstance(source, torchvision.datasets.Caltech101)
            else f"256_ObjectCategories/{source.categories[label]}/{label + 1:03d}_{number:04d}.jpg"
            for label, number in zip(source.y, source.index, strict=True)
        ]
        return [Path(source.root) / name for name in names]
    for attribute in ("_image_files", "_images"):
        if hasattr(source, attribute):
            return [Path(path) for path in getattr(source, attribute)]
    if hasattr(source, "_samples"):
        return [Path(path) for path, _ in source._samples]
    raise DataError(f"{whole.name}: this torchvision does not say where its images are")


def _labels(source: VisionDataset, name: str) -> NDArray[np.int64]:
    """Class number of every image, without reading the images."""
    candidates = [np.asarray(getattr(source, key)) for key in _LABEL_ATTRIBUTES if hasattr(source, key)]
    candidates += [
        np.asarray([label for _, label in getattr(source, key)]) for key in _PAIR_ATTRIBUTES if hasattr(source, key)
    ]
    labels = candidates[0] if candidates else np.empty(0)
    if labels.shape != (len(source),) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"torchvision:{name}: its copy here has no class number for every image: choose another")
    return labels.astype(np.int64)


def _class_name(name: str | tuple[str, ...]) -> str:
    """ImageNet's classes are tuples of synonyms."""
    return name if isinstance(name, str) else name[0]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
