"""What training and evaluation see of a data set: tensors of one size, augmented on load."""

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset as TorchDataset

from temper.data.augment import crop_flip, flip_jitter_rotate, luma, random_resized_crop_box, resize
from temper.data.dataset import Dataset
from temper.data.splits import check_seed
from temper.errors import ArgumentError, DataError

Augmentation = Literal["none", "paper", "paper-twice", "crop"]
AUGMENTATIONS: tuple[Augmentation, ...] = get_args(Augmentation)


class Pixels(TorchDataset[tuple[torch.Tensor, int, int]]):
    """A data set as tensors, for :class:`torch.utils.data.DataLoader`.

    Item i is ``(image, label, id)``: uint8 [channels, height, width], int, int. Index ``i`` is augmented for
    epoch :attr:`epoch`, index ``(epoch, i)`` for the epoch it names; the second form is the one for
    persistent worker processes, which keep a copy of this object. In ``(epoch, i, n)`` n counts how often
    the sample was used in that epoch before, for another augmentation of it. An augmented item depends on
    nothing but the seed, the epoch, n and the sample's id: not on the order, the other samples, or the
    process; no global random state is read or changed.

    Augmentations:

    - ``none``: resize only.
    - ``paper``: resize, horizontal flip (1/2), colour jitter 0.25 of brightness, contrast and saturation,
      rotation by up to 2 degrees either way: the training recipe of the guide to robust generalization
      (arXiv:2508.14079), which Epsilon-Scheduling (arXiv:2509.23325) builds on.
    - ``paper-twice``: ``paper`` drawn once per image for all epochs, and then again on load, as the guide's code had
      it by mistake; to compare with its published numbers.
    - ``crop``: images that have the target size already are padded by 4 pixels of black, cropped back at
      random and flipped (He et al. 2016, section 4.2); others are cropped to a random 8 to 100 % of their
      area at an aspect ratio from 3/4 to 4/3, resized and flipped (Szegedy et al. 2015).

    Args:
        dataset: the data set.
        image_size: height and width in pixels, one number for a square; None keeps the images' own size,
            which then must be the same for all.
        channels: 3 (grey images are repeated) or 1 (RGB becomes its Rec. 601 luma).
        augmentation: one of :data:`AUGMENTATIONS`.
        seed: non-negative.

    Raises:
        ArgumentError: an argument is none of these.

    """

    def __init__(
        self,
        dataset: Dataset,
        image_size: int | tuple[int, int] | None = None,
        channels: int = 3,
        augmentation: Augmentation = "none",
        seed: int = 0,
    ) -> None:
        if augmentation not in AUGMENTATIONS:
            raise ArgumentError("augmentation", augmentation, f"give one of {', '.join(AUGMENTATIONS)}")
        if channels not in (1, 3):
            raise ArgumentError("channels", channels, "give 1 (grey) or 3 (RGB)")
        check_seed(seed)
        self.dataset = dataset
        self.image_size = _size(image_size, dataset)
        self.channels = channels
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = 0
        self._resizes = image_size is not None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int | tuple[int, ...]) -> tuple[torch.Tensor, int, int]:
        epoch, position, *again = index if isinstance(index, tuple) else (self.epoch, index)
        sample = int(self.dataset.ids[position])
        image = self._source(position)
        if self.augmentation == "none":
            image = self._fit(image)
        else:
            # One stream per item: this is what makes an item independent of order and process.
            if self.augmentation == "paper-twice":  # frozen: one stream for all epochs
                image = self._augmented(image, np.random.default_rng((self.seed, sample)))
            rng = np.random.default_rng((self.seed, epoch, sample, *(n for n in again if n)))
            image = self._augmented(image, rng)
        return torch.from_numpy(image), int(self.dataset.labels[position]), sample

    def _source(self, position: int) -> NDArray[np.uint8]:
        """The stored image as a fresh uint8 [channels, height, width]."""
        image = self.dataset.images[position]
        if not self._resizes and image.shape[:2] != self.image_size:
            (height, width), (first_height, first_width) = image.shape[:2], self.image_size
            raise DataError(
                f"{self.dataset.images.where(position)}: is {height}x{width}, the first image is "
                f"{first_height}x{first_width}: give image_size to bring all to one size"
            )
        return np.array(image.transpose(2, 0, 1), order="C")

    def _augmented(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        if self.augmentation in ("paper", "paper-twice"):
            return flip_jitter_rotate(self._fit(image), rng)
        if image.shape[1:] == self.image_size:
            return crop_flip(self._fit(image), rng)
        top, left, height, width = random_resized_crop_box(image.shape[1], image.shape[2], rng)
        image = self._fit(image[:, top : top + height, left : left + width])
        return image[:, :, ::-1].copy() if rng.random() < 0.5 else image

    def _fit(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring an image to the size and channels asked for."""
        image = resize(image, self.image_size)
        if len(image) == self.channels:
            return image
        return np.repeat(image, 3, axis=0) if self.channels == 3 else luma(image)


def _size(image_size: int | tuple[int, int] | None, dataset: Dataset) -> tuple[int, int]:
    if image_size is None:
        height, width = dataset.images[0].shape[:2]
    else:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if height < 1 or width < 1:
        raise ArgumentError("image_size", image_size, "give a height and width of at least 1 pixel")
    return height, width
