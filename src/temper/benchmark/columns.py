"""The metrics of a benchmark: each is declared here once, and stands in stores, findings, leaderboard and docs.

To add one, write a function from what a SPEC measures to its columns, and name it in :data:`DECLARED`. A metric has a
column of its own name in every result row, beside those of its interval.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from temper.benchmark.spec import NEAREST, Measure
from temper.corruptions.table import CorruptionTable
from temper.errors import EvidenceError
from temper.margins import EvidenceTable, margin_consistency
from temper.margins.intervals import Estimate
from temper.margins.metrics import evidence
from temper.threat import Threat
from temper.training.transfer import Delay

PARTS = tuple(field.name for field in fields(Estimate))


@dataclass(frozen=True)
class RunEvidence:
    """What a run left.

    Attributes:
        measure: what was measured of it.
        margins: evidence by suite.
        corrupted: decisions on corrupted images, if they were measured.
        delay: of the training; None where it is not known.
    """

    measure: Measure
    margins: Mapping[str, EvidenceTable]
    corrupted: CorruptionTable | None = None
    delay: Delay | None = None

    @property
    def main(self) -> EvidenceTable:
        """The evidence of the curve."""
        return self.margins[self.measure.suite]

    @property
    def corruptions(self) -> CorruptionTable:
        """The decisions on corrupted images."""
        assert self.corrupted is not None, "corruptions were not measured"
        return self.corrupted


@dataclass(frozen=True)
class Scale:
    """How a metric is shown and read.

    Attributes:
        percent: as a percentage.
        digits: behind the point, where it is no percentage.
        lower: lower is better.
    """

    percent: bool = True
    digits: int = 3
    lower: bool = False


@dataclass(frozen=True)
class Column:
    """One metric.

    Attributes:
        key: name of the column.
        label: its heading.
        help: what it measures, one sentence.
        estimate: reads it from a run's evidence. None: it follows from other runs' rows, and is in no row itself.
        by_sample: whether it is so of each test sample, 1 or 0 in order of the samples' ids, where the metric is the
            mean of that. Configurations are scored by these: they are accuracies under one perturbation each.
        scale: how it is shown, and which way is better.
        always: False where it may not exist of a run that was measured.
    """

    key: str
    label: str
    help: str
    estimate: Callable[[RunEvidence], Estimate] | None
    by_sample: Callable[[RunEvidence], NDArray[np.float64]] | None = None
    scale: Scale = Scale()
    always: bool = True

    @property
    def scores(self) -> bool:
        """Whether configurations are scored by it."""
        return self.by_sample is not None


def _clean(measure: Measure) -> Iterator[Column]:
    def by_sample(left: RunEvidence) -> NDArray[np.float64]:
        return _right(left.main.frame.drop_duplicates("sample"))

    yield Column("clean", "clean", "Accuracy on unchanged images.", lambda left: left.main.clean_accuracy(), by_sample)


def _robust(measure: Measure) -> Iterator[Column]:
    for name, threat in measure.parsed.items():
        yield _within(name, threat, measure.suite_of(name))


def _within(name: str, threat: Threat, suite: str) -> Column:
    """Robust accuracy at a threat; what was not searched counts as not robust."""
    return Column(
        name,
        str(threat),
        f"Accuracy under attacks within {threat}, suite {suite}.",
        lambda left: left.margins[suite].robust_accuracy(threat.norm, threat.eps),
        lambda left: evidence(left.margins[suite], threat.norm).robust(threat.eps).astype(np.float64),
    )


def _expected(measure: Measure) -> Iterator[Column]:
    curve = measure.curve
    if curve:
        words = f"Robust accuracy averaged over all radii up to {curve}."
        yield Column(
            "expected",
            "expected robustness",
            words,
            lambda left: left.main.expected_robustness(curve.norm, curve.eps),
        )


def _common(measure: Measure) -> Iterator[Column]:
    def mean(left: RunEvidence) -> Estimate:
        return left.corruptions.mean_accuracy([each for each in left.corruptions.cells() if each[1] > 0])

    def by_sample(left: RunEvidence) -> NDArray[np.float64]:
        frame = left.corruptions.to_pandas()
        return _right(frame[frame["severity"] > 0])

    if measure.corruptions:
        words = "Accuracy under common corruptions, one of 11 per image, severity 3."
        yield Column("common", "common", words, mean, by_sample)


def _tau(measure: Measure) -> Iterator[Column]:
    if measure.tau:
        words = (
            "Margin consistency: Kendall's tau between logit margin and input margin (1: the logit margin tells all)."
        )
        # A constant predictor has no ranking: that is a result, not a failure.
        yield Column("tau", "τ", words, _consistency, scale=Scale(percent=False), always=False)


def _consistency(left: RunEvidence) -> Estimate:
    return margin_consistency(left.margins[NEAREST], "Linf").tau


def _delay(measure: Measure) -> Iterator[Column]:
    words = (
        "First epoch whose validation clean accuracy passes 5 % or, with few classes or a common one, twice chance; the"
        " number of epochs where none does. Lower is better."
    )
    # Of a run that was trained when delays were not noted yet, it is not known.
    yield Column("delay", "delay, epochs", words, _noted_delay, scale=EPOCHS, always=False)


def _noted_delay(left: RunEvidence) -> Estimate:
    if left.delay is None:
        raise EvidenceError("the validation accuracy of some epoch is not known")
    return left.delay.epochs


def _severity(measure: Measure) -> Iterator[Column]:
    words = (
        "Severity of suboptimal transfer: clean accuracy of standard fine-tuning of the same backbone, data, epochs and"
        " seed, minus this run's. Lower is better."
    )
    yield Column(SEVERITY, "severity", words, None, scale=Scale(lower=True), always=False)


SEVERITY = "severity"
EPOCHS = Scale(percent=False, digits=1, lower=True)
DECLARED = (_clean, _robust, _expected, _common, _tau, _delay, _severity)


def columns(measure: Measure) -> list[Column]:
    """The metrics that are measured, in the order of the rows."""
    return [column for declared in DECLARED for column in declared(measure)]


def scale_of(key: str) -> Scale:
    """How a metric is shown; those that a SPEC names itself are shares."""
    return USUAL[key].scale if key in USUAL else Scale()


USUAL = {column.key: column for column in columns(Measure())}
#: Those that configurations are scored by, and others that a row has, where a SPEC says nothing else.
PERTURBATIONS = tuple(column.key for column in USUAL.values() if column.scores)
BESIDE = tuple(column.key for column in USUAL.values() if column.estimate and not column.scores)


def names(key: str) -> list[str]:
    """The columns that hold a metric: its value, ends of the interval, samples, unknown share."""
    return [key, *(f"{key}_{part}" for part in PARTS[1:])]


def as_columns(key: str, estimate: Estimate) -> dict[str, float]:
    """A metric as columns of a result row."""
    return dict(zip(names(key), estimate.to_json().values(), strict=True))


def from_columns(key: str, row: "pd.Series[float]") -> Estimate:
    """A metric of a result row."""
    value, low, high, n, unknown = (row[name] for name in names(key))
    return Estimate(float(value), float(low), float(high), int(n), float(unknown))


def _right(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Whether each sample's prediction is its label, in order of the samples' ids."""
    frame = frame.set_index("sample").sort_index()
    return (frame["label"] == frame["prediction"]).to_numpy(np.bool_).astype(np.float64)
