"""Temper: make image classifiers robust, know how robust they are, and which single decisions are brittle.

The names below are loaded when they are first used, so that ``import temper`` is quick.
"""

from temper.core.lazily import names_of

TYPE_CHECKING = False  # type checkers take it for true; typing's own would be a good part of a quick import
if TYPE_CHECKING:
    from temper.errors import TemperError, TemperWarning
    from temper.evaluation.measurement import evaluate
    from temper.evaluation.verifying import verify
    from temper.margins import BrittlenessDetector, Estimate, EvidenceTable, margin_consistency
    from temper.runs.finetune import finetune
    from temper.training.config import FinetuneConfig
    from temper.training.schedules import EpsilonSchedule

_HOMES = {
    "BrittlenessDetector": "margins",
    "EpsilonSchedule": "training.schedules",
    "Estimate": "margins",
    "EvidenceTable": "margins",
    "TemperError": "errors",
    "TemperWarning": "errors",
    "FinetuneConfig": "training.config",
    "evaluate": "evaluation.measurement",
    "finetune": "runs.finetune",
    "margin_consistency": "margins",
    "verify": "evaluation.verifying",
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
    "verify",
]

__getattr__ = names_of(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
