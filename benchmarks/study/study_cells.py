"""The cells of the study in the order in which they are run, from the one SPEC beside this file."""

from collections.abc import Mapping
from pathlib import Path

import yaml
from committed_rows import Planned

from temper.benchmark.grid import cells
from temper.benchmark.spec import Spec, read_spec

SPEC = Path(__file__).with_name("spec.yaml")
EPSILONS = (8, 4, 2, 1)  # n/255
EVERYWHERE = (8, 4)  # the others are for the curve of one backbone on one data set
CURVE = ("mobilenetv2", "caltech101")
COMPARED = ("fixed", "hinge")
PARTS = ("core", "curve", "other schedules")


def spec_text(eps: int) -> str:
    """The SPEC at ``eps`` / 255, as YAML."""
    return SPEC.read_text().replace("EPS", f"{eps}/255")


def spec_at(eps: int) -> Spec:
    """The SPEC at ``eps`` / 255."""
    return read_spec(yaml.safe_load(spec_text(eps)))


def planned() -> list[Planned]:
    """Every cell: what tells which schedule wins first, then what compares fixed and scheduled epsilon, then the curve,
    then other schedules. Within each seed by seed, and what belongs together side by side, so that what is there at any
    moment is balanced."""
    wanted = []
    for eps in EPSILONS:
        given = yaml.safe_load(spec_text(eps))
        for cell in cells(read_spec(given)):
            part = _part(eps, cell.factors)
            if part is not None:
                wanted.append(Planned(eps, part, cell, given))
    order = {name: place for place, name in enumerate(PARTS)}
    # Python's sort is stable: within these keys the order is that of EPSILONS and of the SPEC's factors.
    return sorted(wanted, key=lambda each: (not _tells_winner(each), order[each.part], each.cell.factors["seed"]))


def _tells_winner(each: Planned) -> bool:
    """Whether a cell belongs to the one backbone and data set on which schedules are chosen."""
    factors = each.cell.factors
    here = each.eps in EVERYWHERE and (factors["backbone"], factors["dataset"]) == CURVE
    return here and factors["schedule"] in (*COMPARED, "linear")


def _part(eps: int, factors: Mapping[str, str | int]) -> str | None:
    """The part of the study that needs a cell; None where none does."""
    compared = factors["schedule"] in COMPARED  # standard fine-tuning, too: its schedule is fixed, at no epsilon
    if eps in EVERYWHERE and compared:
        return "core"
    if eps in EVERYWHERE:
        return "other schedules" if factors["dataset"] == CURVE[1] else None
    return "curve" if compared and (factors["backbone"], factors["dataset"]) == CURVE else None
