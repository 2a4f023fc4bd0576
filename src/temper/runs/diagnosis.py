"""What ``temper diagnose`` comes to, and how it is said."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from temper.margins import Estimate
from temper.margins.comparison import Changes
from temper.threat import Threat, format_eps
from temper.training.diagnosis import Hinges, Verdict
from temper.training.transfer import Delay

STANDARD, HALF, FIXED, SCHEDULED = "standard", "fixed-half", "fixed", "scheduled"  # the folders of the runs


@dataclass(frozen=True)
class Scale:
    """How large the short runs are.

    Attributes:
        train, validation, test: images.
        classes: of the data.
        epochs, pixels: of each run; ``pixels`` None where images have the size that the model gives them.
        steps: of the inner attack (PGD).
    """

    train: int
    validation: int
    test: int
    classes: int
    epochs: int
    pixels: int | None
    steps: int


@dataclass(frozen=True)
class ShortRun:
    """One of the runs.

    Attributes:
        folder: where it is kept.
        delay: of it.
        clean, robust, expected: on the test images: accuracy, robust accuracy at the epsilon asked about, and the mean
            of it from 0 up to there.
        seconds: of its training.
    """

    folder: Path
    delay: Delay
    clean: Estimate
    robust: Estimate
    expected: Estimate
    seconds: float


@dataclass(frozen=True)
class Foretold:
    """What the short runs foretell.

    Attributes:
        verdict: see :func:`temper.training.diagnosis.verdict`.
        hinges: of the schedule; None where nothing can be told.
        passes: of the scheduled training of any length, as a share of those of fixed epsilon; None likewise.
    """

    verdict: Verdict
    hinges: Hinges | None = None
    passes: float | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What short runs say of fixed epsilon here, and of the schedule to take.

    Attributes:
        threat: asked about.
        scale: of the runs.
        runs: by name; without the scheduled one where there was nothing to schedule.
        lost: severity by run of fixed epsilon, paired over the test images.
        gained: what the schedule has beyond fixed epsilon, likewise; None without it.
        foretold: what follows.
    """

    threat: Threat
    scale: Scale
    runs: Mapping[str, ShortRun]
    lost: Mapping[str, Estimate]
    gained: Changes | None
    foretold: Foretold

    @property
    def seconds(self) -> float:
        """That the short trainings took together."""
        return sum(run.seconds for run in self.runs.values())

    @property
    def schedule(self) -> dict[str, object] | None:
        """The settings to train with, as a configuration's section; None where nothing can be told."""
        hinges = self.foretold.hinges
        if hinges is None or self.gained is None:
            return None
        if self.foretold.verdict == "holds" and self.gained.clean.low <= 0:
            return {"name": "fixed"}
        return {"name": "hinge", "start": hinges.start, "end": hinges.end}

    def to_json(self) -> dict[str, object]:
        """The object of ``temper diagnose --json``."""
        return {
            "norm": self.threat.norm,
            "eps": self.threat.eps,
            "scale": asdict(self.scale),
            "verdict": self.foretold.verdict,
            "severity": {name: each.to_json() for name, each in self.lost.items()},
            "schedule": self.schedule,
            "hinges": asdict(self.foretold.hinges) if self.foretold.hinges else None,
            "gain": asdict(self.gained) if self.gained else None,
            "cost": {"seconds": self.seconds, "passes": self.foretold.passes},
            "runs": {name: asdict(run) | {"folder": str(run.folder)} for name, run in self.runs.items()},
            "words": in_words(self),
        }


def in_words(found: Diagnosis) -> list[str]:
    """The answer for a person, a sentence or two a line."""
    lines = [_prediction(found)]
    if found.foretold.hinges and found.gained:
        lines += [_recommendation(found, found.foretold.hinges), _checked(found.threat, found.gained)]
    return [*lines, _rests_on(found)]


def _prediction(found: Diagnosis) -> str:
    eps = _radius(found.threat, 1)
    standard, fixed, lost = found.runs[STANDARD], found.runs[FIXED], found.lost[FIXED]
    if found.foretold.verdict == "untold":
        return (
            f"Nothing can be told: standard fine-tuning itself did not learn the task ({standard.delay}). Give it more"
            " --epochs, other learning rates or normalisation (--config), or more --images."
        )
    if found.foretold.verdict == "fails":
        how = f"Fixed epsilon fails here at {eps}: it did not adapt to the task ({fixed.delay}), and"
        how += f" its clean accuracy is {lost.in_points()} below that of standard fine-tuning."
    elif found.foretold.verdict == "suffers":
        how = f"Fixed epsilon transfers badly here at {eps}: its clean accuracy is {lost.in_points()} below that of"
        how += f" standard fine-tuning; it adapted in {fixed.delay}, standard fine-tuning in {standard.delay}."
    else:
        how = f"No sign that fixed epsilon fails here at {eps}: its clean accuracy is {lost.in_points()} below that of"
        how += f" standard fine-tuning, no more than chance may give; it adapted in {fixed.delay}."
    half = found.runs[HALF]
    delay = "it did not adapt" if half.delay.censored else f"it adapted in {half.delay}"
    return f"{how} At {_radius(found.threat, 2)} the loss is {found.lost[HALF].in_points()}; {delay}."


def _recommendation(found: Diagnosis, at: Hinges) -> str:
    if found.schedule == {"name": "fixed"}:
        return "Train with fixed epsilon (--schedule.name fixed): a schedule gained nothing that could be shown."
    epochs = found.scale.epochs
    moved = " (moved, so that the ramp and the whole epsilon have a quarter of the training each)" if at.bounded else ""
    share = found.foretold.passes
    passes = f" It takes {share:.0%} of the passes of fixed epsilon." if share else ""
    return (
        f"Train with --schedule.name hinge --schedule.start {at.start:g} --schedule.end {at.end:g}{moved}: standard"
        f" fine-tuning had 90 % of its accuracy after epoch {_epochs(at.settled)} of {epochs} (T1), the mean delay of"
        f" fixed epsilons from 0 on is {_epochs(at.delays)} epochs (T2).{passes}"
    )


def _checked(threat: Threat, gained: Changes) -> str:
    return (
        f"In the short run that schedule has, against fixed epsilon, clean accuracy {gained.clean.in_points('+')},"
        f" robust accuracy at {_radius(threat, 1)} {gained.robust.in_points('+')}, expected robustness"
        f" {gained.expected.in_points('+')}."
    )


def _rests_on(found: Diagnosis) -> str:
    scale = found.scale
    length = "1 epoch" if scale.epochs == 1 else f"{scale.epochs} epochs"
    pixels = f" at {scale.pixels} pixels" if scale.pixels else ""
    coarse = f", and T1 and T2 are known to one epoch in {scale.epochs}" if found.foretold.hinges else ""
    return (
        f"This rests on one run each of {length} (PGD with {scale.steps} steps) on {scale.train:,} images"
        f" of {scale.classes} classes{pixels}, {scale.validation:,} to validate and {scale.test:,} to test. Brackets"
        " are 95 % intervals over those images; what other seeds, more epochs, images or pixels change was not"
        f" measured{coarse}. Training took {found.seconds:.0f} s."
    )


def _radius(threat: Threat, parts: int) -> str:
    return f"{threat.norm} {format_eps(threat.norm, threat.eps / parts)}"


def _epochs(value: Estimate) -> str:
    doubt = f" [{value.low:.3g}, {value.high:.3g}]" if value.low != value.high else ""
    return f"{value.value:.3g}{doubt}"
