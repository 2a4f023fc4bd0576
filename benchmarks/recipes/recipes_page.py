"""docs/recipes.md, from the committed rows alone; what has no row is said to be not measured."""

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from committed_rows import KEY, Planned, Rows, from_hex, store_rows
from recipes_cells import SETTINGS, epochs_of, recipes

PAGE = "recipes.md"
_WHERE = "All numbers: [results.csv](../benchmarks/recipes/results.csv), a row per cell with its intervals and curve."
INTRODUCTION = Path(__file__).with_name("introduction.md")
NORMS = ("linf", "l2", "l1")  # the metrics of the setting union
#: Column, heading, factor and digits.
ONE_NORM = [
    ("clean", "clean", 100.0, 1),
    ("linf", "robust", 100.0, 1),
    ("expected", "expected", 100.0, 1),
    ("tau", "τ", 1.0, 2),
]
SEVERAL = [
    ("clean", "clean", 100.0, 1),
    *((norm, norm.capitalize(), 100.0, 1) for norm in NORMS),
    ("union", "all at once", 100.0, 1),
]
COSTS = [("per_image", "passes per image", 1.0, 0), ("minutes", "minutes", 1.0, 1)]
SEEDS = 3

Column = tuple[str, str, float, int]


def write_page(rows: Rows, plan: Sequence[Planned], docs: Path) -> None:
    """Write the page into ``docs``."""
    (docs / PAGE).write_text("\n".join(_page(measured(rows, plan), plan)) + "\n")


def measured(rows: Rows, plan: Sequence[Planned]) -> pd.DataFrame:
    """A row per cell that is measured, with its setting, passes for every training image, minutes, and the share of the
    images that no norm breaks."""
    frame = store_rows(rows, plan)
    if frame.empty:
        return frame
    setting = {each.key: each.part for each in plan}
    frame["setting"] = [setting[key] for key in frame[KEY].itertuples(index=False, name=None)]
    frame["per_image"] = frame["training_passes"] / frame["train_n"]
    frame["minutes"] = frame["training_seconds"] / 60
    at_once = {
        tuple(row[name] for name in KEY): withstood(row)
        for row in rows.read("outcomes").to_dict("records")
        if all(isinstance(row.get(norm), str) for norm in NORMS)
    }
    frame["union"] = [at_once.get(key, np.nan) for key in frame[KEY].itertuples(index=False, name=None)]
    return frame


def withstood(outcome: Mapping[Hashable, object]) -> float:
    """Share of the test images that no norm breaks, from what happened to each in every norm, as bits."""
    n = int(str(outcome["n"]))
    return float(np.min([from_hex(str(outcome[norm]), n) for norm in NORMS], axis=0).mean())


def _page(frame: pd.DataFrame, plan: Sequence[Planned]) -> Iterator[str]:
    yield from (INTRODUCTION.read_text().rstrip(), "", "## How far it is", "")
    there = {name: int((frame["setting"] == name).sum()) if len(frame) else 0 for name in SETTINGS}
    whole = {name: sum(each.part == name for each in plan) for name in SETTINGS}
    said = "; ".join(f"{name} {there[name]} of {whole[name]}" for name in SETTINGS)
    yield f"**So far: {len(frame)} of {len(plan)} cells** ({said}). A cell is a recipe in a setting, with one seed."
    yield "Of what is marked as not measured nothing is said."
    for setting in SETTINGS:
        own = frame[frame["setting"] == setting] if len(frame) else frame
        yield from ("", f"## {setting}", "", best(own, setting), "", *table(own, setting))
    yield from ("", _WHERE if len(frame) else "There is no row yet.")


def table(frame: pd.DataFrame, setting: str) -> Iterator[str]:
    """Mean and standard deviation over seeds, a line per recipe, as Markdown."""
    shown = [*(SEVERAL if setting == "union" else ONE_NORM), *COSTS]
    yield "| recipe | epochs | seeds | " + " | ".join(heading for _, heading, _, _ in shown) + " |"
    yield "|---" * (3 + len(shown)) + "|"
    for recipe in recipes(setting):
        own = frame[frame["protocol"] == recipe] if len(frame) else frame
        cells = [_spread(own, column) for column in shown] if len(own) else ["not measured", *[""] * (len(shown) - 1)]
        yield f"| {recipe} | {epochs_of(setting, recipe)} | {len(own)} | " + " | ".join(cells) + " |"


def _spread(rows: pd.DataFrame, column: Column) -> str:
    """Mean ± standard deviation; no standard deviation of a single seed."""
    name, _, scale, digits = column
    values = rows[name].dropna() * scale
    if values.empty:
        return "–"
    return f"{values.mean():.{digits}f}" + (f" ± {values.std():.{digits}f}" if len(values) > 1 else "")


def best(frame: pd.DataFrame, setting: str) -> str:
    """Which recipe has the highest means, among those that have every seed; nothing before those without a piece do."""
    seeds = Counter(frame["protocol"] if len(frame) else [])
    whole = [recipe for recipe in recipes(setting) if seeds[recipe] == SEEDS]
    lacking = [recipe for recipe in recipes(setting) if "+" not in recipe and recipe not in whole]
    if lacking:
        return (
            f"Which is best cannot be told yet: {', '.join(lacking)} {'lack' if len(lacking) > 1 else 'lacks'} seeds."
        )
    metrics = {"union": "robust accuracy in all norms at once"} if setting == "union" else {
        "linf": "robust accuracy at the full epsilon", "expected": "expected robustness"
    }  # fmt: skip
    means = frame[frame["protocol"].isin(whole)].groupby("protocol")[[*metrics, "clean"]].mean()
    said = []
    for metric, words in metrics.items():
        first = str(means[metric].idxmax())
        said.append(f"the highest {words} has {first} ({means[metric][first]:.1%}, clean {means['clean'][first]:.1%})")
    return f"Of the {len(whole)} recipes with {SEEDS} seeds, {' and '.join(said)}; the best of many is flattered."
