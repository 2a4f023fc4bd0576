"""Common corruptions of images (noise, blur, weather, digital), and what they cost a model in accuracy.

The names below are loaded when they are first used: results are read without torch.
"""

from typing import TYPE_CHECKING

from temper.core.lazily import names_of

if TYPE_CHECKING:
    from temper.corruptions.apply import CorruptedImages, corrupt, corrupted, guide_preset
    from temper.corruptions.baseline import ALEXNET, Baseline, MeanCorruptionError, mce, read_baseline
    from temper.corruptions.catalogue import EXTRA, GUIDE, IMAGENET_C, STAND_INS
    from temper.corruptions.measure import corruption_accuracy, guide_accuracy
    from temper.corruptions.parameters import SEVERITIES
    from temper.corruptions.table import CorruptionTable

_HOMES = {
    "ALEXNET": "baseline",
    "EXTRA": "catalogue",
    "GUIDE": "catalogue",
    "IMAGENET_C": "catalogue",
    "SEVERITIES": "parameters",
    "STAND_INS": "catalogue",
    "Baseline": "baseline",
    "CorruptedImages": "apply",
    "CorruptionTable": "table",
    "MeanCorruptionError": "baseline",
    "corrupt": "apply",
    "corrupted": "apply",
    "corruption_accuracy": "measure",
    "guide_accuracy": "measure",
    "guide_preset": "apply",
    "mce": "baseline",
    "read_baseline": "baseline",
}

__all__ = [
    "ALEXNET",
    "EXTRA",
    "GUIDE",
    "IMAGENET_C",
    "SEVERITIES",
    "STAND_INS",
    "Baseline",
    "CorruptedImages",
    "CorruptionTable",
    "MeanCorruptionError",
    "corrupt",
    "corrupted",
    "corruption_accuracy",
    "guide_accuracy",
    "guide_preset",
    "mce",
    "read_baseline",
]

__getattr__ = names_of(__name__, _HOMES)
