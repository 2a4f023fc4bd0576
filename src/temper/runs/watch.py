"""Warning, while a run is trained, that it does not learn."""

import logging
from collections.abc import Callable, Sequence

from temper.runs.run import WARNINGS, Run
from temper.training import overfitting
from temper.training.objectives import OBJECTIVES
from temper.training.schedules import EpsilonSchedule
from temper.training.selection import RobustEpoch
from temper.training.stuck import due, words
from temper.training.transfer import Validation

log = logging.getLogger(__name__)

Watch = Callable[[Sequence[float], Sequence[RobustEpoch]], None]


def watching(run: Run, schedule: EpsilonSchedule, validation: Validation) -> Watch:
    """What a training tells its validation accuracies so far: it warns of each thing once and keeps it in the record.

    A run that was stopped just then comes to the same epoch again, and is warned of no second time.
    """
    config = run.config
    attacked = OBJECTIVES[config.objective.name].attacked

    def say(warning: str) -> None:
        run.note(**{WARNINGS: [*run.warnings, warning]})
        log.warning("%s: %s", run.folder, warning)

    def watch(accuracies: Sequence[float], robust: Sequence[RobustEpoch] = ()) -> None:
        single = bool(robust) and attacked and config.attack.length == 1
        said = [overfitting.NAME in each for each in run.warnings]
        if single and not any(said) and overfitting.due(robust, validation):
            say(overfitting.words(robust, validation))
        if not all(said) or not due(accuracies, validation, config.epochs):
            return
        shares = [
            schedule.fraction(epoch, config.epochs, accuracies[: epoch - 1]) if attacked else 0.0
            for epoch in range(1, len(accuracies) + 1)
        ]
        say(words(accuracies, shares, validation, config.epochs))

    return watch
