"""Tensors for training: sizes, channels, and augmentation that belongs to the sample."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import functional as tv

from temper.data import ArrayImages, Dataset, Pixels, load
from temper.data.augment import crop_flip, jitter, luma, random_resized_crop_box, resize, rotate
from temper.errors import ArgumentError, DataError

NOISE = np.random.default_rng(0).integers(0, 256, (3, 33, 40), dtype=np.uint8)


def dataset(samples=20, height=32, width=32, channels=3):
    array = np.random.default_rng(1).integers(0, 256, (samples, height, width, channels), dtype=np.uint8)
    ids = np.arange(samples)
    return Dataset(ArrayImages(array), ids % 2, ("a", "b"), ids, "random")


def images(pixels, indices):
    return torch.stack([pixels[i][0] for i in indices])


def test_none_returns_the_stored_pixels():
    data = dataset()
    image, label, sample = Pixels(data)[7]
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert np.array_equal(image.permute(1, 2, 0).numpy(), data.images[7])
    assert (label, sample) == (1, 7)
    image.zero_()
    assert data.images[7].any()  # an item is a copy


def test_size_and_channels():
    grey = dataset(height=8, width=6, channels=1)
    assert Pixels(grey)[0][0].shape == (3, 8, 6)
    assert Pixels(grey, channels=1)[0][0].shape == (1, 8, 6)
    item = Pixels(grey, image_size=(10, 12))[0][0]
    assert item.shape == (3, 10, 12)
    assert torch.equal(item[0], item[2])
    assert Pixels(dataset(), image_size=5, channels=1, augmentation="paper")[0][0].shape == (1, 5, 5)


def test_resize_and_grey_equal_torchvision():
    for size in ((16, 16), (64, 50)):
        assert np.array_equal(resize(NOISE, size), tv.resize(torch.from_numpy(NOISE), size, antialias=True))
    reference = tv.rgb_to_grayscale(torch.from_numpy(NOISE).float()).numpy()
    # Half a step of rounding; torchvision cuts the weight of red to 0.2989.
    assert np.abs(luma(NOISE) - reference).max() < 0.53


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_jitter_equals_torchvision(channels, order):
    image = NOISE[:channels]
    factors = np.array([1.2, 0.8, 1.25])
    steps = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation]
    reference = torch.from_numpy(image).float() / 255
    for step in order:
        reference = steps[step](reference, factors[step])
    ours = jitter(image, factors, np.array(order))
    assert np.abs(ours - 255 * reference.numpy()).max() < 0.51


@pytest.mark.parametrize("degrees", [-2.0, 0.0, 0.7, 1.9, 30.0])
@pytest.mark.parametrize("flip", [False, True])
def test_rotation_equals_torchvision(degrees, flip):
    reference = torch.from_numpy(NOISE)
    reference = tv.rotate(tv.horizontal_flip(reference) if flip else reference, degrees).numpy()
    # Where a pixel's source lies half-way between two, rounding decides: a few may differ.
    assert np.mean(rotate(NOISE, degrees, flip) != reference) < 0.01


def test_crop_flip_keeps_size_and_moves_at_most_four():
    image = np.arange(1, 101, dtype=np.uint8).reshape(1, 10, 10)
    shifts = set()
    for seed in range(300):
        crop = crop_flip(image, np.random.default_rng(seed))[0]
        assert crop.shape == (10, 10)
        rows = np.flatnonzero(crop.any(axis=1))
        columns = np.flatnonzero(crop.any(axis=0))
        shifts.add((len(rows), len(columns)))
        inner = crop[np.ix_(rows, columns)]
        assert inner.astype(int).max() <= 100
    assert min(shifts)[0] == 6
    assert max(shifts) == (10, 10)


def test_random_box_lies_inside_and_covers_the_range():
    shares = []
    for seed in range(500):
        top, left, height, width = random_resized_crop_box(40, 60, np.random.default_rng(seed))
        assert 0 <= top <= top + height <= 40
        assert 0 <= left <= left + width <= 60
        assert 0.7 < width / height < 1.4
        shares.append(height * width / 2400)
    assert min(shares) < 0.12
    assert max(shares) > 0.75
    top, left, height, width = random_resized_crop_box(5, 500, np.random.default_rng(0))
    assert (height, width) == (5, 7)  # no box of 8 % fits: the largest centred one


def test_paper_twice_freezes_one_draw_for_all_epochs_and_draws_again():
    once, twice = (Pixels(dataset(), augmentation=name, seed=0) for name in ("paper", "paper-twice"))
    assert torch.equal(twice[(1, 0)][0], twice[(1, 0)][0])
    assert not torch.equal(twice[(1, 0)][0], twice[(2, 0)][0])
    assert not torch.equal(twice[(1, 0)][0], once[(1, 0)][0])


@pytest.mark.parametrize("augmentation", ["paper", "crop"])
@pytest.mark.parametrize("size", [None, 24])
def test_item_depends_on_seed_epoch_and_id_only(augmentation, size):
    data = dataset()
    pixels = Pixels(data, size, augmentation=augmentation, seed=3)
    forward = images(pixels, range(20))
    assert torch.equal(forward, images(pixels, reversed(range(20))).flip(0))
    subset = data.subset([11, 4])
    assert torch.equal(images(Pixels(subset, size, augmentation=augmentation, seed=3), [1, 0]), forward[[4, 11]])
    pixels.epoch = 1
    assert not torch.equal(images(pixels, range(20)), forward)
    assert torch.equal(images(pixels, [(0, i) for i in range(20)]), forward)
    assert not torch.equal(images(Pixels(data, size, augmentation=augmentation, seed=4), range(20)), forward)


def test_workers_give_the_same_items():
    pixels = Pixels(dataset(), augmentation="paper", seed=0)
    keys = [(epoch, i) for epoch in (0, 1) for i in (5, 3, 19)]
    loader = DataLoader(pixels, batch_size=2, sampler=keys, num_workers=2)
    batches = list(loader)
    assert torch.equal(torch.cat([batch[0] for batch in batches]), images(pixels, keys))
    assert torch.cat([batch[2] for batch in batches]).tolist() == [5, 3, 19, 5, 3, 19]


def test_global_random_states_are_untouched():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - it is the global state that is checked
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    for augmentation in ("paper", "crop"):
        images(Pixels(dataset(), 24, augmentation=augmentation), range(5))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
    assert before[2] == random.getstate()


def test_paper_recipe_flips_half_and_stays_close():
    data = dataset(samples=400, height=8, width=8)
    flat = Dataset(ArrayImages(np.zeros_like(data.images.array)), data.labels, data.class_names, data.ids, "half")
    flat.images.array[:, :, :4] = 200  # left half bright
    out = images(Pixels(flat, augmentation="paper"), range(400)).float()[:, 0, 2:6]
    bright_left = (out[..., :4].mean(dim=(1, 2)) > out[..., 4:].mean(dim=(1, 2))).float().mean()
    assert 0.42 < bright_left < 0.58
    brightest = out.amax(dim=(1, 2))
    assert brightest.min() >= 200 * 0.75 * 0.75 - 1
    assert brightest.max() == 255


def test_images_of_different_sizes_need_a_size(tmp_path):
    for name, size in (("a/1.png", (4, 4)), ("b/2.png", (5, 4))):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", size).save(tmp_path / name)
    data = load(str(tmp_path))
    with pytest.raises(DataError, match=r"2.png: is 4x5, the first image is 4x4: give image_size"):
        Pixels(data)[1]
    assert Pixels(data, 4)[1][0].shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"augmentation": "papers"}, "augmentation = 'papers': give one of none, paper, paper-twice, crop"),
        ({"channels": 4}, "channels = 4"),
        ({"image_size": 0}, "image_size = 0"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        Pixels(dataset(), **arguments)


def test_labels_and_ids_collate_to_int64():
    images_, labels, ids = next(iter(DataLoader(Pixels(load("digits"), 32, augmentation="paper"), batch_size=8)))
    assert images_.shape == (8, 3, 32, 32)
    assert labels.dtype == ids.dtype == torch.int64
