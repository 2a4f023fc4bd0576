"""A benchmark as a file: factors whose product is the grid, and what its runs have in common.

Every cell of the grid becomes one fully resolved :class:`FinetuneConfig` and a hash of it, which is the run's name
everywhere: the same configuration is the same run, whoever starts it and wherever.
"""

import fnmatch
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import not_
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from temper.attacks.names import check_suite
from temper.benchmark.configuration import FactorValues
from temper.benchmark.presets import PRESETS, Settings, preset_exceptions
from temper.core.calls import LARGEST, Count, Seed
from temper.core.refusals import StrictNumbers, refusal
from temper.errors import ArgumentError
from temper.text import did_you_mean, nearest
from temper.threat import Threat, parse_threats
from temper.training.yaml_files import read_yaml

NEAREST = "margin"  # the suite that searches the margins that tau is taken of
# A factor decides these keys of a run's configuration; everywhere else they would contradict it.
_DECIDED = {
    "model": ("name",),
    "data": ("train",),
    "objective": ("name",),
    "schedule": ("name",),
    "protocol": ("name",),
    "seed": (),
    "out": (),
    "evaluation": (),
}


class _Part(StrictNumbers, BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Measure(_Part):
    """What is measured of every run, on its test data."""

    threats: dict[str, str] = {"linf": "Linf:4/255", "l2": "L2:2", "l1": "L1:75"}
    """Name of the metric and threat: robust accuracy there."""
    suite: str = "fast"
    """Attack suite of the robust accuracies and of the curve."""
    suites: dict[str, str] = Field({}, exclude_if=not_)  # names of runs without any are what they were before
    """Metric and attack suite, for robust accuracies that are measured with another one."""
    points: int = Field(8, ge=1, le=1000)
    """Radii of the Linf curve up to the threat's eps, for expected robustness."""
    corruptions: bool = True
    """Accuracy under common corruptions (metric common): one of 11 per image, severity 3, as in arXiv:2508.14079."""
    tau: int = Field(256, ge=0, le=LARGEST)
    """Samples whose margins are searched for margin consistency (metric tau); 0: not measured."""
    limit: Count | None = None
    """Measure at most so many test samples, stratified by class."""
    batch_size: Count | None = None
    """Samples attacked at once; it does not change the result."""

    @field_validator("threats")
    @classmethod
    def _readable(cls, threats: dict[str, str]) -> dict[str, str]:
        for name, threat in threats.items():
            if len(parse_threats(threat)) != 1:
                raise ValueError(f"{name}: {threat!r} must be one threat, as in Linf:4/255")
        return threats

    @field_validator("suite")
    @classmethod
    def _known(cls, suite: str) -> str:
        return check_suite(suite)

    @model_validator(mode="after")
    def _suites_fit(self) -> Self:
        for name, suite in self.suites.items():
            if name not in self.threats:
                raise ValueError(f"suites: {name!r} is none of the threats' names: {', '.join(self.threats)}")
            check_suite(suite)
        if self.tau and NEAREST in self.searched:
            raise ValueError(
                f"tau: is taken of the suite {NEAREST} on {self.tau} samples; set tau: 0 to search"
                " threats with that suite, or choose another"
            )
        return self

    @cached_property
    def parsed(self) -> dict[str, Threat]:
        """The threats by metric."""
        return {name: parse_threats(threat)[0] for name, threat in self.threats.items()}

    @cached_property
    def curve(self) -> Threat | None:
        """The end of the curve that expected robustness is taken of: the first threat in Linf."""
        return next((threat for threat in self.parsed.values() if threat.norm == "Linf"), None)

    @property
    def evidence(self) -> list[str]:
        """The suites whose evidence a run leaves."""
        return [*self.searched, *([NEAREST] if self.tau else [])]

    @cached_property
    def searched(self) -> dict[str, list[Threat]]:
        """The radii of the curve and every threat, by the suite that searches them; that of the curve first."""
        end, points = self.curve, self.points
        radii = [Threat(end.norm, end.eps * (k + 1) / points) for k in range(points)] if end else []
        by_suite = {self.suite: radii}
        for name, threat in self.parsed.items():
            by_suite.setdefault(self.suite_of(name), []).append(threat)
        return {suite: list(dict.fromkeys(threats)) for suite, threats in by_suite.items()}

    def suite_of(self, metric: str) -> str:
        """The suite that a metric's threat is searched with."""
        return self.suites.get(metric, self.suite)


class Exceptional(_Part):
    """Cells that differ: settings of their own, or left out."""

    where: dict[Literal["backbone", "dataset", "objective", "schedule", "protocol", "seed"], object]
    """Factor and value, or list of values; names may hold * and ?."""
    finetune: Settings = {}
    """Settings that these cells have instead."""
    skip: bool = False
    """Leave these cells out of the grid."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.skip == bool(self.finetune):
            raise ValueError("an exception needs either finetune settings or skip: true")
        return self

    def matches(self, factors: FactorValues) -> bool:
        """Whether a cell of these factors is meant."""
        return all(_matches(factors[name], wanted) for name, wanted in self.where.items())


class Search(_Part):
    """Hyper-parameters are searched on validation data, once per backbone, data set, objective and protocol."""

    trials: Count = 20
    """Configurations tried, the stopped ones included; never fewer, never more."""
    seed: Seed = 0
    """Seed of what is tried."""
    reduction: int = Field(2, ge=2, le=LARGEST)
    """ASHA: one in so many trials goes on to the next rung."""
    robust_weight: float = Field(0.5, ge=0, le=1)
    """Share of robust accuracy, beside clean accuracy, in what is maximised on the validation data."""


class Spec(_Part):
    """A benchmark: the product of its factors is the grid of runs."""

    name: str = "benchmark"
    """Heading of the leaderboard."""
    preset: Literal["temper", "guide", "guide-exact"] = "temper"
    """Where everything that is not given here comes from."""
    backbones: dict[str, Settings]
    """Names of the catalogue or MODELs; or a name, and the settings of its model (name, weights, image_size ...) and
    facts (type, tier, pretraining)."""
    datasets: dict[str, Settings]
    """Names of the catalogue or DATA; or a name, and the settings of its data (train, test, classes ...)."""
    objectives: list[str]
    schedules: dict[str, Settings]
    """Names of schedules; or a name, and the settings of the schedule."""
    protocols: dict[str, Settings]
    """A name, and the settings it stands for: protocol, epochs and others."""
    seeds: list[Seed]
    finetune: Settings = {}
    """Settings of all runs, as in temper finetune."""
    measure: Measure = Measure()
    exceptions: list[Exceptional] = []
    """Cells that differ."""
    hyperparameters: Path | Search | None = None
    """Learning rates and weight decays: those in finetune, or of a table (CSV with columns backbone, dataset,
    objective, protocol and the settings of the optimiser), or searched."""
    keep_weights: bool = True
    """Keep the trained weights of every run, so that it can be measured anew without training."""

    @field_validator("backbones", "datasets", "schedules", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if isinstance(value, Sequence) and not isinstance(value, str):
            _check_distinct(value)
            return {str(name): {} for name in value}
        if isinstance(value, Mapping):
            return {str(name): settings or {} for name, settings in value.items()}
        raise ValueError("give a list of names, or names with their settings")

    @field_validator("objectives", "seeds")
    @classmethod
    def _distinct(cls, value: list[object]) -> list[object]:
        _check_distinct(value)
        return value

    @field_validator("finetune")
    @classmethod
    def _contradicts_no_factor(cls, settings: Settings) -> Settings:
        _check_undecided(settings, "finetune")
        return settings

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        for factor in ("backbones", "datasets", "objectives", "schedules", "protocols", "seeds"):
            if not getattr(self, factor):
                raise ArgumentError(factor, getattr(self, factor), "is empty: the grid would hold no run")
        for exception in self.exceptions:
            _check_undecided(exception.finetune, "exceptions.finetune")
        return self


def read_spec(source: str | Path | Mapping[str, object]) -> Spec:
    """A benchmark from a YAML file or a mapping; what it leaves out is its preset's.

    Raises:
        ArgumentError: no such file, not YAML, an unknown key (the nearest is named) or a value that cannot work.
    """
    given = dict(source) if isinstance(source, Mapping) else dict(read_yaml(Path(source), "SPEC"))
    preset = given.get("preset", "temper")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ArgumentError("preset", preset, _nearest(str(preset), PRESETS))
    base = PRESETS[preset]
    merged = base | given
    for key in ("finetune", "measure"):
        merged[key] = _over(base.get(key, {}), given.get(key))
    measure, own = merged["measure"], given.get("measure")
    if isinstance(measure, dict) and isinstance(own, Mapping) and "threats" in own:
        measure["threats"] = own["threats"]  # a list with names: those given are meant, and no others
    exceptions = given.get("exceptions") or []
    merged["exceptions"] = (
        [*preset_exceptions(preset), *exceptions] if isinstance(exceptions, list | tuple) else exceptions
    )
    try:
        spec = Spec.model_validate(merged)
    except ValidationError as error:
        raise _spec_error(error) from None
    if isinstance(spec.hyperparameters, Path) and not isinstance(source, Mapping):
        table = Path(source).parent / spec.hyperparameters
        spec = spec.model_copy(update={"hyperparameters": table})
    return spec


def merge(base: Mapping[str, object], over: Mapping[str, object]) -> Settings:
    """Two nested mappings as one; where both say something, ``over`` holds."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _over(base: object, given: object) -> object:
    """A section of the preset with what is given in it; what is no section is left for the schema to refuse."""
    return merge(base, given) if isinstance(base, Mapping) and isinstance(given, Mapping) else given or base


def _matches(value: object, wanted: object) -> bool:
    options = wanted if isinstance(wanted, list) else [wanted]
    return any(fnmatch.fnmatchcase(str(value), str(option)) for option in options)


def _check_distinct(values: Sequence[object]) -> None:
    for value in values:
        if list(values).count(value) > 1:
            raise ValueError(f"{value!r} is there twice; name it once")


def _check_undecided(settings: Mapping[str, object], where: str) -> None:
    for section, keys in _DECIDED.items():
        if section not in settings:
            continue
        given = settings[section]
        for key in keys or ("",):
            if not key or (isinstance(given, Mapping) and key in given):
                name = f"{section}.{key}".rstrip(".")
                raise ValueError(f"{where} sets {name}, which the grid decides; leave it out there")


def _nearest(name: str, known: Mapping[str, object] | Sequence[str]) -> str:
    return did_you_mean(nearest(name, known, 3), f"choose one of {', '.join(known)}")


def _spec_error(error: ValidationError) -> ArgumentError:
    """The first thing that pydantic found wrong in a SPEC, in one line."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"]) or "SPEC"
    if first["type"] == "extra_forbidden":
        sections: dict[str, type[_Part]] = {"measure": Measure, "exceptions": Exceptional}
        kind = sections.get(str(first["loc"][0]), Spec)
        return ArgumentError("SPEC", key, f"is no key; {_nearest(str(first['loc'][-1]), list(kind.model_fields))}")
    if first["type"] == "missing":
        names = "give factors and values" if first["loc"][-1] == "where" else "give a list of names"
        return ArgumentError("SPEC", key, f"is missing; {names}")
    refused = refusal(error)
    return ArgumentError(f"SPEC: {refused.argument}", refused.value, refused.fix)
