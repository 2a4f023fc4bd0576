"""Mean corruption error: how wrong a model is under corruptions, compared with a baseline that is named."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from temper.core.files import JsonObject
from temper.corruptions.table import Condition, CorruptionTable
from temper.errors import ArgumentError, EvidenceError
from temper.margins import intervals
from temper.margins.intervals import Estimate

TABLE = "corruptions.parquet"


@dataclass(frozen=True)
class Baseline:
    """Error rates in [0, 1] that a model's are divided by.

    Attributes:
        name: whose they are.
        errors: corruption to severity to error rate.
        measured: identity of the table they come from; None where they are published numbers.
    """

    name: str
    errors: dict[str, dict[int, float]]
    measured: JsonObject | None = None


@dataclass(frozen=True)
class MeanCorruptionError:
    """The mean over corruptions of (sum of the model's errors over severities / sum of the baseline's).

    Attributes:
        value: 1 is as wrong as the baseline, less is better; its 95 % interval is over the samples, each with all
            its corruptions and severities, and takes the baseline as exact. May exceed 1.
        by_corruption: the same for each.
        baseline: the baseline's name.
    """

    value: Estimate
    by_corruption: dict[str, float]
    baseline: str

    def to_json(self) -> dict[str, object]:
        """Under its attributes' names."""
        return asdict(self)


def _published(*errors: float) -> dict[int, float]:
    return dict(enumerate(errors, start=1))


#: AlexNet's top-1 errors on ImageNet-C, severities 1 to 5, by which published mCEs are divided (Hendrycks and
#: Dietterich 2019; per severity as in timm's record of them, whose means are those in the authors' README).
ALEXNET = Baseline(
    "AlexNet (published)",
    {
        "gaussian_noise": _published(0.69528, 0.82542, 0.93554, 0.98138, 0.99452),
        "shot_noise": _published(0.71224, 0.85108, 0.93574, 0.98182, 0.99146),
        "impulse_noise": _published(0.78374, 0.89808, 0.94870, 0.98720, 0.99548),
        "defocus_blur": _published(0.65624, 0.73202, 0.85036, 0.91364, 0.94714),
        "glass_blur": _published(0.64308, 0.75054, 0.88806, 0.91622, 0.93344),
        "motion_blur": _published(0.58430, 0.70048, 0.82108, 0.89750, 0.92638),
        "zoom_blur": _published(0.70008, 0.76992, 0.80784, 0.84198, 0.87198),
        "snow": _published(0.71726, 0.88392, 0.86468, 0.91870, 0.94952),
        "frost": _published(0.61390, 0.79734, 0.88790, 0.89942, 0.93430),
        "fog": _published(0.67474, 0.76050, 0.84378, 0.87260, 0.94500),
        "brightness": _published(0.45140, 0.48502, 0.54048, 0.62166, 0.72440),
        "contrast": _published(0.64548, 0.76150, 0.88874, 0.97760, 0.99270),
        "elastic_transform": _published(0.52596, 0.70116, 0.55686, 0.64076, 0.80554),
        "pixelate": _published(0.52218, 0.54620, 0.73728, 0.87092, 0.91262),
        "jpeg_compression": _published(0.51002, 0.54718, 0.57294, 0.65458, 0.74778),
    },
)


def mce(table: CorruptionTable, baseline: Baseline, cells: Sequence[Condition]) -> MeanCorruptionError:
    """Mean corruption error over ``cells``, which may be some of the corruptions and severities.

    Raises:
        ArgumentError: the baseline lacks one of them, makes no error there, or was measured on other data.
        EvidenceError: the table lacks one of them.
    """
    _check_same_data(table, baseline)
    names = list(dict.fromkeys(name for name, _ in cells))
    wrong = table.wrong(cells)
    samples, bound = np.zeros(len(wrong)), 0.0
    by_corruption = {}
    for name in names:
        severities = [severity for other, severity in cells if other == name]
        total = _sum_of_errors(baseline, name, severities)
        error = wrong[name].to_numpy().sum(axis=1) / total
        by_corruption[name] = float(error.mean())
        samples += error / len(names)
        bound += len(severities) / total / len(names)  # of a sample that is wrong everywhere
    return MeanCorruptionError(intervals.mean(samples, samples, bound), by_corruption, baseline.name)


def _sum_of_errors(baseline: Baseline, name: str, severities: Sequence[int]) -> float:
    lacking = [severity for severity in severities if severity not in baseline.errors.get(name, {})]
    if lacking:
        fix = f"has no error rate of {name} at severity {lacking[0]}: measure it too, or leave that out"
        raise ArgumentError("baseline", baseline.name, fix)
    total = sum(baseline.errors[name][severity] for severity in severities)
    if total <= 0:
        raise ArgumentError("baseline", baseline.name, f"makes no error under {name}: nothing can be divided by that")
    return total


def _check_same_data(table: CorruptionTable, baseline: Baseline) -> None:
    for part in ("data", "preset", "rule"):
        if baseline.measured and baseline.measured.get(part) != table.identity.get(part):
            fix = f"was measured with another {part}: measure it on the same samples in the same way"
            raise ArgumentError("baseline", baseline.name, fix)


def read_baseline(spec: str) -> Baseline:
    """``alexnet``; a folder or table of ``temper corruptions``; or a JSON file.

    The JSON is ``{"name": "...", "errors": {"fog": {"1": 0.21, ...}, ...}}`` with error rates in [0, 1].

    Raises:
        ArgumentError: it is none of these.
    """
    if spec.lower() == "alexnet":
        return ALEXNET
    path = Path(spec)
    if path.suffix == ".json":
        return _from_json(path)
    file = path / TABLE if path.is_dir() else path
    if not file.exists():
        fix = f"no such file; give alexnet, a folder with a {TABLE}, or a .json file with name and errors"
        raise ArgumentError("baseline", spec, fix)
    try:
        table = CorruptionTable.load(file)
    except EvidenceError as error:
        raise ArgumentError("baseline", spec, str(error)) from None
    errors: dict[str, dict[int, float]] = {}
    for name, severity in table.cells():
        errors.setdefault(name, {})[severity] = 1 - table.accuracy(name, severity).value
    return Baseline(str(path), errors, table.identity)


def _from_json(path: Path) -> Baseline:
    try:
        content = json.loads(path.read_text())
        errors = {
            str(name): {int(severity): float(error) for severity, error in by_severity.items()}
            for name, by_severity in content["errors"].items()
        }
        name = str(content["name"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fix = f'cannot be read ({error}); write {{"name": "...", "errors": {{"fog": {{"1": 0.21}}}}}}'
        raise ArgumentError("baseline", str(path), fix) from None
    if any(not 0 <= error <= 1 for by_severity in errors.values() for error in by_severity.values()):
        raise ArgumentError("baseline", str(path), "its errors must be shares from 0 to 1")
    return Baseline(name, errors)
