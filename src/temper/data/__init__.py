"""Data sets: where images come from, how they are divided, and what a training step sees of them."""

from temper.data.dataset import ArrayImages, Dataset, Images
from temper.data.files import FileImages
from temper.data.parts import SplitName
from temper.data.pixels import AUGMENTATIONS, Augmentation, Pixels
from temper.data.sources import available_splits, load
from temper.data.splits import split

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
