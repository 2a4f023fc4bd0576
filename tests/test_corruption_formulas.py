"""Common corruptions: their parameters and the published formulas."""

import io

import numpy as np
import pytest
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image
from scipy import ndimage

from photos import ALL, damage, photo
from temper.corruptions import (
    SEVERITIES,
    corrupt,
)
from temper.corruptions.blur import _disk, _shuffled, smeared, zoomed
from temper.corruptions.geometry import _smoothed
from temper.corruptions.parameters import CIFAR, IMAGENET, TABLES, table_for
from temper.corruptions.weather import _outlines, plasma

# --- the parameters --------------------------------------------------------------------------------


def test_tables_have_five_severities_of_everything():
    for table in TABLES:
        assert set(table.rows) == set(ALL)
        assert all(len(row) == 5 for row in table.rows.values())
        assert all(len(set(map(len, row))) == 1 for name, row in table.rows.items() if name != "zoom_blur")


@pytest.mark.parametrize(
    ("size", "table", "unit"),
    [
        ((32, 32), "CIFAR-10-C", 1),
        ((28, 40), "CIFAR-10-C", 28 / 32),
        ((300, 45), "CIFAR-10-C", 45 / 32),
        ((46, 46), "Tiny-ImageNet-C", 46 / 64),
        ((64, 80), "Tiny-ImageNet-C", 1),
        ((119, 119), "Tiny-ImageNet-C", 119 / 64),
        ((120, 120), "ImageNet-C", 120 / 224),
        ((224, 224), "ImageNet-C", 1),
        ((500, 448), "ImageNet-C", 2),
    ],
)
def test_which_table(size, table, unit):
    chosen, factor = table_for(*size)
    assert (chosen.name, factor) == (table, unit)
    assert table_for(*size, "imagecorruptions") == (IMAGENET, 1)


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur", "zoom_blur", "contrast"])
def test_lengths_grow_with_the_image(name):
    small = photo(224, 224)
    large = small.repeat(2, 0).repeat(2, 1)
    shrunk = corrupt(large, name, 4).reshape(224, 2, 224, 2, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - corrupt(small, name, 4)).mean() < 0.12 * damage(small, name, 4, 1)


# --- the published formulas ------------------------------------------------------------------------

FLAT = np.full((224, 224, 3), 102, dtype=np.uint8)


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_noise_has_the_published_strength(severity):
    def spread(name):
        return corrupt(FLAT, name, severity).astype(float).std() / 255

    value = {name: IMAGENET.rows[name][severity - 1][0] for name in ALL}
    # Tails are cut at black and white, which at 0.18 costs 1 %.
    assert spread("gaussian_noise") == pytest.approx(value["gaussian_noise"], rel=0.02)
    assert spread("shot_noise") == pytest.approx((0.4 / value["shot_noise"]) ** 0.5, rel=0.02)
    assert spread("speckle_noise") == pytest.approx(0.4 * value["speckle_noise"], rel=0.02)
    changed = corrupt(FLAT, "impulse_noise", severity)
    assert np.mean(changed != 102) == pytest.approx(value["impulse_noise"], rel=0.05)
    assert set(np.unique(changed)) == {0, 102, 255}
    assert np.mean(changed == 255) == pytest.approx(value["impulse_noise"] / 2, rel=0.05)


