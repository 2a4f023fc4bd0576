"""From a SPEC to its grid of runs, each with its whole configuration."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
from pydantic import ValidationError

from temper.benchmark.configuration import FACTORS, Factors, FactorValues
from temper.benchmark.presets import Settings, preset_exceptions
from temper.benchmark.spec import Exceptional, Measure, Search, Spec, merge
from temper.errors import ArgumentError
from temper.text import listed
from temper.training.config import FinetuneConfig, completed, config_error

FACTS = ("type", "tier", "pretraining", "pretraining_data", "parameters")

Key = tuple[object, ...]
HyperparameterTable = Mapping[Key, Mapping[str, object]]

# What does not change the trained weights, and so not a run's name either.
_NOT_TRAINED = ("out", "evaluation", "checkpoint_seconds", "loggers", "accelerator", "threads")


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        factors: backbone, dataset, objective, schedule, protocol, seed.
        facts: of the backbone, as far as they are known.
        config: everything that training depends on, resolved.
        measure: what is measured of it.
        search: the search that its learning rates come from, if they are searched.
        keep_weights: whether the trained weights stay.
    """

    factors: FactorValues
    facts: Mapping[str, object]
    config: FinetuneConfig
    measure: Measure
    search: Search | None = None
    keep_weights: bool = True

    @cached_property
    def training(self) -> str:
        """Name of what is trained: a hash of the resolved configuration."""
        settings = self.config.model_dump(mode="json", exclude=set(_NOT_TRAINED))
        del settings["data"]["workers"]
        return _hash({"finetune": settings, "search": self.search and self.search.model_dump(mode="json")})

    @cached_property
    def run(self) -> str:
        """Name of the run: a hash of what is trained and what is measured."""
        return _hash({"training": self.training, "measure": self.measure.model_dump(exclude={"batch_size"})})

    @property
    def label(self) -> str:
        """How a person knows the run."""
        return _label(self.factors)

    @property
    def place(self) -> Factors:
        """Its place in the grid."""
        texts = {name: str(value) for name, value in self.factors.items() if name != "seed"}
        return Factors(**texts, seed=int(self.factors["seed"]))

    def with_threads(self, threads: int) -> "Cell":
        """The same run, computed on so many threads."""
        return replace(self, config=self.config.model_copy(update={"threads": threads}))

    def describe(self) -> Settings:
        """Factors and facts as columns of a result row."""
        return {"run": self.run, "training": self.training, **self.factors, **self.facts}


def cells(spec: Spec) -> list[Cell]:
    """Every run of the grid, in the order of the factors.

    Raises:
        ArgumentError: a cell's settings contradict each other, an exception applies to no cell, two exceptions set one
            key of one cell, or two cells are the same run.
    """
    of_table = _from_table(spec)
    if of_table is not _NO_TABLE:
        _check_rows(spec, of_table)
    used: set[int] = set()
    known: dict[Key, Cell] = {}
    kept = [_cell(spec, factors, of_table, used, known) for factors in _product(spec)]
    for index, exception in enumerate(spec.exceptions):
        own = index >= len(preset_exceptions(spec.preset))
        if own and index not in used:
            raise ArgumentError("exceptions.where", exception.where, "applies to no cell of the grid; mend or drop it")
    grid = [cell for cell in kept if cell is not None]
    seen: dict[str, Cell] = {}
    for cell in grid:
        other = seen.setdefault(cell.run, cell)
        if other is not cell:
            fix = f"is the same run as {other.label}; leave one out (exceptions: where ..., skip: true)"
            raise ArgumentError("cell", cell.label, fix)
    if not grid:
        raise ArgumentError("exceptions", "skip", "leaves no cell of the grid")
    return grid


def _product(spec: Spec) -> Iterator[FactorValues]:
    factors = (spec.backbones, spec.datasets, spec.objectives, spec.schedules, spec.protocols, spec.seeds)
    for values in itertools.product(*factors):
        yield dict(zip(FACTORS, values, strict=True))


def _cell(
    spec: Spec,
    factors: FactorValues,
    of_table: HyperparameterTable,
    used: set[int],
    known: dict[Key, Cell],
) -> Cell | None:
    """The run of these factors; None where it is left out. ``used`` collects the exceptions that applied, ``known``
    the runs that others differ from in their seed only: checking one of them checks them all."""
    applying = [(index, each) for index, each in enumerate(spec.exceptions) if each.matches(factors)]
    used.update(index for index, _ in applying)
    if any(each.skip for _, each in applying):
        return None
    key = (*(factors[name] for name in FACTORS if name != "seed"), *(index for index, _ in applying))
    if key not in known:
        known[key] = _checked(spec, factors, of_table, applying)
    cell = known[key]
    return replace(cell, factors=factors, config=cell.config.model_copy(update={"seed": factors["seed"]}))


