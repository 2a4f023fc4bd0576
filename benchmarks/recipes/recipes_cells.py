"""The cells of the recipes, in the order in which they are run, from the one file beside this one."""

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from committed_rows import Planned

from temper.benchmark.costs import Sizes, cost
from temper.benchmark.grid import cells
from temper.benchmark.spec import merge, read_spec

RECIPES = Path(__file__).with_name("recipes.yaml")
SETTINGS = ("cifar", "union", "caltech101")  # in the order in which they are run
TRIED = 64  # epochs that a recipe's passes are counted over: its parts are shares of them
FEWEST = 2  # epochs, so that a schedule and two phases have room

Settings = dict[str, Any]


@cache
def given() -> Settings:
    """What the file says."""
    content: Settings = yaml.safe_load(RECIPES.read_text())
    return content


def recipes(setting: str) -> dict[str, Settings]:
    """Every recipe of a setting: those without a piece first, then each with each piece that applies."""
    if setting == "union":
        fixed = given()["recipes"]["fixed"]
        return {name: {**fixed, "finetune": own} for name, own in given()["norms"].items()}
    plain: dict[str, Settings] = given()["recipes"]
    return plain | {
        f"{name} + {piece}": {**plain[name], "finetune": merge(plain[name].get("finetune", {}), own["finetune"])}
        for piece, own in given()["pieces"].items()
        for name in own["of"]
    }


def spec_of(setting: str, recipe: str, epochs: int) -> Settings:
    """The SPEC of a recipe in a setting, for so many epochs: one protocol, of the recipe's name, and every seed."""
    where, own, common = given()["settings"][setting], recipes(setting)[recipe], given()["common"]
    attack = own.get("finetune", {}).get("attack", {})
    told = own.get("finetune", {}) | {"attack": attack if "name" in attack else where["attack"] | attack}
    return {
        "name": f"{recipe}, {setting}",
        "backbones": where["backbones"],
        "datasets": where["datasets"],
        "objectives": [own["objective"]],
        "schedules": own["schedule"],
        "protocols": {recipe: {"protocol": {"name": "full"}} | told | {"epochs": epochs}},
        "seeds": common["seeds"],
        "finetune": merge(common["finetune"], where["finetune"]),
        "measure": merge(common["measure"], where["measure"]),
    }


@cache
def epochs_of(setting: str, recipe: str) -> int:
    """Epochs of which training comes nearest to the setting's passes for every image."""
    cell = cells(read_spec(spec_of(setting, recipe, TRIED)))[0]
    spent = cost(cell, Sizes(TRIED, 0))
    per_epoch = (spent.train_forward + spent.train_backward) / TRIED**2
    return max(round(given()["settings"][setting]["passes"] / per_epoch), FEWEST)


def planned(settings: tuple[str, ...] = SETTINGS) -> list[Planned]:
    """Cells, setting by setting: recipes without a piece first, seed by seed, so that it is balanced at any moment."""
    return [each for setting in settings for each in sorted(_of(setting), key=_turn)]


def _of(setting: str) -> Iterator[Planned]:
    for recipe in recipes(setting):
        spec = spec_of(setting, recipe, epochs_of(setting, recipe))
        for cell in cells(read_spec(spec)):
            yield Planned(given()["settings"][setting]["eps"], setting, cell, spec)


def _turn(each: Planned) -> tuple[bool, int]:
    factors: Mapping[str, Any] = each.cell.factors
    return "+" in factors["protocol"], factors["seed"]
