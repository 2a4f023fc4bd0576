"""Snow, frost, fog and spatter; see :mod:`temper.corruptions.pixelwise` for what the functions take and return."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from temper.corruptions.blur import smeared, smoothed, zoomed
from temper.corruptions.corruption import Corruption, Generator, ImageArray
from temper.corruptions.pixelwise import in_channels_of, luma

PALE_TURQUOISE, MUD = (175, 238, 238), (63, 42, 20)
#: Ice for images above this side is drawn at it and enlarged: finer needles would cost seconds and show nothing.
_FINEST_ICE = 256


def snow(
    image: ImageArray,
    rng: Generator,
    unit: float,
    mean: float,
    std: float,
    flake: float,
    threshold: float,
    radius: float,
    sigma: float,
    kept: float,
) -> ImageArray:
    """Bleaches the image and adds flakes: normal noise, enlarged by ``flake``, thresholded and smeared downwards."""
    layer = zoomed(_normal(rng, image.shape[:2], mean, std), max(1.0, flake * unit))
    layer = np.clip(np.where(layer < threshold, 0, layer), 0, 1)
    layer = smeared(layer, radius * unit, sigma * unit, rng.uniform(-135, -45))[:, :, np.newaxis]
    bleached = np.maximum(image, luma(image) * 1.5 + 0.5)
    return kept * image + (1 - kept) * bleached + layer + layer[::-1, ::-1]


SNOW = Corruption(
    snow,
    "weather",
    cifar=(
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    tiny_imagenet=(
        (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
    ),
    imagenet=(
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
)


def frost(image: ImageArray, rng: Generator, unit: float, kept: float, added: float) -> ImageArray:
    """Adds a pane of ice crystals to a dimmed image.

    A STAND-IN: the published sets add one of a few photographs of frost, which are not ours to ship. The pane is
    drawn at random instead, with their range of brightness, contrast and tint. The weights of image and pane are the
    published ones, but numbers measured with it do not compare with published numbers on frost.
    """
    height, width = image.shape[:2]
    shrink = max(1.0, max(height, width) / _FINEST_ICE)
    ice = _ice((math.ceil(height / shrink), math.ceil(width / shrink)), rng)
    if shrink > 1:
        ice = ndimage.zoom(ice, (height / ice.shape[0], width / ice.shape[1]), order=1)
    # The photographs' crops have means from 0.48 to 0.81, the brighter the flatter, and are bluish.
    mean = rng.uniform(0.48, 0.81)
    ice = mean + (0.22 - 0.19 * mean) * (ice - ice.mean()) / max(float(ice.std()), 1e-6)
    tint = np.array([0.88, 1.02, 1.10] if image.shape[2] == 3 else [1], dtype=np.float32)
    return kept * image + added * np.clip(ice[:, :, np.newaxis] * tint, 0, 1)


FROST = Corruption(
    frost,
    "weather",
    cifar=((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    tiny_imagenet=((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
    imagenet=((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    is_stand_in=True,
)


def _ice(shape: tuple[int, int], rng: Generator) -> ImageArray:
    """Needles of ice, float [H, W]: patches that each have a direction of their own, thick here and thin there."""
    directions = rng.uniform(0, 360, 5)
    needles = np.stack([_needles(shape, degrees, rng) for degrees in directions])
    spread = plasma(max(shape), 1.7, rng)[: shape[0], : shape[1]]
    patch = _patches(shape, 30, rng) % len(directions)
    chosen = np.take_along_axis(needles, patch[np.newaxis], axis=0)[0]
    return np.asarray(chosen * (0.4 + 1.2 * spread) + 1.5 * spread)


def _patches(shape: tuple[int, int], count: int, rng: Generator) -> NDArray[np.int64]:
    """Which of ``count`` random centres is nearest to each pixel, along ragged borders: int64 [H, W]."""
    side = max(shape)
    bent = 0.2 * side * (plasma(side, 1.6, rng)[: shape[0], : shape[1]] - 0.5)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    places = np.stack([rows + bent, columns + bent], axis=-1)
    return cKDTree(rng.uniform(0, 1, (count, 2)) * shape).query(places)[1].astype(np.int64)


def _needles(shape: tuple[int, int], degrees: float, rng: Generator) -> ImageArray:
    """Streaks along one direction with shorter ones branching off at 60 degrees: float [H, W], of std about 1."""
    side = max(shape)
    margin = side // 5  # the smearing repeats the border for so long
    grain = smoothed(_normal(rng, (shape[0] + 2 * margin, shape[1] + 2 * margin), 0, 1), side / 250)
    streaks = [smeared(grain, side / 10, side / 14, degrees), smeared(grain, side / 25, side / 35, degrees + 60)]
    inner = [streak[margin : margin + shape[0], margin : margin + shape[1]] for streak in streaks]
    return np.sum([np.abs(streak) / max(float(streak.std()), 1e-6) for streak in inner], axis=0)


def fog(image: ImageArray, rng: Generator, unit: float, amount: float, decay: float) -> ImageArray:
    """Adds a plasma fractal and scales back to the image's own maximum."""
    brightest = float(image.max())
    height, width = image.shape[:2]
    mist = plasma(max(height, width), decay, rng)[:height, :width, np.newaxis]
    return (image + amount * mist) * (brightest / (brightest + amount))


