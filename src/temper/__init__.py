"""Temper: make image classifiers robust, know how robust they are, and which single decisions are brittle.

The names below are loaded when they are first used, so that ``import temper`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from temper.errors import TemperError, TemperWarning

if TYPE_CHECKING:
    from temper.evaluation.measurement import evaluate
    from temper.margins import BrittlenessDetector, Estimate, EvidenceTable, margin_consistency
    from temper.runs.finetune import finetune
    from temper.training.config import FinetuneConfig
    from temper.training.schedules import EpsilonSchedule

_HOMES = {
    "BrittlenessDetector": "temper.margins",
    "EpsilonSchedule": "temper.training.schedules",
    "Estimate": "temper.margins",
    "EvidenceTable": "temper.margins",
    "FinetuneConfig": "temper.training.config",
    "evaluate": "temper.evaluation.measurement",
    "finetune": "temper.runs.finetune",
    "margin_consistency": "temper.margins",
}

__all__ = [
    "BrittlenessDetector",
    "EpsilonSchedule",
    "Estimate",
    "EvidenceTable",
    "FinetuneConfig",
    "TemperError",
    "TemperWarning",
    "evaluate",
    "finetune",
    "margin_consistency",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'temper' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