def test_small_images_get_the_noise_of_cifar():
    flat = np.full((32, 32, 3), 128, dtype=np.uint8)
    spread = np.mean([corrupt(flat, "gaussian_noise", 5, 0, i).astype(float).std() for i in range(20)]) / 255
    assert spread == pytest.approx(0.10, rel=0.02)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_brightness_and_saturation(severity):
    image = photo(224, 224)
    image[:9, :9] = 0
    image[9:18, :9] = 140
    pixels = image / 255
    factor = IMAGENET.rows["contrast"][severity - 1][0]
    mean = pixels.mean(axis=(0, 1))
    expected = {"contrast": (pixels - mean) * factor + mean}
    hsv = rgb_to_hsv(pixels)
    hsv[..., 2] = np.clip(hsv[..., 2] + IMAGENET.rows["brightness"][severity - 1][0], 0, 1)
    expected["brightness"] = hsv_to_rgb(hsv)
    hsv = rgb_to_hsv(pixels)
    scale, shift = IMAGENET.rows["saturate"][severity - 1]
    hsv[..., 1] = np.clip(hsv[..., 1] * scale + shift, 0, 1)
    expected["saturate"] = hsv_to_rgb(hsv)
    for name, reference in expected.items():
        difference = np.abs(corrupt(image, name, severity) - reference * 255)
        assert difference.max() < 1.01, name  # values are cut to 8 bits, not rounded


@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_and_pixelate_are_pillows(severity, size):
    image = photo(size, size)
    stream = io.BytesIO()
    rows = table_for(size, size)[0].rows
    Image.fromarray(image).save(stream, "JPEG", quality=rows["jpeg_compression"][severity - 1][0])
    assert np.array_equal(corrupt(image, "jpeg_compression", severity), np.asarray(Image.open(stream)))
    small = int(size * rows["pixelate"][severity - 1][0])
    expected = Image.fromarray(image).resize((small, small), Image.BOX).resize((size, size), Image.BOX)
    assert np.array_equal(corrupt(image, "pixelate", severity), np.asarray(expected))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_blur_is_scipys(severity):
    image = photo(64, 64)
    sigma = table_for(64, 64)[0].rows["gaussian_blur"][severity - 1][0]
    expected = np.stack([ndimage.gaussian_filter(image[..., c] / 255, sigma, mode="nearest") for c in range(3)], -1)
    assert np.abs(corrupt(image, "gaussian_blur", severity) - expected * 255).max() < 1.01


