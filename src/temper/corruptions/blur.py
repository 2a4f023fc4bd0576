"""Blurs; see :mod:`temper.corruptions.pixelwise` for what the functions take and return."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from temper.corruptions.corruption import FINE_ZOOMS, Corruption, Generator, ImageArray, each, zooms


def gaussian_blur(image: ImageArray, rng: Generator, unit: float, sigma: float) -> ImageArray:
    """Convolves with a Gaussian, the border repeated."""
    return smoothed(image, sigma * unit)


GAUSSIAN_BLUR = Corruption(
    gaussian_blur,
    "extra",
    cifar=each(0.4, 0.6, 0.7, 0.8, 1),
    tiny_imagenet=each(0.5, 0.75, 1, 1.25, 1.5),
    imagenet=each(1, 2, 3, 4, 6),
)


def glass_blur(image: ImageArray, rng: Generator, unit: float, sigma: float, reach: float, rounds: float) -> ImageArray:
    """Smooths, moves every pixel at random by up to ``reach`` pixels, ``rounds`` times, and smooths again.

    In between the image has 8 bits, as published.
    """
    step = max(1, round(reach * unit))
    # A thousandth of a level keeps rounding errors from turning a whole level into the one below.
    levels = np.floor(smoothed(image, sigma * unit) * 255 + 1e-3)
    for _ in range(int(rounds)):
        height, width = levels.shape[:2]
        levels = levels.reshape(height * width, -1)[_shuffled(height, width, step, rng)].reshape(levels.shape)
    return smoothed(levels / np.float32(255), sigma * unit)


GLASS_BLUR = Corruption(
    glass_blur,
    "blur",
    cifar=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    tiny_imagenet=((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    imagenet=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
)


def _shuffled(height: int, width: int, step: int, rng: Generator) -> NDArray[np.int64]:
    """Which pixel (index into the flat image) each pixel's value comes from after one round: int64 [H * W].

    The published program goes from the last pixel to the first and gives each the present value of a neighbour up
    to ``step`` away (it means to swap the two, but the neighbour's array is a view and stays as it was). A neighbour
    that comes later in the image had its turn before, so its value is traced on to where that came from.
    """
    rows, columns = np.mgrid[step + 1 : height - step + 1, step + 1 : width - step + 1].reshape(2, -1)
    moves = rng.integers(-step, step, (2, len(rows)))
    own = np.arange(height * width)
    target = own.copy()
    target[rows * width + columns] = (rows + moves[0]) * width + columns + moves[1]
    source = target.copy()
    had_turn = np.flatnonzero(source > own)
    while had_turn.size:
        at = source[had_turn]
        source[had_turn] = target[at]
        had_turn = had_turn[target[at] > at]
    return source


def defocus_blur(image: ImageArray, rng: Generator, unit: float, radius: float, alias: float) -> ImageArray:
    """Convolves with a disk whose rim is smoothed by a Gaussian of ``alias`` pixels, the border mirrored."""
    kernel = _disk(radius * unit, alias * unit)
    reach = len(kernel) // 2
    padded = np.pad(image, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    return signal.fftconvolve(padded, kernel[:, :, np.newaxis], mode="valid", axes=(0, 1))


DEFOCUS_BLUR = Corruption(
    defocus_blur,
    "blur",
    cifar=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    tiny_imagenet=((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
    imagenet=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
)


def _disk(radius: float, alias: float) -> NDArray[np.float32]:
    """A disk [K, K], K odd, of sum about 1; its rim is smoothed over 3 x 3 pixels up to radius 8, 5 x 5 above.

    Where the rim reaches the end of the array the smoothing mirrors it back, so that the sum becomes 1.01: the
    published images are that much brighter, and so are these.
    """
    reach = max(8, math.ceil(radius))
    axis = np.arange(-reach, reach + 1)
    disk = (axis[:, np.newaxis] ** 2 + axis**2 <= radius**2).astype(np.float32)
    disk /= disk.sum()
    taps = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    rim = np.exp(-(taps**2) / (2 * alias**2))
    rim /= rim.sum()
    for side in (0, 1):
        disk = ndimage.correlate1d(disk, rim, axis=side, mode="mirror")
    used = int(np.abs(axis[disk.any(axis=0)]).max())
    return disk[reach - used : reach + used + 1, reach - used : reach + used + 1]


def motion_blur(image: ImageArray, rng: Generator, unit: float, radius: float, sigma: float) -> ImageArray:
    """Smears in a direction up to 45 degrees off the horizontal."""
    return smeared(image, radius * unit, sigma * unit, rng.uniform(-45, 45))


MOTION_BLUR = Corruption(
    motion_blur,
    "blur",
    cifar=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    tiny_imagenet=((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    imagenet=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
)


def smeared(image: ImageArray, radius: float, sigma: float, degrees: float) -> ImageArray:
    """One-sided motion blur of 2 * ceil(radius) + 1 steps with the weights of half a Gaussian, the border repeated.

    This is ImageMagick's MotionBlurImage, which made the published sets.
    """
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    weights = (weights / weights.sum()).astype(np.float32)
    down = np.ceil(steps * math.sin(math.radians(degrees)) - 0.5).astype(int)
    right = np.ceil(steps * math.cos(math.radians(degrees)) - 0.5).astype(int)
    height, width = image.shape[:2]
    sides = [(max(0, -int(by.min())), max(0, int(by.max()))) for by in (down, right)]
    padded = np.pad(image, [*sides, *[(0, 0)] * (image.ndim - 2)], mode="edge")
    blurred = np.zeros_like(image)
    for weight, top, left in zip(weights, down + sides[0][0], right + sides[1][0], strict=True):
        blurred += weight * padded[top : top + height, left : left + width]
    return blurred


def zoom_blur(image: ImageArray, rng: Generator, unit: float, *factors: float) -> ImageArray:
    """The mean of the image and its enlargements about the centre by all ``factors``."""
    total = image.copy()
    for factor in factors:
        total += zoomed(image, factor)
    return total / (len(factors) + 1)


ZOOM_BLUR = Corruption(
    zoom_blur,
    "blur",
    cifar=FINE_ZOOMS,
    tiny_imagenet=FINE_ZOOMS,
    imagenet=zooms((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
)


def zoomed(image: ImageArray, factor: float) -> ImageArray:
    """The middle of a [H, W, ...] image enlarged to its full size, bilinear."""
    for axis in (0, 1):
        position = _enlarged(image.shape[axis], factor)
        low = position.astype(np.intp)
        high = np.minimum(low + 1, image.shape[axis] - 1)
        share = (position - low).astype(image.dtype).reshape([-1 if a == axis else 1 for a in range(image.ndim)])
        below = image.take(low, axis)
        image = below + share * (image.take(high, axis) - below)
    return image


def _enlarged(length: int, factor: float) -> NDArray[np.float64]:
    """Where the pixels of an enlarged axis lie in the original: float64 [length].

    The middle ceil(length / factor) pixels become round(that * factor), ends on ends, and the surplus is cut.
    """
    middle = math.ceil(length / factor)
    enlarged = round(middle * factor)
    start, cut = (length - middle) // 2, (enlarged - length) // 2
    return np.asarray(start + (cut + np.arange(length)) * ((middle - 1) / max(enlarged - 1, 1)), dtype=np.float64)


def smoothed(image: ImageArray, sigma: float) -> ImageArray:
    """A [H, W, ...] image convolved with a Gaussian, cut at 4 sigma, the border repeated."""
    return ndimage.gaussian_filter(image, sigma, mode="nearest", truncate=4.0, axes=(0, 1))
