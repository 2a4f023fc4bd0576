"""Noise, and what changes every pixel by a formula.

Here and in the modules beside it a corruption takes an image, float32 [H, W, C] in [0, 1] with 1 or 3 channels, a
random generator, the factor on lengths in pixels (see :mod:`temper.corruptions.parameters`), and its published
parameters. It returns float [H, W, C], which may leave [0, 1]: whoever calls it clips.
"""

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.floating]
Generator = np.random.Generator


def gaussian_noise(image: Pixels, rng: Generator, unit: float, std: float) -> Pixels:
    """Adds normal noise to every value."""
    return image + std * _normal(rng, image.shape)


def shot_noise(image: Pixels, rng: Generator, unit: float, photons: float) -> Pixels:
    """Poisson noise of a sensor that counts ``photons`` at full brightness."""
    return rng.poisson(image * photons) / photons


def impulse_noise(image: Pixels, rng: Generator, unit: float, share: float) -> Pixels:
    """Sets this share of all values to 0 or 1, each as likely."""
    hit = rng.random(image.shape, dtype=np.float32) < share
    return np.where(hit, rng.integers(0, 2, image.shape), image)


def speckle_noise(image: Pixels, rng: Generator, unit: float, std: float) -> Pixels:
    """Adds normal noise in proportion to every value."""
    return image + image * std * _normal(rng, image.shape)


def contrast(image: Pixels, rng: Generator, unit: float, factor: float) -> Pixels:
    """Shrinks the distance of every value to its channel's mean."""
    mean = image.mean(axis=(0, 1), dtype=np.float64)
    return mean + factor * (image - mean)


def brightness(image: Pixels, rng: Generator, unit: float, shift: float) -> Pixels:
    """Raises the V of HSV, which is the largest of the three channels; hue and saturation stay.

    All channels then grow by the factor that V grows by; black, which has no hue, becomes grey.
    """
    value = image.max(axis=2, keepdims=True)
    raised = np.minimum(value + shift, 1)
    factor = np.divide(raised, value, out=np.zeros_like(value), where=value > 0)
    return np.where(value > 0, image * factor, raised)


def saturate(image: Pixels, rng: Generator, unit: float, factor: float, shift: float) -> Pixels:
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


def luma(image: Pixels) -> Pixels:
    """Brightness [H, W, 1] by Rec. 601; a grey image's is itself."""
    if image.shape[2] == 1:
        return image
    return image @ np.array([[0.299], [0.587], [0.114]], dtype=image.dtype)


def in_channels_of(image: Pixels, colour: tuple[int, int, int]) -> Pixels:
    """A colour, 0 to 255, as float [C] in [0, 1] of the image's channels."""
    rgb = np.array(colour, dtype=np.float32).reshape(1, 1, 3) / 255
    return (rgb if image.shape[2] == 3 else luma(rgb)).reshape(-1)


def _normal(rng: Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    return rng.standard_normal(shape, dtype=np.float32)
