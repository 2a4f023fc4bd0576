"""Two data sets as one, and one sample used several times in an epoch."""

import numpy as np
import pytest

from temper.data import ArrayImages, Dataset, Pixels
from temper.data.joined import joined


def dataset(count: int, size: int, first_id: int) -> Dataset:
    images = np.random.default_rng(count).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return Dataset(ArrayImages(images), np.arange(count) % 2, ("a", "b"), np.arange(count) + first_id, f"of{count}")


@pytest.fixture
def both() -> tuple[Dataset, Dataset]:
    return dataset(5, 8, 3), dataset(4, 6, 0)


def test_samples_stand_one_behind_the_other(both):
    one, other = both
    whole = joined(one, other)
    assert whole.ids.tolist() == [3, 4, 5, 6, 7, 8, 9, 10, 11]
    assert whole.labels.tolist() == [0, 1, 0, 1, 0, 0, 1, 0, 1]
    assert np.array_equal(whole.images[4], one.images[4])
    assert np.array_equal(whole.images[6], other.images[1])
    assert whole.images.content(6) == other.images.content(1)
    assert whole.images.where(6) == "images[1]"


def test_a_subset_of_the_whole(both):
    part = joined(*both).subset([7, 0, 5])
    assert part.ids.tolist() == [10, 3, 8]
    assert np.array_equal(part.images[0], both[1].images[2])
    assert np.array_equal(part.subset([2, 1]).images[0], both[1].images[0])


def test_sizes_may_differ_where_all_are_resized(both):
    pixels = Pixels(joined(*both), 8)
    assert pixels[6][0].shape == (3, 8, 8)
    assert pixels[6][2] == 9


def test_another_use_of_a_sample_is_augmented_anew(both):
    pixels = Pixels(both[0], augmentation="paper", seed=1)
    first, again, third = (pixels[(2, 1, n)][0] for n in range(3))
    assert (first == pixels[(2, 1)][0]).all()
    assert (again != first).any()
    assert (third != again).any()
