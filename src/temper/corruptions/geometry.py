"""Elastic deformation, fewer pixels, JPEG; see :mod:`temper.corruptions.pixelwise` for what they take and return."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft, ndimage

from temper.corruptions.corruption import Corruption, Generator, ImageArray, each, of_side


def elastic_transform(
    image: ImageArray, rng: Generator, unit: float, alpha: float, sigma: float, shift: float
) -> ImageArray:
    """Moves three points of the image by up to ``shift`` pixels, then every pixel by smoothed noise.

    ``alpha`` times uniform noise in (-1, 1), smoothed over ``sigma`` pixels. The smoothing divides the noise by about
    sigma, so alpha grows with the square of the size for a displacement that grows with it.
    """
    moved = _sheared(image, shift * unit, rng)
    return _displaced(moved, rng, (sigma * unit,) * 2, alpha * unit**2)


def elastic_as_imagecorruptions(image: ImageArray, rng: Generator, severity: int) -> ImageArray:
    """The package's own variant, whose lengths are shares of height and width, and which moves no points."""
    height, width = image.shape[:2]
    alpha = (12.5, 16.25, 21.25, 25, 30)[severity - 1]
    return _displaced(image, rng, (0.01 * height, 0.01 * width), 0.005 * height * alpha)


ELASTIC_TRANSFORM = Corruption(
    elastic_transform,
    "digital",
    cifar=of_side(32, (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    tiny_imagenet=of_side(
        64, (0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)
    ),
    # 244, not 224: so it is in the program that made the published set.
    imagenet=of_side(244, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)),
    by_imagecorruptions=elastic_as_imagecorruptions,
)


def _sheared(image: ImageArray, shift: float, rng: Generator) -> ImageArray:
    """The image under the affine map that moves three points, by up to ``shift`` pixels a coordinate, the border
    mirrored."""
    height, width = image.shape[:2]
    middle, arm = np.array([height // 2, width // 2]), min(height, width) // 3
    points = middle + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + rng.uniform(-shift, shift, (3, 2))
    # Affine map from output to input, [moved, 1] @ back = points.
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), points)
    sheared = np.empty_like(image)
    for channel in range(image.shape[2]):
        ndimage.affine_transform(
            image[:, :, channel], back[:2].T, back[2], output=sheared[:, :, channel], order=1, mode="mirror"
        )
    return sheared


def _displaced(image: ImageArray, rng: Generator, sigma: tuple[float, float], alpha: float) -> ImageArray:
    """The image with every pixel fetched from alpha * smoothed noise away, bilinear."""
    shape = image.shape[:2]
    places = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    for place in places:
        place += alpha * _smoothed(rng.uniform(-1, 1, shape), sigma)
    moved = np.empty_like(image)
    for channel in range(image.shape[2]):
        ndimage.map_coordinates(image[:, :, channel], places, output=moved[:, :, channel], order=1, mode="reflect")
    return moved


def _smoothed(noise: NDArray[np.float64], sigma: tuple[float, float]) -> NDArray[np.float64]:
    """Noise [H, W] convolved with a Gaussian, cut at 3 sigma, the border reflected.

    Sigma may be as long as the image, for which direct convolution is slow. Reflection makes the image even and
    periodic, and there a cosine transform turns the convolution into a product.
    """
    waves = fft.dctn(noise, norm="ortho")
    for axis, spread in enumerate(sigma):
        length = noise.shape[axis]
        reach = np.arange(1, int(3 * spread + 0.5) + 1)
        weights = np.exp(-(reach**2) / (2 * spread**2)) if reach.size else np.zeros(0)
        cosines = np.cos(np.pi / length * np.outer(np.arange(length), reach))
        passed = (1 + 2 * cosines @ weights) / (1 + 2 * weights.sum())
        waves *= passed[:, np.newaxis] if axis == 0 else passed
    return np.asarray(fft.idctn(waves, norm="ortho"))


def pixelate(image: ImageArray, rng: Generator, unit: float, share: float) -> ImageArray:
    """Averages down to this share of height and width, and enlarges again without smoothing."""
    height, width = image.shape[:2]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    picture = _picture(image).resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BOX)
    return _pixels(picture)


PIXELATE = Corruption(
    pixelate,
    "digital",
    cifar=each(0.95, 0.9, 0.85, 0.75, 0.65),
    tiny_imagenet=each(0.9, 0.8, 0.7, 0.6, 0.5),
    imagenet=each(0.6, 0.5, 0.4, 0.3, 0.25),
)


def jpeg_compression(image: ImageArray, rng: Generator, unit: float, quality: float) -> ImageArray:
    """Saves as JPEG of this quality, and reads it back."""
    stream = io.BytesIO()
    _picture(image).save(stream, "JPEG", quality=int(quality))
    with Image.open(stream) as picture:
        return _pixels(picture)


JPEG_COMPRESSION = Corruption(
    jpeg_compression,
    "digital",
    cifar=each(80, 65, 58, 50, 40),
    tiny_imagenet=each(65, 58, 50, 40, 25),
    imagenet=each(25, 18, 15, 10, 7),
)


def _picture(image: ImageArray) -> Image.Image:
    levels = np.rint(image * 255).astype(np.uint8)
    return Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)


def _pixels(picture: Image.Image) -> ImageArray:
    levels = np.asarray(picture).astype(np.float32) / 255
    return levels[:, :, np.newaxis] if levels.ndim == 2 else levels
