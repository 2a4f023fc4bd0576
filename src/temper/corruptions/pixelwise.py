"""Noise, and what changes every pixel by a formula.

Here and in the modules beside it a corruption takes an image, float32 [H, W, C] in [0, 1] with 1 or 3 channels, a
random generator, the factor on lengths in pixels (see :mod:`temper.corruptions.parameters`), and its published
parameters. It returns float [H, W, C], which may leave [0, 1]: whoever calls it clips.
"""

import numpy as np
from numpy.typing import NDArray

from temper.corruptions.corruption import Corruption, Generator, ImageArray, each


def gaussian_noise(image: ImageArray, rng: Generator, unit: float, std: float) -> ImageArray:
    """Adds normal noise to every value."""
    return image + std * _normal(rng, image.shape)


GAUSSIAN_NOISE = Corruption(
    gaussian_noise,
    "noise",
    cifar=each(0.04, 0.06, 0.08, 0.09, 0.10),
    tiny_imagenet=each(0.04, 0.08, 0.12, 0.15, 0.18),
    imagenet=each(0.08, 0.12, 0.18, 0.26, 0.38),
)


def shot_noise(image: ImageArray, rng: Generator, unit: float, photons: float) -> ImageArray:
    """Poisson noise of a sensor that counts ``photons`` at full brightness."""
    return rng.poisson(image * photons) / photons


SHOT_NOISE = Corruption(
    shot_noise,
    "noise",
    cifar=each(500, 250, 100, 75, 50),
    tiny_imagenet=each(250, 100, 50, 30, 15),
    imagenet=each(60, 25, 12, 5, 3),
)


def impulse_noise(image: ImageArray, rng: Generator, unit: float, share: float) -> ImageArray:
    """Sets this share of all values to 0 or 1, each as likely."""
    hit = rng.random(image.shape, dtype=np.float32) < share
    return np.where(hit, rng.integers(0, 2, image.shape), image)


IMPULSE_NOISE = Corruption(
    impulse_noise,
    "noise",
    cifar=each(0.01, 0.02, 0.03, 0.05, 0.07),
    tiny_imagenet=each(0.01, 0.02, 0.05, 0.08, 0.14),
    imagenet=each(0.03, 0.06, 0.09, 0.17, 0.27),
)


def speckle_noise(image: ImageArray, rng: Generator, unit: float, std: float) -> ImageArray:
    """Adds normal noise in proportion to every value."""
    return image + image * std * _normal(rng, image.shape)


SPECKLE_NOISE = Corruption(
    speckle_noise,
    "extra",
    cifar=each(0.06, 0.1, 0.12, 0.16, 0.2),
    tiny_imagenet=each(0.15, 0.2, 0.25, 0.3, 0.35),
    imagenet=each(0.15, 0.2, 0.35, 0.45, 0.6),
)


def contrast(image: ImageArray, rng: Generator, unit: float, factor: float) -> ImageArray:
    """Shrinks the distance of every value to its channel's mean."""
    mean = image.mean(axis=(0, 1), dtype=np.float64)
    return mean + factor * (image - mean)


CONTRAST = Corruption(
    contrast,
    "digital",
    cifar=each(0.75, 0.5, 0.4, 0.3, 0.15),
    tiny_imagenet=each(0.4, 0.3, 0.2, 0.1, 0.05),
    imagenet=each(0.4, 0.3, 0.2, 0.1, 0.05),
)


def brightness(image: ImageArray, rng: Generator, unit: float, shift: float) -> ImageArray:
    """Raises the V of HSV, which is the largest of the three channels; hue and saturation stay.

    All channels then grow by the factor that V grows by; black, which has no hue, becomes grey.
    """
    value = image.max(axis=2, keepdims=True)
    raised = np.minimum(value + shift, 1)
    factor = np.divide(raised, value, out=np.zeros_like(value), where=value > 0)
    return np.where(value > 0, image * factor, raised)


BRIGHTNESS = Corruption(
    brightness,
    "weather",
    cifar=each(0.05, 0.1, 0.15, 0.2, 0.3),
    tiny_imagenet=each(0.1, 0.2, 0.3, 0.4, 0.5),
    imagenet=each(0.1, 0.2, 0.3, 0.4, 0.5),
)


def saturate(image: ImageArray, rng: Generator, unit: float, factor: float, shift: float) -> ImageArray:
    """Changes the S of HSV to factor * S + shift, clipped to [0, 1]; hue and V stay.

    The distance of every channel to V then grows by the factor that S grows by. Grey has the hue 0, red, as in the
    published sets, so that a shift tints it. An image of one channel has no saturation and stays as it is.
    """
    if image.shape[2] == 1:
        return image
    value = image.max(axis=2, keepdims=True)
    below = value - image
    spread = below.max(axis=2, keepdims=True)
    coloured = spread > 0
    saturation = np.divide(spread, value, out=np.zeros_like(value), where=coloured)
    changed = np.clip(factor * saturation + shift, 0, 1)
    growth = np.divide(changed, saturation, out=np.zeros_like(value), where=coloured)
    red = value * changed * np.array([0, 1, 1], dtype=image.dtype)
    return value - np.where(coloured, below * growth, red)


SATURATE = Corruption(
    saturate,
    "extra",
    cifar=((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    tiny_imagenet=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
    imagenet=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
)


def luma(image: ImageArray) -> ImageArray:
    """Brightness [H, W, 1] by Rec. 601; a grey image's is itself."""
    if image.shape[2] == 1:
        return image
    return image @ np.array([[0.299], [0.587], [0.114]], dtype=image.dtype)


def in_channels_of(image: ImageArray, colour: tuple[int, int, int]) -> ImageArray:
    """A colour, 0 to 255, as float [C] in [0, 1] of the image's channels."""
    rgb = np.array(colour, dtype=np.float32).reshape(1, 1, 3) / 255
    return (rgb if image.shape[2] == 3 else luma(rgb)).reshape(-1)


def _normal(rng: Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return rng.standard_normal(shape, dtype=np.float32)
