"""Warning, while a run is trained, that it does not learn."""

import logging
from collections.abc import Callable, Sequence

from temper.runs.run import WARNINGS, Run
from temper.training.objectives import OBJECTIVES
from temper.training.schedules import EpsilonSchedule
from temper.training.stuck import due, words
from temper.training.transfer import Validation

log = logging.getLogger(__name__)


def watching(run: Run, schedule: EpsilonSchedule, validation: Validation) -> Callable[[Sequence[float]], None]:
    """What a training tells its validation accuracies so far: it warns, once in a run, and keeps that in the record.

    A run that was stopped just then comes to the same epoch again, and is warned of no second time.
    """
    config = run.config
    attacked = OBJECTIVES[config.objective.name].attacked

    def watch(accuracies: Sequence[float]) -> None:
        if run.warnings or not due(accuracies, validation, config.epochs):
            return
        shares = [
            schedule.fraction(epoch, config.epochs, accuracies[: epoch - 1]) if attacked else 0.0
            for epoch in range(1, len(accuracies) + 1)
        ]
        warning = words(accuracies, shares, validation, config.epochs)
        run.note(**{WARNINGS: [warning]})
        log.warning("%s: %s", run.folder, warning)

    return watch
