"""What changes from one classifier to another on the same samples, with paired intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from temper.errors import EvidenceError
from temper.margins import intervals
from temper.margins.intervals import Bracket, Estimate
from temper.margins.metrics import Table, evidence
from temper.threat import Threat


@dataclass(frozen=True)
class Changes:
    """How much higher (negative: lower) a share is for one classifier than for another, in [-1, 1].

    Attributes:
        clean: of clean accuracy.
        robust: of robust accuracy at the threat's radius.
        expected: of expected robustness up to it.
    """

    clean: Estimate
    robust: Estimate
    expected: Estimate


def changes(one: Table, other: Table, threat: Threat, suite: str | None = None) -> Changes:
    """From ``one`` to ``other``, which were searched on the same samples.

    Raises:
        EvidenceError: the samples are not the same, or see :func:`temper.margins.metrics.evidence`.
    """
    clean = clean_change(one, other)
    first, second = (evidence(table, threat.norm, suite) for table in (one, other))
    eps = threat.eps
    return Changes(
        clean=clean,
        robust=intervals.difference(
            _bracket(first.robust(eps), first.unknown(eps)), _bracket(second.robust(eps), second.unknown(eps))
        ),
        expected=intervals.difference(first.lasting(eps), second.lasting(eps)),
    )


def clean_change(one: Table, other: Table) -> Estimate:
    """How much higher clean accuracy is in ``other`` than in ``one``, whatever each was searched for.

    Raises:
        EvidenceError: the samples are not the same.
    """
    first, second = (table.frame.drop_duplicates("sample").set_index("sample").sort_index() for table in (one, other))
    if not first["label"].equals(second["label"]):
        raise EvidenceError("the two tables are of different samples; a paired comparison needs the same in both")
    decided = [_settled((each["label"] == each["prediction"]).to_numpy(np.bool_)) for each in (first, second)]
    return intervals.difference(*decided)


def _settled(shown: NDArray[np.bool_]) -> Bracket:
    return _bracket(shown, np.zeros_like(shown))


def _bracket(shown: NDArray[np.bool_], unknown: NDArray[np.bool_]) -> Bracket:
    return shown.astype(np.float64), (shown | unknown).astype(np.float64)
