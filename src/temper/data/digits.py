"""scikit-learn's handwritten digits."""

import numpy as np

from temper.data.dataset import ArrayImages, Dataset


def load_digits(_: str) -> Dataset:
    """The 1,797 digits, 8x8 grey, 0..16 scaled to 0..255."""
    from sklearn import datasets

    bunch = datasets.load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    return Dataset(
        images=ArrayImages(images),
        labels=bunch.target.astype(np.int64),
        class_names=tuple(str(name) for name in bunch.target_names),
        ids=np.arange(len(images), dtype=np.int64),
        name="digits",
    )
