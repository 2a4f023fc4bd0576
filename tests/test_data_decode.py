"""Every kind of image file becomes uint8 grey or RGB, or an error that names it."""

import io

import numpy as np
import pytest
from PIL import Image

from temper.data.decode import decode
from temper.errors import DataError


def through(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    stream.seek(0)
    return decode(stream, "some.file")


def test_grey_keeps_one_channel():
    pixels = through(Image.new("L", (3, 2), 77))
    assert pixels.shape == (2, 3, 1)
    assert np.all(pixels == 77)
    assert through(Image.new("1", (3, 2), 1)).max() == 255


def test_rgb_is_exact():
    array = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    assert np.array_equal(through(Image.fromarray(array)), array)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled(kind):
    wide = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    assert through(Image.fromarray(wide), kind)[0, :, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_is_laid_over_white(mode):
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    pixels = through(image.convert(mode))
    assert pixels.shape == (1, 3, 3)
    assert pixels[0, :, 0].tolist() == [255, 0, 127]


def test_palette_becomes_rgb():
    image = Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    assert through(image)[0, 0].tolist() == [10, 200, 30]
    assert through(image, transparency=1)[0, 0].tolist() == [255, 255, 255]


def test_cmyk_jpeg_becomes_rgb():
    assert through(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "JPEG")[0, 0].tolist() == [255, 255, 255]


def test_exif_orientation_is_honoured():
    image = Image.new("RGB", (4, 2), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    assert through(image, "JPEG", exif=exif).shape == (4, 2, 3)


def test_sixteen_bit_png_turned_by_exif_is_still_scaled():
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = through(Image.fromarray(np.full((2, 4), 65535, np.uint16)), exif=exif)
    assert pixels.shape == (4, 2, 1)
    assert np.all(pixels == 255)


def test_thirty_two_bit_pixels_are_refused():
    with pytest.raises(DataError, match=r"some.file: 32-bit pixels \(mode F\)"):
        through(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF")


def test_enormous_image_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(DataError, match=r"some.file: not a readable image .*exceeds limit"):
        through(Image.new("L", (9, 9)))
