"""Which of the published parameters an image of some size gets."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from temper.corruptions.catalogue import CORRUPTIONS
from temper.corruptions.corruption import Row

Rule = Literal["sized", "imagecorruptions"]
RULES: tuple[Rule, ...] = get_args(Rule)

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class ParameterTable:
    """Parameters of all corruptions, made for images of ``side`` x ``side`` pixels."""

    name: str
    side: int
    rows: dict[str, Row]


IMAGENET = ParameterTable("ImageNet-C", 224, {name: each.imagenet for name, each in CORRUPTIONS.items()})
TINY_IMAGENET = ParameterTable("Tiny-ImageNet-C", 64, {name: each.tiny_imagenet for name, each in CORRUPTIONS.items()})
CIFAR = ParameterTable("CIFAR-10-C", 32, {name: each.cifar for name, each in CORRUPTIONS.items()})
TABLES = (CIFAR, TINY_IMAGENET, IMAGENET)


def table_for(height: int, width: int, rule: Rule = "sized") -> tuple[ParameterTable, float]:
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
