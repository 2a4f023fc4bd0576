"""The recipes' command: as many passes for each, the order of its cells, and a page that says what is not measured."""

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from committed_rows import EPOCH, KEY, Planned, Rows, to_hex
from recipes_cells import SETTINGS, epochs_of, planned, recipes
from recipes_page import withstood, write_page


@pytest.fixture(scope="module")
def plan() -> list[Planned]:
    return planned()


def test_every_recipe_has_the_passes_of_fixed_epsilon_in_its_setting():
    """Counted by hand: an update's passes and the attack's, PGD with 5 steps."""
    assert epochs_of("cifar", "fixed") == epochs_of("cifar", "twins") == 96 / (2 + 10)
    assert epochs_of("cifar", "hinge") == round(96 / (0.25 * 2 + 0.75 * 12))
    assert epochs_of("cifar", "trades") == round(96 / (5 + 10))
    assert epochs_of("cifar", "autolora") == round(96 / (4 + 10 + 1))
    assert epochs_of("cifar", "n-fgsm") == 96 / (2 + 2)
    assert epochs_of("cifar", "fixed + awp") == round(96 / (12 + 0.95 * 2))
    assert epochs_of("cifar", "fixed + ema") == epochs_of("cifar", "fixed + best") == 8
    assert epochs_of("caltech101", "fixed") == 64 / (2 + 6)
    assert epochs_of("union", "e-at of three") == epochs_of("union", "linf") == 8
    assert epochs_of("union", "avg") == round(96 / (3 * 12))


def test_recipes_without_a_piece_come_first_and_seed_by_seed(plan):
    assert len({each.key for each in plan}) == len({each.cell.run for each in plan}) == len(plan)
    assert [*dict.fromkeys(each.part for each in plan)] == [*SETTINGS]
    first = [each.cell.factors for each in plan if each.part == "cifar"][:27]
    assert [factors["seed"] for factors in first] == [0] * 9 + [1] * 9 + [2] * 9
    assert not any("+" in str(factors["protocol"]) for factors in first)
    assert set(Counter((each.part, each.cell.factors["protocol"]) for each in plan).values()) == {3}


def test_a_piece_is_added_and_nothing_else_changes(plan):
    configs = {
        each.cell.factors["protocol"]: each.cell.config.model_dump(mode="json")
        for each in plan
        if (each.part, each.cell.config.seed) == ("cifar", 0)
    }
    plain, averaged = configs["n-fgsm"], configs["n-fgsm + ema"]
    assert averaged["optimiser"]["ema"] == 0.99
    averaged["optimiser"]["ema"] = None
    assert averaged == plain
    assert (plain["attack"]["name"], plain["attack"]["steps"]) == ("n-fgsm", 1)
    assert configs["fixed + best"]["validation"] == {"robust_every": 2, "keep": "best", "patience": None}
    assert configs["roli"]["protocol"]["name"] == "linear-then-full"


def test_all_at_once_is_what_no_norm_breaks():
    bits = {"linf": [1, 1, 0, 1, 0], "l2": [1, 0, 1, 1, 0], "l1": [1, 1, 1, 0, 0]}
    assert withstood({"n": 5} | {name: to_hex(np.array(own)) for name, own in bits.items()}) == 1 / 5


def committed(folder: Path, cells: list[Planned]) -> Rows:
    """Made-up rows: each recipe of a setting is better than the one before."""
    results, epochs, outcomes = [], [], []
    for each in cells:
        key = dict(zip(KEY, each.key, strict=True))
        place = [*recipes(each.part)].index(str(each.cell.factors["protocol"]))
        share = 0.3 + 0.01 * place
        own = {"clean": 0.9 - share, "linf": share, "expected": share, "tau": 0.5, "l2": share, "l1": share}
        costs = {"training_passes": 1000 * 192, "train_n": 1000, "training_seconds": 90, "settings": each.settings}
        results.append(key | own | costs)
        epochs.append(key | dict.fromkeys(EPOCH, 0.25))
        bits = np.arange(50) < 50 * share
        norms = ("linf", "l2", "l1") if each.part == "union" else ("linf",)
        outcomes.append(key | {"n": 50} | {name: to_hex(bits) for name in norms})
    for name, rows in {"results": results, "history": epochs, "outcomes": outcomes}.items():
        pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
    return Rows(folder)


def test_the_page_says_what_is_not_measured(tmp_path: Path, plan: list[Planned]) -> None:
    write_page(committed(tmp_path, plan[:10]), plan, tmp_path)
    page = (tmp_path / "recipes.md").read_text()
    assert f"So far: 10 of {len(plan)} cells** (cifar 10 of 75; union 0 of 21" in page
    assert "| fixed | 8 | 2 | 60.0 ± 0.0 | 30.0 ± 0.0 | 30.0 ± 0.0 | 0.50 ± 0.00 | 192 ± 0 | 1.5 ± 0.0 |" in page
    assert "| hinge | 10 | 1 | 59.0 | 31.0 |" in page
    assert "| fixed + awp | 7 | 0 | not measured |" in page
    assert page.count("Which is best cannot be told yet") == 3
    assert "nan" not in page


def test_the_page_of_all_of_it(tmp_path: Path, plan: list[Planned]) -> None:
    write_page(committed(tmp_path, plan), plan, tmp_path)
    page = (tmp_path / "recipes.md").read_text()
    highest = "the highest robust accuracy at the full epsilon has hinge + fewer steps"
    assert f"Of the 25 recipes with 3 seeds, {highest}" in page
    assert "Of the 7 recipes with 3 seeds, the highest robust accuracy in all norms at once has avg (36.0%" in page
    assert "not measured |" not in page


def test_the_page_of_nothing(tmp_path: Path, plan: list[Planned]) -> None:
    write_page(Rows(tmp_path), plan, tmp_path)
    page = (tmp_path / "recipes.md").read_text()
    assert page.startswith("# Recipes of robust fine-tuning")
    assert "There is no row yet." in page
