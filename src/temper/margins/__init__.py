"""What evidence says: the table, and the figures that are pure functions of it."""

from temper.margins.consistency import margin_consistency
from temper.margins.detector import BrittlenessDetector
from temper.margins.intervals import Estimate
from temper.margins.metrics import (
    accuracy_curve,
    clean_accuracy,
    expected_robustness,
    mean_margin,
    robust_accuracy,
    union_robust_accuracy,
)
from temper.margins.table import EvidenceTable

__all__ = [
    "BrittlenessDetector",
    "Estimate",
    "EvidenceTable",
    "accuracy_curve",
    "clean_accuracy",
    "expected_robustness",
    "margin_consistency",
    "mean_margin",
    "robust_accuracy",
    "union_robust_accuracy",
]
