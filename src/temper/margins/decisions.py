"""Which decisions of a table are brittle: the labels that scores and detectors are judged by."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from temper.errors import ArgumentError, EvidenceError
from temper.margins.metrics import chosen_suite, evidence
from temper.margins.table import EvidenceTable
from temper.threat import ROUNDING


@dataclass(frozen=True)
class Brittleness:
    """Decisions, right and wrong ones, in the order of the sample ids.

    Attributes:
        sample: int64 [N], ids.
        prediction: int64 [N].
        logit_margin: float64 [N].
        margin: float64 [N], distance of the nearest flip found; inf where none was.
        brittle: bool [N], a flip was found within eps (arXiv:2406.18451, section 2: the label plays no part).
        robust: bool [N], the suite searched up to eps and found none.
        suite: whose survival counts.
    """

    sample: NDArray[np.int64]
    prediction: NDArray[np.int64]
    logit_margin: NDArray[np.float64]
    margin: NDArray[np.float64]
    brittle: NDArray[np.bool_]
    robust: NDArray[np.bool_]
    suite: str

    @property
    def unknown(self) -> NDArray[np.bool_]:
        """Decisions that no search has settled: bool [N]."""
        return ~self.brittle & ~self.robust


def brittleness(table: EvidenceTable, norm: str, eps: float, suite: str | None = None) -> Brittleness:
    """What a table says about each decision at ``eps`` (pixel units of [0, 1]).

    Raises:
        ArgumentError: eps is not above 0.
        EvidenceError: no decision is settled, a logit margin is no number, or see
            :func:`temper.margins.metrics.evidence`.
    """
    if not eps > 0:
        raise ArgumentError("eps", eps, "must be above 0")
    distances, name = evidence(table, norm, suite), chosen_suite(table, norm, suite)
    frame = table.frame
    rows = frame[(frame["norm"] == norm) & (frame["suite"] == name)].sort_values("sample")
    margins = rows["logit_margin"].to_numpy(np.float64)
    if not np.isfinite(margins).all():
        sample = int(rows["sample"].to_numpy()[~np.isfinite(margins)][0])
        raise EvidenceError(f"the logit margin of sample {sample} is no finite number; measure it again")
    brittle = distances.upper <= eps * (1 + ROUNDING)
    robust = ~brittle & (distances.survived >= eps * (1 - ROUNDING))
    if not (brittle | robust).any():
        raise EvidenceError(
            f"all {len(rows)} margins are unknown at {norm} {eps:.4g}: no search went so far; attack them with temper"
            " evaluate or temper margins first"
        )
    return Brittleness(
        sample=rows["sample"].to_numpy(np.int64),
        prediction=rows["prediction"].to_numpy(np.int64),
        logit_margin=margins,
        margin=distances.upper,
        brittle=brittle,
        robust=robust,
        suite=name,
    )