FOG = Corruption(
    fog,
    "weather",
    cifar=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    tiny_imagenet=((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
    imagenet=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
)


def plasma(side: int, decay: float, rng: Generator) -> NDArray[np.float32]:
    """A plasma fractal: float32 [S, S] from 0 to 1, S the least power of two that is not below ``side``.

    Diamond-square on a torus (Fournier, Fussell and Carpenter 1982): each point is the mean of its four neighbours
    at the present distance plus uniform noise, whose range is divided by decay^2 each time the distance is halved.
    """
    size = 1 << (side - 1).bit_length()
    field = np.zeros((size, size), dtype=np.float32)
    step, noise = size, 1.0
    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        wiggle = rng.uniform(-noise, noise, (3, *corners.shape))
        pairs = corners + np.roll(corners, -1, axis=0)
        centres = (pairs + np.roll(pairs, -1, axis=1)) / 4 + wiggle[0]
        field[half::step, half::step] = centres
        across = corners + np.roll(corners, -1, axis=1) + centres + np.roll(centres, 1, axis=0)
        field[::step, half::step] = across / 4 + wiggle[1]
        down = pairs + centres + np.roll(centres, 1, axis=1)
        field[half::step, ::step] = down / 4 + wiggle[2]
        step, noise = half, noise / decay**2
    field -= field.min()
    return field / max(float(field.max()), 1e-12)


def spatter(
    image: ImageArray,
    rng: Generator,
    unit: float,
    mean: float,
    std: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: float,
) -> ImageArray:
    """Drops of water, or of mud: smoothed normal noise above a threshold.

    The noise grows with the length it is smoothed over, so that the drops cover the same share at every size.
    """
    layer = smoothed(_normal(rng, image.shape[:2], mean, std * unit), sigma * unit)
    if mud:
        cover = smoothed((layer > threshold).astype(np.float32), strength * unit)[:, :, np.newaxis]
        cover = np.where(cover < 0.8, 0, cover)
        return image * (1 - cover) + cover * in_channels_of(image, MUD)
    drops = np.clip(np.where(layer < threshold, 0, layer), 0, 1)
    film = drops * _relief(np.floor(drops * 255), unit)
    film = strength * film / max(float(film.max()), 1e-6)
    return image + film[:, :, np.newaxis] * in_channels_of(image, PALE_TURQUOISE)


SPATTER = Corruption(
    spatter,
    "extra",
    cifar=(
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    tiny_imagenet=(
        (0.62, 0.1, 0.7, 0.7, 0.6, 0),
        (0.65, 0.1, 0.8, 0.7, 0.6, 0),
        (0.65, 0.3, 1, 0.69, 0.6, 0),
        (0.65, 0.1, 0.7, 0.68, 0.6, 1),
        (0.65, 0.1, 0.5, 0.67, 0.6, 1),
    ),
    imagenet=(
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
)


def _relief(drops: ImageArray, unit: float) -> ImageArray:
    """How light falls on drops, float [H, W] from 0 to 255.

    The distance to the nearest outline, up to 20 pixels, equalised and embossed, as published.
    """
    outline = _outlines(drops)
    far = np.full(drops.shape, 20.0)
    distance = np.minimum(ndimage.distance_transform_edt(~outline), 20 * unit) / unit if outline.any() else far
    levels = np.floor(ndimage.uniform_filter(distance, 3, mode="mirror")).astype(np.int64)
    counts = np.bincount(levels.ravel(), minlength=256)
    first = counts[levels.min()]
    if first < levels.size:
        levels = np.rint((counts.cumsum() - first) * (255 / (levels.size - first))).astype(np.int64)[levels]
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    lit = np.clip(ndimage.correlate(levels, emboss, mode="mirror"), 0, 255)
    return ndimage.uniform_filter(lit.astype(np.float64), 3, mode="mirror")


def _outlines(grey: ImageArray, low: float = 50, high: float = 150) -> NDArray[np.bool_]:
    """Canny's edges (1986) of a [H, W] image from 0 to 255: bool [H, W].

    Sobel's slope |dx| + |dy|, kept where it is the largest across the edge and above ``low``, and joined to one
    above ``high``.
    """
    right, down = ndimage.sobel(grey, 1, mode="nearest"), ndimage.sobel(grey, 0, mode="nearest")
    slope = np.abs(right) + np.abs(down)
    around = np.pad(slope, 1)
    height, width = slope.shape

    def neighbour(y: int, x: int) -> ImageArray:
        return around[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    angle_is_flat = np.abs(down) < math.tan(math.pi / 8) * np.abs(right)
    angle_is_steep = np.abs(down) > math.tan(3 * math.pi / 8) * np.abs(right)
    rising = right * down < 0
    kinds = [angle_is_flat, angle_is_steep, rising]
    before = np.select(kinds, [neighbour(0, -1), neighbour(-1, 0), neighbour(-1, 1)], neighbour(-1, -1))
    after = np.select(kinds, [neighbour(0, 1), neighbour(1, 0), neighbour(1, -1)], neighbour(1, 1))
    crest = (slope > low) & (slope > before) & (slope >= after)
    labels, _ = ndimage.label(crest, structure=np.ones((3, 3)))
    return crest & np.isin(labels, np.unique(labels[crest & (slope > high)]))


def _normal(rng: Generator, shape: tuple[int, ...], mean: float, std: float) -> NDArray[np.float32]:
    return mean + std * rng.standard_normal(shape, dtype=np.float32)
