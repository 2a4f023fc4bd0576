"""The published parameters of every corruption, and which of them an image of some size gets.

The values are those of the programs that made ImageNet-C (224 px), Tiny-ImageNet-C (64 px) and CIFAR-10-C (32 px)
(Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261; github.com/hendrycks/robustness, ImageNet-C/create_c). What
each number means is said where it is used: the corruption's function takes them in this order.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

#: One row of five severities; each entry is what the corruption's function takes.
Row = tuple[tuple[float, ...], ...]

Rule = Literal["sized", "imagecorruptions"]
RULES: tuple[Rule, ...] = get_args(Rule)

SEVERITIES = (1, 2, 3, 4, 5)

NOISE = ("gaussian_noise", "shot_noise", "impulse_noise")
BLUR = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur")
WEATHER = ("snow", "frost", "fog", "brightness")
DIGITAL = ("contrast", "elastic_transform", "pixelate", "jpeg_compression")
#: The 15 corruptions that ImageNet-C's mean corruption error is taken over, in its order.
IMAGENET_C = NOISE + BLUR + WEATHER + DIGITAL
#: The four that the authors keep for validation.
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
#: The Guide to robust generalization's, in its order; all at :data:`GUIDE_SEVERITY`.
GUIDE = (
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
GUIDE_SEVERITY = 3
#: Corruptions whose published counterpart uses photographs that are not ours to ship.
STAND_INS = ("frost",)


@dataclass(frozen=True)
class Table:
    """Parameters of all corruptions, made for images of ``side`` x ``side`` pixels."""

    name: str
    side: int
    rows: dict[str, Row]


def _row(*severities: float) -> Row:
    return tuple((value,) for value in severities)


def _zooms(*severities: tuple[float, float]) -> Row:
    """Zoom factors 1, 1 + step, ... for each (stop, step); ``np.arange`` decides on the last one, as published."""
    return tuple(tuple(np.arange(1, stop, step).tolist()) for stop, step in severities)


def _of_side(side: float, *severities: tuple[float, float, float]) -> Row:
    return tuple((side * alpha, side * sigma, side * shift) for alpha, sigma, shift in severities)


_FINE_ZOOMS = _zooms((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))

IMAGENET = Table(
    "ImageNet-C",
    224,
    {
        "gaussian_noise": _row(0.08, 0.12, 0.18, 0.26, 0.38),
        "shot_noise": _row(60, 25, 12, 5, 3),
        "impulse_noise": _row(0.03, 0.06, 0.09, 0.17, 0.27),
        "speckle_noise": _row(0.15, 0.2, 0.35, 0.45, 0.6),
        "gaussian_blur": _row(1, 2, 3, 4, 6),
        "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "zoom_blur": _zooms((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        "snow": (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        "spatter": (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
        "contrast": _row(0.4, 0.3, 0.2, 0.1, 0.05),
        "brightness": _row(0.1, 0.2, 0.3, 0.4, 0.5),
        "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
        "jpeg_compression": _row(25, 18, 15, 10, 7),
        "pixelate": _row(0.6, 0.5, 0.4, 0.3, 0.25),
        # 244, not 224: so it is in the program that made the published set.
        "elastic_transform": _of_side(
            244, (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02)
        ),
    },
)

TINY_IMAGENET = Table(
    "Tiny-ImageNet-C",
    64,
    {
        "gaussian_noise": _row(0.04, 0.08, 0.12, 0.15, 0.18),
        "shot_noise": _row(250, 100, 50, 30, 15),
        "impulse_noise": _row(0.01, 0.02, 0.05, 0.08, 0.14),
        "speckle_noise": _row(0.15, 0.2, 0.25, 0.3, 0.35),
        "gaussian_blur": _row(0.5, 0.75, 1, 1.25, 1.5),
        "glass_blur": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        "defocus_blur": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        "motion_blur": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        "zoom_blur": _FINE_ZOOMS,
        "fog": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        "frost": ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        "spatter": (
            (0.62, 0.1, 0.7, 0.7, 0.6, 0),
            (0.65, 0.1, 0.8, 0.7, 0.6, 0),
            (0.65, 0.3, 1, 0.69, 0.6, 0),
            (0.65, 0.1, 0.7, 0.68, 0.6, 1),
            (0.65, 0.1, 0.5, 0.67, 0.6, 1),
        ),
        "contrast": _row(0.4, 0.3, 0.2, 0.1, 0.05),
        "brightness": _row(0.1, 0.2, 0.3, 0.4, 0.5),
        "saturate": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
        "jpeg_compression": _row(65, 58, 50, 40, 25),
        "pixelate": _row(0.9, 0.8, 0.7, 0.6, 0.5),
        "elastic_transform": _of_side(
            64, (0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02)
        ),
    },
)

CIFAR = Table(
    "CIFAR-10-C",
    32,
    {
        "gaussian_noise": _row(0.04, 0.06, 0.08, 0.09, 0.10),
        "shot_noise": _row(500, 250, 100, 75, 50),
        "impulse_noise": _row(0.01, 0.02, 0.03, 0.05, 0.07),
        "speckle_noise": _row(0.06, 0.1, 0.12, 0.16, 0.2),
        "gaussian_blur": _row(0.4, 0.6, 0.7, 0.8, 1),
        "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        "zoom_blur": _FINE_ZOOMS,
        "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        "spatter": (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        "contrast": _row(0.75, 0.5, 0.4, 0.3, 0.15),
        "brightness": _row(0.05, 0.1, 0.15, 0.2, 0.3),
        "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        "jpeg_compression": _row(80, 65, 58, 50, 40),
        "pixelate": _row(0.95, 0.9, 0.85, 0.75, 0.65),
        "elastic_transform": _of_side(
            32, (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)
        ),
    },
)

TABLES = (CIFAR, TINY_IMAGENET, IMAGENET)


def table_for(height: int, width: int, rule: Rule = "sized") -> tuple[Table, float]:
    """The parameters for an image of this size, and the factor on all lengths in pixels.

    ``sized``: the table whose side is nearest to the shorter side by ratio (up to 45 px CIFAR-10-C, up to 119
    Tiny-ImageNet-C, ImageNet-C above), lengths scaled by shorter side / table's side: 1 at 32, 64 and 224 px.
    ``imagecorruptions``: ImageNet-C's parameters in pixels for any size, as the package of that name has them.
    """
    if rule == "imagecorruptions":
        return IMAGENET, 1.0
    shorter = min(height, width)
    table = min(TABLES, key=lambda table: abs(math.log(shorter / table.side)))
    return table, shorter / table.side
