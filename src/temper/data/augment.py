"""Augmentations of one image, uint8 [channels, height, width], from its own random stream.

The operations and their parameters' distributions are torchvision's; they are written here on NumPy arrays
because torchvision's cost about 1 ms for a 32x32 image, most of it overhead, and draw from the global stream.
"""

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray

#: Rec. 601 weights of R, G and B in grey.
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)

JITTER = 0.25
ROTATION_DEGREES = 2.0
PADDING = 4
CROP_AREA = (0.08, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)


def resize(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Squash to ``size`` (height, width), bilinear with antialiasing."""
    if image.shape[1:] == size:
        return image
    batch = torch.from_numpy(np.ascontiguousarray(image))[None]
    resized = torch.nn.functional.interpolate(batch, size, mode="bilinear", antialias=True, align_corners=False)
    return np.ascontiguousarray(resized[0].numpy())


def luma(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The grey image [1, height, width] of an RGB one, Rec. 601."""
    return np.rint(_grey(image.astype(np.float32))).astype(np.uint8)[np.newaxis]


def flip_jitter_rotate(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Flip with probability 1/2, jitter the colours by up to 25 %, rotate by up to 2 degrees either way."""
    flip = rng.random() < 0.5
    factors = rng.uniform(1 - JITTER, 1 + JITTER, size=3)
    order = rng.permutation(3)
    angle = rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES)
    return rotate(jitter(image, factors, order), angle, flip)


def jitter(image: NDArray[np.uint8], factors: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Scale brightness, contrast and saturation by ``factors`` [3], one after the other in ``order`` [3].

    Each blends the image with black, its mean grey or its own grey, and clips, as torchvision's ColorJitter.
    Grey images have no saturation.
    """
    pixels = image.astype(np.float32)
    for step in order:
        factor = np.float32(factors[step])
        if step == 0:
            pixels *= factor
        elif step == 1:
            mean = _grey(pixels).mean()
            pixels *= factor
            pixels += (1 - factor) * mean
        elif len(pixels) == 3:
            other = (1 - factor) * _grey(pixels)
            pixels *= factor
            pixels += other
        np.clip(pixels, 0, 255, out=pixels)
    return np.rint(pixels, out=pixels).astype(np.uint8)


def rotate(image: NDArray[np.uint8], degrees: float, flip: bool) -> NDArray[np.uint8]:
    """Mirror left to right if ``flip``, then turn counter-clockwise about the centre.

    Nearest pixel, black outside, as torchvision's RandomRotation does by default.
    """
    channels, height, width = image.shape
    x, y = _centred_grid(height, width)
    cos, sin = np.float32(math.cos(math.radians(degrees))), np.float32(math.sin(math.radians(degrees)))
    column = np.rint((cos * x + np.float32((width - 1) / 2)) - sin * y).astype(np.intp)
    row = np.rint((cos * y + np.float32((height - 1) / 2)) + sin * x).astype(np.intp)
    outside = (column < 0) | (column >= width) | (row < 0) | (row >= height)
    if flip:
        column = width - 1 - column
    # Clipping the index is much the fastest way to gather; what it fetches for the outside is painted over.
    turned = np.take(image.reshape(channels, -1), row * width + column, axis=1, mode="clip")
    turned[:, outside] = 0
    return turned


def crop_flip(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Pad by 4 black pixels on each side, crop back to the same size at random, flip with probability 1/2."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))
    top, left = rng.integers(0, 2 * PADDING, size=2, endpoint=True)
    crop = padded[:, top : top + height, left : left + width]
    return np.ascontiguousarray(crop[:, :, ::-1] if rng.random() < 0.5 else crop)


def random_resized_crop_box(height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random box: 8 to 100 % of the area, aspect ratio 3/4 to 4/3.

    Ten draws, then the largest centred box whose aspect ratio is in the range, as torchvision's
    RandomResizedCrop.
    """
    for _ in range(10):
        area = height * width * rng.uniform(*CROP_AREA)
        ratio = math.exp(rng.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = rng.integers((height - box_height, width - box_width), endpoint=True)
            return int(top), int(left), box_height, box_width
    box_width = min(width, round(height * CROP_RATIO[1]))
    box_height = min(height, round(width / CROP_RATIO[0]))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def _grey(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Grey [height, width] of float pixels [1 or 3, height, width]."""
    if len(pixels) == 1:
        return pixels[0]
    return pixels[0] * _LUMA[0] + pixels[1] * _LUMA[1] + pixels[2] * _LUMA[2]


@functools.lru_cache(maxsize=8)
def _centred_grid(height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Coordinates of pixel centres, x [1, width] and y [height, 1], from the image's centre."""
    x = np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)
    y = np.arange(height, dtype=np.float32) - np.float32((height - 1) / 2)
    return x[np.newaxis, :], y[:, np.newaxis]
