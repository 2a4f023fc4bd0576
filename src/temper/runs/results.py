"""What the measuring commands come to; the JSON that they write and print is made from this alone."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from temper.corruptions.baseline import MeanCorruptionError
from temper.detection.defence import Defence
from temper.evaluation.measurement import Evaluation
from temper.margins import Estimate
from temper.margins.consistency import MarginConsistency
from temper.margins.detection import DetectionQuality, SweepPoint
from temper.margins.detector import Detection
from temper.margins.subset import SubsetEstimate
from temper.threat import Norm, Threat

Fingerprints = Mapping[str, str]


@dataclass(frozen=True)
class Subject:
    """What was measured.

    Attributes:
        model: as the command named it.
        weights: fingerprints of the model and its preprocessing.
        data: the data set's name.
        samples: how many of it.
        fingerprint: theirs.
    """

    model: str
    weights: Fingerprints
    data: str
    samples: int
    fingerprint: str

    def to_json(self) -> dict[str, object]:
        """Under the names that other programs know."""
        return {
            "model": {"spec": self.model, **self.weights},
            "data": {"name": self.data, "n": self.samples, "fingerprint": self.fingerprint},
        }


@dataclass(frozen=True)
class SearchCost:
    """What a search for evidence cost, and where the evidence is.

    Attributes:
        forward, backward: passes, of all evidence in the table.
        precision: in which it was searched, see :class:`temper.margins.table.Provenance`.
        seconds: of this call.
        table: the evidence.
    """

    forward: int
    backward: int
    precision: list[str]
    seconds: float
    table: Path

    @classmethod
    def of(cls, done: Evaluation, table: Path) -> "SearchCost":
        """That of an evaluation whose evidence lies at ``table``."""
        passes = done.table.passes()
        return cls(passes["forward"], passes["backward"], done.table.provenance.precision, done.seconds, table)

    def to_json(self) -> dict[str, object]:
        """Under the names that other programs know."""
        return {
            "passes": {"forward": self.forward, "backward": self.backward},
            "precision": self.precision,
            "seconds": self.seconds,
            "table": str(self.table),
        }


@dataclass(frozen=True)
class Robustness:
    """What is known at one threat.

    Attributes:
        threat: norm and radius.
        accuracy: robust accuracy at the radius.
        expected: expected robustness up to it; ``trapezoid`` from the radii asked for alone.
        subset: where a precision was asked for, from how few attacks ``accuracy`` is.
    """

    threat: Threat
    accuracy: Estimate
    expected: Estimate
    trapezoid: Estimate
    subset: SubsetEstimate | None = None

    def to_json(self) -> dict[str, object]:
        """Under the names that other programs know."""
        values: dict[str, object] = {
            "norm": self.threat.norm,
            "eps": self.threat.eps,
            "robust_accuracy": self.accuracy.to_json(),
            "expected_robustness": self.expected.to_json(),
            "expected_robustness_trapezoid": self.trapezoid.to_json(),
        }
        if self.subset:
            values["subset"] = {
                "attacked": self.subset.attacked,
                "correct": self.subset.correct,
                "distribution": self.subset.distribution.to_json(),
            }
        return values


@dataclass(frozen=True)
class EvaluationResult:
    """What ``temper evaluate`` comes to.

    Attributes:
        subject, clean_accuracy, threats, search: what was measured, what is known, and what it cost.
        complete: whether every sample was searched at every radius.
        adversarial: by norm, the file of adversarial images; empty where none were asked for.
        eot: passes for an answer of a random model that was measured in expectation.
    """

    subject: Subject
    clean_accuracy: Estimate
    threats: tuple[Robustness, ...]
    search: SearchCost
    complete: bool
    adversarial: Mapping[Norm, Path]
    eot: int | None = None

    def to_json(self) -> dict[str, object]:
        """The object of ``temper evaluate --json``."""
        values = {
            **self.subject.to_json(),
            "clean_accuracy": self.clean_accuracy.to_json(),
            "threats": [each.to_json() for each in self.threats],
            **({"eot": self.eot} if self.eot else {}),
            **self.search.to_json(),
        }
        if self.adversarial:
            values["adversarial"] = {norm: str(path) for norm, path in self.adversarial.items()}
        return values


@dataclass(frozen=True)
class CorruptionAccuracy:
    """Accuracy under one corruption, by the severities that were measured; the mean only where all of them were."""

    severities: Mapping[int, Estimate]
    mean: Estimate | None

    def to_json(self) -> dict[str, object]:
        """Under the names that other programs know."""
        return {
            "severities": {str(severity): each.to_json() for severity, each in self.severities.items()},
            "mean_accuracy": self.mean and self.mean.to_json(),
        }


@dataclass(frozen=True)
class CorruptionSummary:
    """What a table of corruptions says.

    Attributes:
        preset, rule, seed: of the plan.
        clean: accuracy on the clean images; None where nothing was measured.
        mean: over the whole plan; None where something of it is missing.
        error: mean corruption error, where a baseline was named and all was measured.
        corruptions: each of them.
    """

    preset: str
    rule: str
    seed: int
    clean: Estimate | None
    mean: Estimate | None
    error: MeanCorruptionError | None
    corruptions: Mapping[str, CorruptionAccuracy]


@dataclass(frozen=True)
class CorruptionsResult:
    """What ``temper corruptions`` comes to.

    Attributes:
        subject: what was measured.
        summary: the numbers.
        stand_ins: corruptions that are drawn by Temper in place of pictures that it does not ship.
        seconds: of this call.
        table: the predictions.
        figure: None where something is not measured yet.
        complete: whether all is.
    """

    subject: Subject
    summary: CorruptionSummary
    stand_ins: list[str]
    seconds: float
    table: Path
    figure: Path | None
    complete: bool

    def to_json(self) -> dict[str, object]:
        """The object of ``temper corruptions --json``."""
        own = self.summary
        return {
            **self.subject.to_json(),
            "preset": own.preset,
            "rule": own.rule,
            "seed": own.seed,
            "clean_accuracy": own.clean and own.clean.to_json(),
            "mean_accuracy": own.mean and own.mean.to_json(),
            "mce": own.error and own.error.to_json(),
            "corruptions": {name: each.to_json() for name, each in own.corruptions.items()},
            "stand_ins": self.stand_ins,
            "complete": self.complete,
            "seconds": self.seconds,
            "table": str(self.table),
            "figure": self.figure and str(self.figure),
        }


@dataclass(frozen=True)
class Refused:
    """Something that cannot be had, and why not."""

    reason: str

    def to_json(self) -> dict[str, object]:
        """Under the name that other programs know."""
        return {"refused": self.reason}


@dataclass(frozen=True)
class FittedDetector:
    """A detector, fitted on half of the samples and judged on the other half.

    Attributes:
        threshold, alpha, brittle: of the detector, see :class:`temper.margins.detector.BrittlenessDetector`.
        flag_rate: share of the decisions that it was fitted on that it flags.
        missed_at_most: share of brittle decisions that pass, with 95 % confidence in the choice of the threshold.
        held_out: how it does on the other half.
        file: where it lies.
    """

    threshold: float
    alpha: float
    brittle: int
    flag_rate: Estimate
    missed_at_most: float
    held_out: Detection
    file: Path

    def to_json(self) -> dict[str, object]:
        """Under its attributes' names."""
        return asdict(self) | {"file": str(self.file)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "FittedDetector":
        """What :meth:`to_json` gave."""
        own = estimates(values) | {"held_out": Detection(**estimates(values["held_out"])), "file": Path(values["file"])}
        return cls(**own)


def estimates(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values read from JSON, with estimates in place of their five numbers."""
    numbers = {field.name for field in fields(Estimate)}
    return {
        name: Estimate(**value) if isinstance(value, Mapping) and set(value) == numbers else value
        for name, value in values.items()
    }


@dataclass(frozen=True)
class Decisions:
    """How many decisions are what at the radius: margins known and unknown, brittle and robust ones."""

    known: int
    unknown: int
    brittle: int
    robust: int


@dataclass(frozen=True)
class BrittlenessResult:
    """What follows from known margins.

    Attributes:
        decisions: how many are what.
        consistency: by score, how well it ranks decisions as their margins do.
        detection: by score, how well it tells brittle decisions from robust ones, or why that is not defined.
        sweep: the same of the logit margin at other radii.
        detector: on the logit margin.
        adaptive: by score, what those who know a detector on it achieve; None where that was not asked for.
    """

    decisions: Decisions
    consistency: Mapping[str, MarginConsistency]
    detection: Mapping[str, DetectionQuality | str]
    sweep: Sequence[SweepPoint]
    detector: FittedDetector | Refused
    adaptive: Mapping[str, Defence] | Refused | None

    def to_json(self) -> dict[str, object]:
        """Under the names that other programs know."""
        values: dict[str, object] = {
            "margins": asdict(self.decisions),
            "consistency": {score: each.to_json() for score, each in self.consistency.items()},
            "detection": {
                score: {"reason": each} if isinstance(each, str) else each.to_json()
                for score, each in self.detection.items()
            },
            "sweep": [
                {"eps": point.eps, **(point.quality.to_json() if point.quality else {"reason": point.reason})}
                for point in self.sweep
            ],
            "detector": self.detector.to_json(),
        }
        if isinstance(self.adaptive, Refused):
            values["adaptive"] = self.adaptive.to_json()
        elif self.adaptive is not None:
            values["adaptive"] = {score: each.to_json() for score, each in self.adaptive.items()}
        return values


@dataclass(frozen=True)
class MarginsResult:
    """What ``temper margins`` comes to; without ``brittleness`` where the search was stopped."""

    subject: Subject
    threat: Threat
    search: SearchCost
    brittleness: BrittlenessResult | None = None

    @property
    def complete(self) -> bool:
        """Whether every sample was searched."""
        return self.brittleness is not None

    def to_json(self) -> dict[str, object]:
        """The object of ``temper margins --json``."""
        return {
            **self.subject.to_json(),
            "threat": {"norm": self.threat.norm, "eps": self.threat.eps},
            **self.search.to_json(),
            **(self.brittleness.to_json() if self.brittleness else {}),
        }
