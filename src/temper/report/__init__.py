"""Figures and the HTML report, from plain data."""

from temper.report.figures import accuracy_curve, training_curves
from temper.report.page import write_report
from temper.report.views import (
    AccuracyCurve,
    BrittlenessView,
    DetectorView,
    EpochRow,
    RunView,
    SampleView,
    ScoreCurves,
    Training,
)

__all__ = [
    "AccuracyCurve",
    "BrittlenessView",
    "DetectorView",
    "EpochRow",
    "RunView",
    "SampleView",
    "ScoreCurves",
    "Training",
    "accuracy_curve",
    "training_curves",
    "write_report",
]
