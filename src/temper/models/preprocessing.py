"""The preprocessing that a network was made for: its normalisation, and the size of its images."""

from collections.abc import Sequence
from dataclasses import dataclass

from temper.errors import ArgumentError

LEAST_STD = 1e-6


@dataclass(frozen=True)
class Preprocessing:
    """What happens to pixels in [0, 1] before a network sees them.

    Attributes:
        mean: one value per channel, in [0, 1] pixel units.
        std: one value per channel, in [0, 1] pixel units.
        image_size: height and width in pixels that the network is made for; None: images as they come.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int | None

    @classmethod
    def none(cls, channels: int, image_size: int | None) -> "Preprocessing":
        """That of a network which normalises by itself, or not at all."""
        return cls((0.0,) * channels, (1.0,) * channels, image_size)

    @property
    def channels(self) -> int:
        """Of an image."""
        return len(self.mean)


def for_channels(statistic: Sequence[float], channels: int) -> tuple[float, ...]:
    """Means or standard deviations of RGB for another number of channels."""
    # A network rebuilt for other channels sums or repeats its RGB filters: each channel gets the average.
    if len(statistic) == channels:
        return tuple(statistic)
    return (sum(statistic) / len(statistic),) * channels


def given_or_own(argument: str, given: float | Sequence[float] | None, own: tuple[float, ...]) -> tuple[float, ...]:
    """Mean or standard deviation per channel: the given one, else the model's own.

    Raises:
        ArgumentError: there are not as many as channels, or they are in another unit.
    """
    if given is None:
        return own
    values = tuple(given) if isinstance(given, Sequence) else (given,) * len(own)
    if len(values) != len(own):
        raise ArgumentError(argument, given, f"the network has {len(own)} channels: give one number or {len(own)}")
    if not all(0 <= value <= 1 for value in values) or (argument == "std" and 0 in values):
        raise ArgumentError(argument, given, "is in units of [0, 1] pixels; divide 0..255 values by 255")
    if argument == "std" and min(values) < LEAST_STD:
        raise ArgumentError(argument, given, f"pixels are divided by it; give at least {LEAST_STD:g}")
    return values
