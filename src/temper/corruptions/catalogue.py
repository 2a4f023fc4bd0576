"""The corruptions that there are, by name, and those that published results are taken over."""

from temper.core.lazily import loaded
from temper.corruptions.corruption import Corruption, Group

_PLACES = (
    "pixelwise:GAUSSIAN_NOISE",
    "pixelwise:SHOT_NOISE",
    "pixelwise:IMPULSE_NOISE",
    "blur:DEFOCUS_BLUR",
    "blur:GLASS_BLUR",
    "blur:MOTION_BLUR",
    "blur:ZOOM_BLUR",
    "weather:SNOW",
    "weather:FROST",
    "weather:FOG",
    "pixelwise:BRIGHTNESS",
    "pixelwise:CONTRAST",
    "geometry:ELASTIC_TRANSFORM",
    "geometry:PIXELATE",
    "geometry:JPEG_COMPRESSION",
    "pixelwise:SPECKLE_NOISE",
    "blur:GAUSSIAN_BLUR",
    "weather:SPATTER",
    "pixelwise:SATURATE",
)
_ALL: tuple[Corruption, ...] = tuple(loaded(f"{__package__}.{place}") for place in _PLACES)

CORRUPTIONS: dict[str, Corruption] = {each.name: each for each in _ALL}
"""Every corruption by name; those of ImageNet-C in its order."""


def in_group(group: Group) -> tuple[str, ...]:
    """Names of the corruptions of a group."""
    return tuple(each.name for each in _ALL if each.group == group)


GROUPS: dict[Group, tuple[str, ...]] = {each.group: in_group(each.group) for each in _ALL}
EXTRA = GROUPS["extra"]
"""The four that the authors of ImageNet-C keep for validation."""
IMAGENET_C = tuple(each.name for each in _ALL if each.group != "extra")
"""The 15 corruptions that ImageNet-C's mean corruption error is taken over, in its order."""
STAND_INS = tuple(each.name for each in _ALL if each.is_stand_in)
"""Corruptions whose published counterpart uses photographs that are not ours to ship."""

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
"""The Guide to robust generalization's, in its order; all at :data:`GUIDE_SEVERITY`."""
GUIDE_SEVERITY = 3
