"""Common corruptions of images (noise, blur, weather, digital), and what they cost a model in accuracy.

What corrupts images or measures a model is loaded when it is first used: its results are read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from temper.corruptions.baseline import ALEXNET, Baseline, MeanCorruptionError, mce, read_baseline
from temper.corruptions.parameters import EXTRA, GUIDE, IMAGENET_C, SEVERITIES, STAND_INS
from temper.corruptions.table import CorruptionTable

if TYPE_CHECKING:
    from temper.corruptions.apply import CorruptedImages, corrupt, corrupted, guide_preset
    from temper.corruptions.measure import corruption_accuracy, guide_accuracy

_HOMES = {
    "CorruptedImages": "apply",
    "corrupt": "apply",
    "corrupted": "apply",
    "corruption_accuracy": "measure",
    "guide_accuracy": "measure",
    "guide_preset": "apply",
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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"temper.corruptions.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'temper.corruptions' has no attribute {name!r}")
