"""Common corruptions: shapes, streams that belong to the sample, views of data sets."""

import random

import numpy as np
import pytest
import torch

from photos import ALL, damage, dataset, photo
from temper.corruptions import (
    GUIDE,
    IMAGENET_C,
    SEVERITIES,
    corrupt,
    corrupted,
    guide_preset,
)
from temper.corruptions.measure import guide
from temper.data import ArrayImages, Dataset, Pixels
from temper.data.augment import resize
from temper.errors import ArgumentError, DataError

#: Its seed moves nothing: the formula is the same for every sample.
FIXED = {
    "defocus_blur", "zoom_blur", "gaussian_blur", "brightness", "contrast", "saturate", "pixelate", "jpeg_compression",
}  # fmt: skip


# --- every corruption ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(32, 32, 3), (32, 32, 1), (64, 64, 3), (224, 224, 3), (37, 50, 3), (8, 8, 1), (9, 30, 3)]
)
@pytest.mark.parametrize("name", ALL)
def test_shape_type_and_stream(name, shape):
    image = photo(*shape)
    before = image.copy()
    for severity in SEVERITIES:
        out = corrupt(image, name, severity, 5, 7)
        assert out.shape == shape
        assert out.dtype == np.uint8
        if severity == 3:
            assert np.array_equal(out, corrupt(image, name, severity, 5, 7))
            if name not in FIXED and min(shape[:2]) > 9:
                assert not np.array_equal(out, corrupt(image, name, severity, 5, 8))
                assert not np.array_equal(out, corrupt(image, name, severity, 6, 7))
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", sorted(FIXED))
def test_a_formula_without_chance_has_no_stream(name):
    image = photo(40, 40)
    assert np.array_equal(corrupt(image, name, 4, 0, 1), corrupt(image, name, 4, 9, 2))


@pytest.mark.parametrize("size", [32, 64, 224])
@pytest.mark.parametrize("name", ALL)
def test_damage_grows_with_severity(name, size):
    image = photo(size, size)
    found = [damage(image, name, severity) for severity in SEVERITIES]
    assert min(found) > 0
    # The published elastic transform is not ordered by distance, frost's panes differ in brightness, and saturation
    # goes down first and up then.
    if name not in ("elastic_transform", "frost", "saturate"):
        assert found[4] > found[0]
    steady = {"gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "gaussian_blur", "defocus_blur"}
    if name in steady | {"zoom_blur", "brightness", "contrast", "jpeg_compression"}:
        assert found == sorted(found)


def test_global_random_states_are_untouched():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - it is the global state that is checked
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    for name in ALL:
        corrupt(photo(16, 16), name, 3)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == random.getstate()


def test_a_grey_image_is_the_grey_of_its_colour_copy():
    grey = photo(40, 40, 1)
    rgb = grey.repeat(3, axis=2)
    for name in sorted(FIXED - {"saturate"}):
        assert np.abs(corrupt(rgb, name, 4)[:, :, :1].astype(int) - corrupt(grey, name, 4)).max() <= 2, name
    assert np.array_equal(corrupt(grey, "saturate", 5), grey)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fogg", 1), "corruption = 'fogg': did you mean fog[?] Choose among gaussian_noise"),
        (("motion", 1), "did you mean motion_blur"),
        (("fog", 0), "severity = 0: give a whole number from 1 to 5"),
        (("fog", 6), "severity = 6"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        corrupt(photo(16, 16), *arguments)
    with pytest.raises(ArgumentError, match=message):
        corrupted(dataset(), *arguments)


@pytest.mark.parametrize("image", [photo(7, 40), photo(16, 16)[:, :, :2], photo(16, 16) / 255, photo(16, 16)[:, :, 0]])
def test_wrong_images(image):
    with pytest.raises(ArgumentError, match="at least 8 pixels"):
        corrupt(image, "fog", 1)
    with pytest.raises(ArgumentError, match="rule = 'size': give one of sized, imagecorruptions"):
        corrupt(photo(16, 16), "fog", 1, rule="size")


# --- data sets -------------------------------------------------------------------------------------


def test_a_view_is_lazy_and_corrupts_before_resizing():
    clean = dataset(size=40)
    view = corrupted(clean, "motion_blur", 4, seed=3)
    assert len(view) == 6
    assert np.array_equal(view.ids, clean.ids)
    expected = corrupt(clean.images[2], "motion_blur", 4, 3, 102)
    assert np.array_equal(view.images[2], expected)
    item, label, sample = Pixels(view, 16)[2]
    assert np.array_equal(item.numpy(), resize(np.ascontiguousarray(expected.transpose(2, 0, 1)), (16, 16)))
    assert (label, sample) == (0, 102)


def test_a_view_belongs_to_samples_not_places():
    view = corrupted(dataset(), "gaussian_noise", 2)
    part = view.subset([4, 1])
    assert np.array_equal(part.images[0], view.images[4])
    assert np.array_equal(part.images[1], view.images[1])
    assert part.images.where(0) == "images[0]"


def test_a_views_fingerprint_tells_how_it_was_made():
    clean = dataset()
    views = [
        clean,
        corrupted(clean, "fog", 1),
        corrupted(clean, "snow", 1),
        corrupted(clean, "fog", 2),
        corrupted(clean, "fog", 1, seed=1),
        corrupted(clean, "fog", 1, rule="imagecorruptions"),
        guide_preset(clean),
    ]
    assert len({view.fingerprint() for view in views}) == len(views)
    assert corrupted(dataset(), "fog", 1).fingerprint() == views[1].fingerprint()


def test_an_image_too_small_is_named():
    small = Dataset(ArrayImages(np.zeros((2, 7, 9, 1), np.uint8)), np.array([0, 1]), ("a", "b"), np.arange(2), "tiny")
    with pytest.raises(DataError, match=r"images\[1\]: image = 'uint8 \(7, 9, 1\)'"):
        corrupted(small, "fog", 1).images[1]


@pytest.mark.parametrize("samples", [5, 11, 25, 60])
def test_the_guides_blocks(samples):
    preset = guide_preset(dataset(samples), seed=2)
    block = max(1, samples // 11)
    expected = [GUIDE[(i // block) % 11] for i in range(samples)]
    assert preset.images.names.tolist() == expected
    left_out = ("gaussian_noise", "glass_blur", "frost", "fog")
    assert tuple(name for name in IMAGENET_C if name not in left_out) == GUIDE
    place = samples - 1
    clean = dataset(samples).images[place]
    own = corrupt(clean, expected[place], 3, 2, 100 + place, rule="imagecorruptions")
    assert np.array_equal(preset.images[place], own)
    assert np.array_equal(preset.subset([place]).images[0], own)
    parts = guide(dataset(samples), seed=2).parts
    assert sum(len(part) for part in parts.values()) == 2 * samples  # the clean ones too
