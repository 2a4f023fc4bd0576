"""Common corruptions of images (noise, blur, weather, digital), and what they cost a model in accuracy."""

from temper.corruptions.apply import CorruptedImages, corrupt, corrupted, guide_preset
from temper.corruptions.baseline import ALEXNET, Baseline, MeanCorruptionError, mce, read_baseline
from temper.corruptions.measure import corruption_accuracy, guide_accuracy
from temper.corruptions.parameters import EXTRA, GUIDE, IMAGENET_C, SEVERITIES, STAND_INS
from temper.corruptions.table import CorruptionTable

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