def _checked(
    spec: Spec,
    factors: FactorValues,
    of_table: HyperparameterTable,
    applying: Sequence[tuple[int, Exceptional]],
) -> Cell:
    """The run of these factors, whose settings fit together."""
    label, of = _label(factors), {name: str(value) for name, value in factors.items()}
    backbone, facts = _backbone(of["backbone"], spec.backbones[of["backbone"]])
    dataset = {"train": of["dataset"]} | spec.datasets[of["dataset"]]
    schedule = {"name": of["schedule"]} | spec.schedules[of["schedule"]]
    settings = merge(spec.finetune, spec.protocols[of["protocol"]])
    own = {"objective": {"name": of["objective"]}, "schedule": schedule, "seed": factors["seed"]}
    settings = merge(settings, own | {"model": backbone, "data": dataset})
    if of_table is not _NO_TABLE:
        settings = merge(settings, {"optimiser": dict(of_table[_key(factors)])})
    settings = merge(settings, _exceptional(spec, applying, label))
    try:
        config = _resolved(FinetuneConfig.model_validate(settings))
    except ValidationError as error:
        raise ArgumentError("cell", label, f"cannot be trained: {config_error(error)}") from None
    search = spec.hyperparameters if isinstance(spec.hyperparameters, Search) else None
    return Cell(factors, facts, config, spec.measure, search, spec.keep_weights)


def _backbone(name: str, given: Mapping[str, object]) -> tuple[Settings, Settings]:
    """Settings of the model, and the facts on it, which the catalogue completes."""
    from temper.models.catalogue import named_in

    model = {"name": name} | {key: value for key, value in given.items() if key not in FACTS}
    known = named_in(str(model["name"]))
    return model, (known.facts() if known else {}) | {key: value for key, value in given.items() if key in FACTS}


def _exceptional(spec: Spec, applying: Sequence[tuple[int, Exceptional]], label: str) -> Settings:
    """The settings of all exceptions that apply; those of the file come after the preset's and may overrule them."""
    from_preset = len(preset_exceptions(spec.preset))
    merged: Settings = {}
    own: Settings = {}
    for index, exception in applying:
        if index >= from_preset:
            flat = _flat(exception.finetune)
            for key in own.keys() & flat.keys():
                if own[key] != flat[key]:
                    fix = f"two exceptions set {key}, to {own[key]!r} and to {flat[key]!r}; let one apply"
                    raise ArgumentError("cell", label, fix)
            own |= flat
        merged = merge(merged, exception.finetune)
    return merged


def _flat(settings: Mapping[str, object], before: str = "") -> Settings:
    flat: Settings = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return flat


_NO_TABLE: HyperparameterTable = {}

_TABLE_KEY = ("backbone", "dataset", "objective", "protocol")

NAMED = 3  # cells that an error names

_OPTIMISER = ("backbone_lr", "head_lr", "backbone_weight_decay", "head_weight_decay", "lr_schedule")


def _from_table(spec: Spec) -> HyperparameterTable:
    if not isinstance(spec.hyperparameters, Path):
        return _NO_TABLE
    frame = _read_table(spec.hyperparameters)
    rows = frame.to_dict("records")
    return {
        tuple(row[key] for key in _TABLE_KEY): {key: row[key] for key in _OPTIMISER if row.get(key) == row.get(key)}
        for row in rows
    }


def _read_table(path: Path) -> pd.DataFrame:
    """A table of hyper-parameters: one in a run's own words, or the published one of arXiv:2508.14079."""
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ArgumentError("hyperparameters", str(path), f"cannot be read as CSV ({error})") from None
    if "loss" in frame:
        from temper.benchmark.published import read_published_hyperparameters

        return read_published_hyperparameters(path)
    missing = [key for key in _TABLE_KEY if key not in frame]
    if missing:
        raise ArgumentError("hyperparameters", str(path), f"has no column {missing[0]}; give {', '.join(_TABLE_KEY)}")
    return frame


def _check_rows(spec: Spec, table: HyperparameterTable) -> None:
    """Every cell that is not left out has its row in the table of hyper-parameters."""
    lacking = [
        _label(factors)
        for factors in _product(spec)
        if _key(factors) not in table and not any(each.skip and each.matches(factors) for each in spec.exceptions)
    ]
    if lacking:
        named = listed(lacking, NAMED, "; ")
        fix = f"has no row for {len(lacking)} cells: {named}; add them, or leave them out (exceptions: skip: true)"
        raise ArgumentError("hyperparameters", str(spec.hyperparameters), fix)


def _key(factors: FactorValues) -> Key:
    return tuple(factors[key] for key in _TABLE_KEY)


def _label(factors: FactorValues) -> str:
    return " / ".join(str(factors[name]) for name in FACTORS)


def _resolved(config: FinetuneConfig) -> FinetuneConfig:
    """With every default filled in but the precision, which is the machine's affair unless it is given.

    One thread computes a run unless more are asked for: the same results on any number of workers.
    """
    return completed(config).model_copy(update={"threads": config.threads or 1})


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
