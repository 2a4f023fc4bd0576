"""Figures and the HTML report, from plain data."""

from temper.report.figures import accuracy_curve, training_curves
from temper.report.page import write_report
from temper.report.views import BrittlenessView, EpochRow, RunView, SampleView

__all__ = [
    "BrittlenessView",
    "EpochRow",
    "RunView",
    "SampleView",
    "accuracy_curve",
    "training_curves",
    "write_report",
]
