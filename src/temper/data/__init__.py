"""Data sets: where images come from, how they are divided, and what a training step sees of them.

What needs torch is loaded when it is first used: a benchmark's results are read without it.
"""

from typing import TYPE_CHECKING

from temper.core.lazily import names_of
from temper.data.dataset import ArrayImages, Dataset, Images
from temper.data.files import FileImages
from temper.data.parts import SplitName
from temper.data.sources import available_splits, load
from temper.data.splits import split

if TYPE_CHECKING:
    from temper.data.pixels import AUGMENTATIONS, Augmentation, Pixels

__all__ = [
    "AUGMENTATIONS",
    "ArrayImages",
    "Augmentation",
    "Dataset",
    "FileImages",
    "Images",
    "Pixels",
    "SplitName",
    "available_splits",
    "load",
    "split",
]

__getattr__ = names_of(__name__, {"AUGMENTATIONS": "pixels", "Augmentation": "pixels", "Pixels": "pixels"})
