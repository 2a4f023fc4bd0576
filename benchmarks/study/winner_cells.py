"""Which schedule wins at the full epsilon and below it, asked of one cell of the study so that it can be told: on four
times the test images, with seeds on which no schedule was chosen."""

from typing import Any

import yaml
from committed_rows import Planned
from study_cells import CURVE, spec_text

from temper.benchmark.grid import cells
from temper.benchmark.spec import read_spec

EPS = 4  # n/255: at 8/255 hardly an image is left to compare schedules on
SEEDS = (10, 11, 12)
SCHEDULES: dict[str, dict[str, Any]] = {
    "fixed": {},
    "hinge": {"start": 0.25, "end": 0.75},
    "linear": {"end": 0.25},
    "shorter": {"name": "linear", "end": 0.125},  # one epoch of eight, the shortest that there is
    "margin": {"end": 0.25},
}
TITLES = {
    "fixed": "fixed", "hinge": "hinge (25 %, 75 %)", "linear": "linear (0, 25 %)", "shorter": "linear (0, 12.5 %)",
    "margin": "margin (0, 25 %)",
}  # fmt: skip
# Accuracy at the full epsilon by the suite `fast`, below it by ten steps of APGD; nothing else.
MEASURE: dict[str, Any] = {"threats": {"linf": f"Linf:{EPS}/255"}, "limit": 400, "tau": 0, "corruptions": False}


def planned() -> list[Planned]:
    """The cells, seed by seed."""
    given = yaml.safe_load(spec_text(EPS))
    backbone, dataset = CURVE
    given |= {
        "name": f"Which schedule wins, Linf {EPS}/255",
        "backbones": {backbone: given["backbones"][backbone]},
        "datasets": {dataset: given["datasets"][dataset]},
        "objectives": ["at"],
        "schedules": SCHEDULES,
        "seeds": list(SEEDS),
        "measure": given["measure"] | MEASURE,
        "exceptions": [],
    }
    plan = [Planned(EPS, "winner", cell, given) for cell in cells(read_spec(given))]
    return sorted(plan, key=lambda each: int(each.cell.factors["seed"]))
