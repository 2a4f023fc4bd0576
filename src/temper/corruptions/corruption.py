"""What a corruption says of itself: how it changes an image, and the published parameters of its five severities.

The values are those of the programs that made ImageNet-C (224 px), Tiny-ImageNet-C (64 px) and CIFAR-10-C (32 px)
(Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261; github.com/hendrycks/robustness, ImageNet-C/create_c).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

ImageArray = NDArray[np.floating]
Generator = np.random.Generator

Group = Literal["noise", "blur", "weather", "digital", "extra"]
"""The groups of ImageNet-C, and the corruptions that its authors keep for validation."""

Row = tuple[tuple[float, ...], ...]
"""Five severities; each entry is what the corruption's function takes."""


@dataclass(frozen=True)
class Corruption:
    """One corruption.

    Attributes:
        function: from an image, a random generator, the factor on lengths in pixels and the parameters of a severity,
            in the order of the rows below; see :mod:`temper.corruptions.pixelwise`. Its name is the corruption's.
        group: where it belongs.
        cifar, tiny_imagenet, imagenet: its parameters in the three published sets.
        is_stand_in: whether its published counterpart uses photographs that are not ours to ship.
        by_imagecorruptions: from an image, a generator and the severity, where the package ``imagecorruptions`` does
            something else than ImageNet-C.
    """

    function: Callable[..., ImageArray]
    group: Group
    cifar: Row
    tiny_imagenet: Row
    imagenet: Row
    is_stand_in: bool = False
    by_imagecorruptions: Callable[[ImageArray, Generator, int], ImageArray] | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return self.function.__name__


def each(*severities: float) -> Row:
    """One parameter for each severity."""
    return tuple((value,) for value in severities)


def zooms(*severities: tuple[float, float]) -> Row:
    """Zoom factors 1, 1 + step, ... for each (stop, step); ``np.arange`` decides on the last one, as published."""
    return tuple(tuple(np.arange(1, stop, step).tolist()) for stop, step in severities)


def of_side(side: float, *severities: tuple[float, float, float]) -> Row:
    """Three lengths for each severity, given as shares of a side in pixels."""
    return tuple((side * alpha, side * sigma, side * shift) for alpha, sigma, shift in severities)


FINE_ZOOMS = zooms((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
"""Of the sets of small images."""
