"""Arrays as samples: which layout they are in, and what lies in [0, 1]."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from temper.data.dataset import ArrayImages
from temper.errors import ArgumentError, DataError
from temper.evaluation.samples import from_arrays

SIDES = st.integers(5, 40)


@given(channels=st.sampled_from([1, 3, 4]), height=SIDES, width=SIDES)
def test_channels_first_arrays_are_refused_wherever_arrays_come_in(channels, height, width):
    images = np.zeros((2, channels, height, width), np.uint8)
    with pytest.raises(ArgumentError, match=r"channels come last; transpose\(0, 2, 3, 1\) mends it") as caught:
        from_arrays(images, [0, 1])
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="channels come last"):
        ArrayImages(images)


@given(channels=st.sampled_from([3, 4]), height=SIDES, width=SIDES)
def test_channels_last_tensors_are_refused(channels, height, width):
    with pytest.raises(ArgumentError, match=r"channels come first; permute\(0, 3, 1, 2\) mends it"):
        from_arrays(torch.zeros(2, height, width, channels), [0, 1])


@given(channels=st.sampled_from([1, 3]), height=st.integers(1, 9), width=st.integers(1, 9))
def test_channels_last_arrays_are_read_as_they_are(channels, height, width):
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, channels), dtype=np.uint8)
    assert np.array_equal(from_arrays(images, [0, 1]).items[1][0].numpy(), images[1].transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(2, 2, 1, 1), (2, 7, 1, 1), (2, 8, 3, 3), (2, 3, 8, 8), (2, 1, 8, 3), (2, 16, 8, 1)])
def test_tensors_keep_their_channels_first(shape):
    assert from_arrays(torch.zeros(shape), [0, 1]).shape == shape[1:]


@pytest.mark.parametrize("value", [-2.98e-8, -5e-7, 1.0000001, 1 + 5e-7])
def test_pixels_outside_by_rounding_are_brought_back(value):
    images = torch.rand(2, 3, 4, 4)
    images[0, 0, 0, 0] = value
    inside = torch.stack([from_arrays(images, [0, 1]).items[k][0] for k in range(2)])
    assert torch.equal(inside, images.clamp(0, 1))


@pytest.mark.parametrize("value", [-1e-5, 1.00001, -1.0, 255.0, float("nan"), float("inf")])
def test_pixels_further_out_are_refused_with_the_range_that_they_have(value):
    images = torch.zeros(2, 3, 4, 4)
    images[0, 0, 0, 0] = value
    with pytest.raises(ArgumentError, match=r"must lie in \[0, 1\]") as caught:
        from_arrays(images, [0, 1])
    assert "'0 to 1'" not in str(caught.value)