@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_is_a_disk(severity):
    radius, alias = IMAGENET.rows["defocus_blur"][severity - 1]
    kernel = _disk(radius, alias)
    assert kernel.shape[0] % 2 == 1
    assert kernel[len(kernel) // 2, len(kernel) // 2] == pytest.approx(1 / (np.pi * radius**2), rel=0.15)
    # The published smoothing of the rim meets the end of its array at radius 8 and above, and adds 1 %.
    assert kernel.sum() == pytest.approx(1, abs=1e-5 if radius < 8 else 0.02)
    image = photo(60, 50)
    expected = ndimage.correlate(image[..., 1] / 255, kernel, mode="mirror")
    out = corrupt(image, "defocus_blur", severity, rule="imagecorruptions")
    assert np.abs(out[..., 1] - np.clip(expected, 0, 1) * 255).max() < 1.01


def enlarged_as_published(image, factor):
    """ImageNet-C's: crop the middle, scipy's linear zoom, trim."""
    size = len(image)
    middle = int(np.ceil(size / factor))
    top = (size - middle) // 2
    large = ndimage.zoom(image[top : top + middle, top : top + middle], (factor, factor, 1), order=1)
    cut = (len(large) - size) // 2
    return large[cut : cut + size, cut : cut + size]


@pytest.mark.parametrize("factor", [1, 1.01, 1.13, 1.3, 2.5, 4])
@pytest.mark.parametrize("size", [32, 33])
def test_enlarging_is_scipys(size, factor):
    image = photo(size, size) / 255
    assert np.abs(zoomed(image, factor) - enlarged_as_published(image, factor)).max() < 1e-6


def test_zoom_blur_is_the_mean_of_enlargements():
    image = photo(32, 32)
    factors = np.arange(1, 1.16, 0.01)
    assert CIFAR.rows["zoom_blur"][2] == tuple(factors)
    total = image / 255 + sum(enlarged_as_published(image / 255, factor) for factor in factors)
    assert np.abs(corrupt(image, "zoom_blur", 3) - total / (len(factors) + 1) * 255).max() < 1.01


@pytest.mark.parametrize(("degrees", "down", "right"), [(0, 0, -1), (90, -1, 0), (-45, 1, -1), (180, 0, 1)])
def test_motion_blur_smears_to_one_side_with_half_a_gaussian(degrees, down, right):
    image = np.zeros((61, 61, 1), dtype=np.float32)
    image[30, 30] = 1
    out = smeared(image, 4, 2, degrees)[:, :, 0]
    weights = np.exp(-(np.arange(9) ** 2) / 8)
    # Along a diagonal of n steps lie about n / sqrt(2) pixels; steps that round to one pixel add up.
    steps = np.ceil(np.arange(9) * (2**-0.5 if down and right else 1) - 0.5).astype(int)
    expected = np.zeros_like(out)
    np.add.at(expected, (30 + down * steps, 30 + right * steps), weights / weights.sum())
    assert np.abs(out - expected).max() < 1e-6
    flat = np.full((9, 9, 3), 0.5, dtype=np.float32)
    assert np.abs(smeared(flat, 20, 15, degrees) - 0.5).max() < 1e-6  # further than the image is wide


@pytest.mark.parametrize("step", [1, 2, 4])
def test_glass_blur_moves_pixels_in_the_published_order(step):
    height, width = 14, 19
    rows, columns = np.mgrid[step + 1 : height - step + 1, step + 1 : width - step + 1].reshape(2, -1)
    moves = np.random.default_rng(3).integers(-step, step, (2, len(rows)))
    expected = np.arange(height * width).reshape(height, width)
    for place in range(len(rows))[::-1]:
        row, column = rows[place], columns[place]
        expected[row, column] = expected[row + moves[0, place], column + moves[1, place]]
    assert np.array_equal(_shuffled(height, width, step, np.random.default_rng(3)).reshape(height, width), expected)


@pytest.mark.parametrize("sigma", [(171, 171), (2.4, 3.1), (0.1, 0.3), (0, 0)])
def test_smoothing_of_elastic_noise_is_scipys(sigma):
    noise = np.random.default_rng(0).uniform(-1, 1, (37, 50))
    assert np.abs(_smoothed(noise, sigma) - ndimage.gaussian_filter(noise, sigma, truncate=3.0)).max() < 1e-12


def test_plasma_is_rougher_with_less_decay():
    fields = [plasma(100, decay, np.random.default_rng(0)) for decay in (3, 2, 1.4)]
    assert all(field.shape == (128, 128) and field.min() == 0 and field.max() == 1 for field in fields)
    roughness = [np.abs(np.diff(field, axis=0)).mean() for field in fields]
    assert roughness == sorted(roughness)


def test_fog_keeps_the_brightest_value_and_hides_the_rest():
    image = photo(224, 224) // 2
    out = corrupt(image, "fog", 5)
    assert out.max() <= image.max()
    assert out.std() < 0.7 * image.std()


def test_outlines_of_drops():
    drops = np.zeros((20, 20))
    drops[5:15, 8:] = 180
    outline = _outlines(drops)
    assert outline[8:12].sum(axis=1).tolist() == [1, 1, 1, 1]  # one pixel thin
    assert abs(int(np.flatnonzero(outline[10])[0]) - 8) <= 1
    assert not outline[:3].any()
    assert not _outlines(np.full((9, 9), 77.0)).any()


def test_spatter_without_a_drop_changes_nothing():
    clear = [i for i in range(40) if np.array_equal(corrupt(photo(8, 8), "spatter", 1, 0, i), photo(8, 8))]
    assert clear


def test_mud_is_brown_and_water_is_not():
    grey = np.full((224, 224, 3), 128, dtype=np.uint8)
    mud, water = corrupt(grey, "spatter", 5), corrupt(grey, "spatter", 3)
    covered = mud[(mud != 128).any(axis=2)]
    assert (np.abs(covered.astype(int) - (63, 42, 20)).max(axis=1) < 30).mean() > 0.5
    assert (water[(water != 128).any(axis=2)] >= 128).all()
