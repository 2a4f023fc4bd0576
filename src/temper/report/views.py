"""What a report is made of: plain data, so that whoever has results can have a report.

Shares (accuracies, intervals, unknown) are in [0, 1], epsilons and distances in pixel units of [0, 1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from temper.errors import ArgumentError
from temper.margins.decisions import Brittleness
from temper.margins.intervals import Estimate
from temper.threat import NORMS, Norm, Threat, check_norm


@dataclass(frozen=True)
class EpochRow:
    """One epoch of training; ``validation_accuracy`` and ``robust_validation_accuracy`` are None where not measured."""

    epoch: float
    eps: float
    train_loss: float
    train_accuracy: float
    validation_accuracy: float | None
    lr: float
    robust_validation_accuracy: float | None = None


@dataclass(frozen=True)
class SampleView:
    """One image beside its nearest found adversarial image.

    Attributes:
        image: uint8 [H, W, C], C = 1 or 3.
        adversarial: float [H, W, C] in [0, 1].
        label: name of the true class.
        prediction: name of the class predicted for ``image``.
        adversarial_prediction: name of the class predicted for ``adversarial``.
        distance: between the two, in ``norm``.
        norm: "Linf", "L2" or "L1".

    Raises:
        ArgumentError: when the two images are not of one shape [H, W, C].
    """

    image: NDArray[np.uint8]
    adversarial: NDArray[np.floating]
    label: str
    prediction: str
    adversarial_prediction: str
    distance: float
    norm: str

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] not in (1, 3) or self.image.dtype != np.uint8:
            got = (*self.image.shape, str(self.image.dtype))
            raise ArgumentError("image", got, "must be uint8 [H, W, C] with C = 1 or 3")
        if self.adversarial.shape != self.image.shape:
            raise ArgumentError(
                "adversarial", self.adversarial.shape, f"must have the image's shape {self.image.shape}"
            )


Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # x and y, shares, float64 [T] each


@dataclass(frozen=True)
class ScoreCurves:
    """How well each score tells brittle decisions from robust ones.

    Attributes:
        taus: score to its rank correlation with the margin.
        roc, risk, flag_rates: score to the curve of :mod:`temper.report.brittleness_figures`.
    """

    taus: Mapping[str, Estimate]
    roc: Mapping[str, Curve]
    risk: Mapping[str, Curve]
    flag_rates: Mapping[str, Curve]


@dataclass(frozen=True)
class DetectorView:
    """A detector on the logit margin.

    Attributes:
        threshold: logit margins up to here are flagged; None without a detector.
        terms: what it promises and how it did, name to words.
        attacks: score to what attacks on a detector achieve, name to words.
    """

    threshold: float | None
    terms: Mapping[str, str]
    attacks: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class BrittlenessView:
    """How well scores tell a run's brittle decisions; a part that is left empty is left out of the report.

    Attributes:
        threat: that decisions are brittle or robust at.
        decisions: their margins and logit margins, and which are brittle.
        scores: how well scores tell them apart.
        detector: what flags them.
        equidistance: distances between the head's weights of all pairs of classes; None without a linear head.
        ends: the most and the least brittle samples, nearest flip first.
    """

    threat: Threat
    decisions: Brittleness
    scores: ScoreCurves
    detector: DetectorView
    equidistance: NDArray[np.float64] | None
    ends: Sequence[SampleView] = ()


@dataclass(frozen=True)
class AccuracyCurve:
    """Robust accuracy by epsilon (0: clean accuracy), in one norm.

    Attributes:
        points: at the epsilons searched.
        between: at more of them, for the intervals between those points.
    """

    points: Mapping[float, Estimate]
    between: Mapping[float, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """A training.

    Attributes:
        epochs: epoch by epoch.
        norm: of its epsilons; those of Linf are shown in n/255.
        delay: how long it took to adapt to its task, in words; "" where that is not known.
        severity: clean accuracy lost against standard fine-tuning, a share; None without a run to compare with.
        warnings: what was warned of while it went on.
        kept: the epoch whose weights are the model's; None where that is not known.
        passes: what it took, in words; "" where that is not known.
    """

    epochs: Sequence[EpochRow] = ()
    norm: Norm = "Linf"
    delay: str = ""
    severity: Estimate | None = None
    warnings: Sequence[str] = ()
    kept: float | None = None
    passes: str = ""


@dataclass(frozen=True)
class RunView:
    """One run as the report shows it; a part that is left empty is left out of the report.

    Attributes:
        name: for people; distinct within a report.
        facts: what was run (model, data, objective, schedule, seed, versions ...), in order of display.
        table: column name ("clean accuracy", "robust accuracy at Linf 8/255", ...) to its value.
        curves: norm to the accuracy curve in that norm.
        training: how it was trained.
        samples: images with their nearest found adversarial images.
        brittleness: of its decisions; None where it was not measured.

    Raises:
        ArgumentError: a share lies outside [0, 1].
    """

    name: str
    facts: Mapping[str, str] = field(default_factory=dict)
    table: Mapping[str, Estimate] = field(default_factory=dict)
    curves: Mapping[str, AccuracyCurve] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    samples: Sequence[SampleView] = ()
    brittleness: BrittlenessView | None = None

    def __post_init__(self) -> None:
        curves = [part for curve in self.curves.values() for part in (curve.points, curve.between)]
        for estimate in [*self.table.values(), *(each for curve in curves for each in curve.values())]:
            for name in ("value", "low", "high", "unknown"):
                share = getattr(estimate, name)
                # The likely slip is a percentage; NaN is refused too. Rounding may put a bound a hair outside.
                if not -1e-9 <= share <= 1.0 + 1e-9:
                    raise ArgumentError(name, share, "must be a share in [0, 1], not a percentage")


def format_distance(distance: float, norm: str) -> str:
    """Distance or epsilon in words: "2.31/255" in Linf (the field's unit there), "0.5" elsewhere."""
    unit = NORMS[check_norm(norm)].unit
    number = f"{distance * unit:.{3 if unit == 1 else 2}f}".rstrip("0").rstrip(".")
    return number if unit == 1 else f"{number}/{unit}"
