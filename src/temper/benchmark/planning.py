"""What a grid costs, before anything runs: passes from the configurations, hours from measured throughput."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import pandas as pd
import torch

from temper import models
from temper.attacks.crafting import crafting, foldable
from temper.benchmark.configuration import FACTORS
from temper.benchmark.costs import Cost, Sizes, cost
from temper.benchmark.grid import Cell
from temper.benchmark.search import search_name
from temper.benchmark.spec import Spec
from temper.benchmark.store import RUN_DONE, NoResultsError, Store
from temper.data import catalogue
from temper.errors import naming
from temper.models.model_text import parse_model
from temper.training.sections.images import DataConfig
from temper.training.splits import load_splits

MEASURED_BATCH, MEASURED_SECONDS, SMALL_SIZE = 32, 1.0, 32
SPENT = ("run", "status", "backbone", "passes", "seconds")  # columns that say what runs have cost


def sizes(config: DataConfig) -> Sizes:
    """Samples of the parts, without reading an image where the catalogue knows them.

    Raises:
        ArgumentError, DataError: the data are not there, or not whole.
    """
    known = catalogue.named_in(config.train)
    if known and config.classes is None:
        train, test, validation = (known.counts[part] for part in ("train", "test", "validation"))
    else:
        parts = load_splits(config, 0)
        train, test, validation = len(parts.train), len(parts.test), len(parts.validation)
    return Sizes(
        min(train, config.train_limit or train),
        min(test, config.test_limit or test),
        min(validation, config.validation_limit or validation),
    )


def past_throughput(rows: pd.DataFrame) -> dict[str, float]:
    """Passes per second by backbone, from runs that are done: their passes divided by the time they took."""
    if not {"backbone", "passes", "seconds", "status"} <= set(rows):
        return {}
    done = rows[rows["status"] == RUN_DONE].groupby("backbone")[["passes", "seconds"]].sum()
    return {str(name): float(row.passes / row.seconds) for name, row in done.iterrows() if row.seconds > 0}


def measure_throughput(cell: Cell) -> float:
    """Passes per second of a cell's backbone on this machine, now: forward and backward on a batch for a second, at
    random weights, with the parameters' gradients off as while crafting.

    Raises:
        ModelError: the backbone cannot be built.
    """
    config = cell.config.model
    weights = "none" if parse_model(config.name).weights_are_optional else config.weights
    classifier = models.load(
        config.name, num_classes=10, weights=weights,
        image_size=config.image_size, model_args=config.args or None,
    )  # fmt: skip
    device, size = "cuda" if torch.cuda.is_available() else "cpu", classifier.image_size or SMALL_SIZE
    classifier = classifier.to(device).to(memory_format=torch.channels_last)
    x = torch.rand(MEASURED_BATCH, classifier.channels, size, size, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    with crafting(classifier, foldable(classifier, x[:2])) as model:
        count, started = 0, time.monotonic()
        while time.monotonic() - started < MEASURED_SECONDS or count < 2:
            image = x.clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(model(image).sum(), image)
            gradient.sum().item()  # waits for a GPU
            count += 1
        seconds = time.monotonic() - started
    return 2 * MEASURED_BATCH * count / seconds


def plan(cells: Sequence[Cell]) -> pd.DataFrame:
    """A row per cell: run, factors, and passes of training and measuring.

    The trials of a search count where it is first needed.

    Raises:
        ArgumentError, DataError: a data set is not there.
    """
    known: dict[str, Sizes] = {}
    costs: dict[tuple[object, ...], Cost] = {}
    searches: set[str] = set()
    rows = []
    for cell in cells:
        data = cell.config.data.model_dump_json()
        if data not in known:
            with _named(str(cell.factors["dataset"])):
                known[data] = sizes(cell.config.data)
        # Backbone and seed change no count.
        key = (data, *(cell.factors[name] for name in ("objective", "schedule", "protocol")), cell.config.epochs)
        if key not in costs:
            costs[key] = cost(cell, known[data])
        spent, trials = costs[key], 1
        if cell.search and (name := search_name(cell)) not in searches:
            searches.add(name)
            trials += cell.search.trials
        training = trials * (spent.train_forward + spent.train_backward)
        measuring = spent.measure_forward + spent.measure_backward
        rows.append({"run": cell.run, **cell.factors, "training": training, "measuring": measuring})
    return pd.DataFrame(rows)


def check(cells: Sequence[Cell]) -> None:
    """Say what of a grid cannot be found, before anything runs: a backbone's name or weights file, a data set.

    Raises:
        ArgumentError, DataError, ModelError: the first thing that is not there.
    """
    _check_backbones(cells)
    for name, config in {str(cell.factors["dataset"]): cell.config.data for cell in cells}.items():
        with _named(name):
            load_splits(config, 0)


def _named(name: str) -> AbstractContextManager[None]:
    """Inside, what cannot work of a data set is named as it stands in a SPEC."""
    return naming({f"data.{key}": f"datasets.{name}.{key}" for key in DataConfig.model_fields})


def _check_backbones(cells: Sequence[Cell]) -> None:
    for name, weights in dict.fromkeys((cell.config.model.name, cell.config.model.weights) for cell in cells):
        models.check(name, weights)


def summarise(spec: Spec, cells: Sequence[Cell], place: str, *, measure: bool) -> dict[str, object]:
    """What ``temper bench plan --json`` prints: size, and passes and hours of what is not done yet, by backbone.

    Args:
        spec: of the grid.
        cells: the grid.
        place: of the store; it need not be there yet.
        measure: time the backbones of which no run is done.

    Raises:
        ArgumentError, DataError, ModelError: data, or with ``measure`` a backbone, cannot be loaded.
        RunError: the store is of another format.
    """
    rows = _rows(place)
    _check_backbones(cells)
    finished = set(rows.loc[rows["status"] == RUN_DONE, "run"])
    costs = plan([cell for cell in cells if cell.run not in finished] or list(cells))
    speeds = past_throughput(rows)
    first = {str(cell.factors["backbone"]): cell for cell in reversed(cells)}
    if measure:
        speeds |= {name: measure_throughput(first[name]) for name in first if name not in speeds}
    missing = costs[~costs["run"].isin(finished)].groupby("backbone", sort=False)
    by_backbone = {str(name): _cost_of_backbone(own, speeds.get(str(name))) for name, own in missing}
    hours = [each.hours for each in by_backbone.values() if each.hours is not None]
    return {
        "name": spec.name,
        "runs": len(cells),
        "done": len(finished & {cell.run for cell in cells}),
        "factors": {name: list(dict.fromkeys(cell.factors[name] for cell in cells)) for name in FACTORS},
        "backbones": {name: vars(each) for name, each in by_backbone.items()},
        "hours": sum(hours) if len(hours) == len(by_backbone) else None,
        "device": "GPU" if torch.cuda.is_available() else "process of this machine",
    }


@dataclass(frozen=True)
class BackboneCost:
    """What the missing runs of a backbone cost: passes, and hours where its passes per second are known."""

    runs: int
    training: int
    measuring: int
    throughput: float | None
    hours: float | None


def _cost_of_backbone(runs: pd.DataFrame, throughput: float | None) -> BackboneCost:
    training, measuring = int(runs["training"].sum()), int(runs["measuring"].sum())
    hours = (training + measuring) / throughput / 3600 if throughput else None
    return BackboneCost(len(runs), training, measuring, throughput, hours)


def _rows(place: str) -> pd.DataFrame:
    try:
        return Store(place).rows(SPENT)
    except NoResultsError:
        return pd.DataFrame(columns=["run", "status"])
