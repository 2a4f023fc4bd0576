"""The few cells of one's own that tell whether published advice holds on one's own data, as a SPEC."""

import itertools
from pathlib import Path

import yaml

from temper.benchmark.advice import SURE, Advice, Choice
from temper.benchmark.presets import GUIDE_PROTOCOLS, Settings
from temper.core.files import written
from temper.errors import ArgumentError
from temper.models.catalogue import CATALOGUE, Backbone

SPEC_FILE = "spec.yaml"
SEEDS = (1, 2, 3)  # with two, ranks can hardly be told apart (docs/benchmark.md)


def settling_spec(advice: Advice, data_spec: str) -> Settings:
    """A SPEC of the choice and its rivals, and of no other cell, on one's own data.

    It is the published study's with its errors corrected (preset ``guide``). Backbones whose weights only a person can
    fetch are named with the file that they are published in.

    Raises:
        ArgumentError: the advice is not from the published figures: whoever has a store has its SPEC.
    """
    if not advice.published:
        raise ArgumentError("results", advice.source, "is measured from a SPEC of yours: widen that")
    cells = [_cell(each) for each in (advice.choices[0], *advice.rivals)]
    backbones, objectives, protocols = ([*dict.fromkeys(names)] for names in zip(*cells, strict=True))
    spec: Settings = {
        "name": "What settles the advice",
        "preset": "guide",
        "backbones": backbones,
        "datasets": [data_spec],
        "objectives": objectives,
        "protocols": {name: GUIDE_PROTOCOLS[name] for name in protocols},
        "seeds": [*SEEDS],
    }
    left_out = [
        {"where": {"objective": objective, "protocol": protocol, "backbone": others}, "skip": True}
        for objective, protocol in itertools.product(objectives, protocols)
        if (others := [name for name in backbones if (name, objective, protocol) not in cells])
    ]
    return spec | ({"exceptions": left_out} if left_out else {})


def write_settling_spec(advice: Advice, data_spec: str, folder: Path) -> Path:
    """:func:`settling_spec` as ``spec.yaml`` in the folder, with what it rests on and where weights are.

    Raises:
        ArgumentError: the file is there already.
    """
    path = folder / SPEC_FILE
    if path.exists():
        raise ArgumentError("out", str(folder), f"holds a {SPEC_FILE} already; name another folder, or move it away")
    spec = settling_spec(advice, data_spec)
    cells = (advice.choices[0], *advice.rivals)
    head = [
        f"The {len(cells)} configurations that hold the best with a chance of {SURE:.0%}, from {advice.source},",
        f"none of them measured by Temper. What it costs: temper bench plan {SPEC_FILE}",
        *dict.fromkeys(
            f"{known.weights.file}: download it from {known.weights.published_at}"
            for known in (CATALOGUE[each.configuration.backbone] for each in cells)
            if known.weights.file
        ),
    ]
    text = "".join(f"# {line}\n" for line in head) + yaml.safe_dump(spec, sort_keys=False, width=120)
    with written(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return path


def _cell(choice: Choice) -> tuple[str, str, str]:
    known: Backbone = CATALOGUE[choice.configuration.backbone]
    name = f"{known.name}@{known.weights.file}" if known.weights.file else known.name
    return name, choice.configuration.objective, choice.protocol
