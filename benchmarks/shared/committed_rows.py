"""What is known of a long benchmark's cells: rows that are committed, and those of a store as they come in.

``results.csv`` has a row per cell (epsilon, factors, metrics with their intervals, the accuracy curve, what it cost),
``history.csv`` one per epoch of it, ``outcomes.csv`` what happened to every test image, as bits. From the first two a
store's rows are made again, so that a cell with a committed row is not run again where the store is gone. What is known
are rows and not evidence: intervals over samples come from the bits.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from temper.benchmark.columns import columns
from temper.benchmark.configuration import FACTORS
from temper.benchmark.grid import Cell
from temper.benchmark.outcomes import margins_of, outcomes
from temper.benchmark.store import RUN_DONE, Store

KEY = ["eps", *FACTORS]  # eps in n/255
EPOCH = ["epoch", "eps_in_force", "train_loss", "train_accuracy", "validation_accuracy", "lr", "seconds"]
# Columns of a store's row that the cell itself tells, or that have a file of their own.
NOT_KEPT = {"run", "training", "status", "error", "config", "history"}
DIGITS = "%.7g"
# Hashes, of which one such as 89987e47 would be taken for a number.
TEXTS = {"settings": str, "weights": str, "data": str}

Row = dict[str, object]


@dataclass(frozen=True)
class Planned:
    """A cell at an epsilon of ``eps`` / 255, the part of its benchmark it belongs to, and the SPEC it is of."""

    eps: int
    part: str
    cell: Cell
    spec: Mapping[str, Any]

    @property
    def key(self) -> tuple[object, ...]:
        """What a result row is told apart by: epsilon and factors."""
        return (self.eps, *self.cell.factors.values())

    @property
    def settings(self) -> str:
        """What the SPEC says of the cell, in eight characters: rows of another SPEC are not this cell's.

        The hash that names a run in a store is another one in a version of Temper that has a further setting.
        """
        factors = self.cell.factors
        own = {name: self.spec[f"{name}s"][factors[name]] for name in ("backbone", "dataset", "schedule", "protocol")}
        common = {name: self.spec[name] for name in ("finetune", "measure")}
        content = json.dumps(own | common | {"objective": factors["objective"]}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:8]


class Rows:
    """The committed rows in a folder.

    Args:
        folder: of results.csv, history.csv and outcomes.csv, made for the first row; files that are not there hold
            nothing yet.
    """

    def __init__(self, folder: Path) -> None:
        self._files = {name: folder / f"{name}.csv" for name in ("results", "history", "outcomes")}

    def read(self, name: str) -> pd.DataFrame:
        """One of the three files; empty where it is not there yet."""
        path = self._files[name]
        return pd.read_csv(path, dtype=TEXTS) if path.exists() else pd.DataFrame(columns=KEY)

    def known(self) -> set[tuple[object, ...]]:
        """The keys of the rows."""
        return set(self.read("results")[KEY].itertuples(index=False, name=None))

    def restore(self, plan: Sequence[Planned], store: Store) -> int:
        """Put the committed rows into a store that lacks them, so that their cells count as done; returns their number.

        Raises:
            ValueError: a row was measured with other settings than the SPEC now has.
        """
        restored = 0
        for row in _records(store_rows(self, plan)):
            if not store.has_run(str(row["run"])):
                store.write_run(row)
                restored += 1
        return restored

    def collect(self, plan: Sequence[Planned], store: Store) -> int:
        """Add what a store has beyond the committed rows, in the order of the plan; returns the number of new rows."""
        found, known = store.rows(), self.known()
        done = {row["run"]: row for row in _records(found[found["status"] == RUN_DONE])}
        new = [each for each in plan if each.key not in known and each.cell.run in done]
        if new:
            self._add("results", [_result(each, done[each.cell.run], store) for each in new], plan)
            self._add("history", [row for each in new for row in _history(each, done[each.cell.run])], plan)
            self._add("outcomes", [_outcomes(each, store) for each in new], plan)
        return len(new)

    def _add(self, name: str, rows: list[Row], plan: Sequence[Planned]) -> None:
        place = {each.key: number for number, each in enumerate(plan)}
        before, added = self.read(name), pd.DataFrame(rows)
        # Where a result's row was removed to have its cell run again, the other files still have what it was.
        stale = pd.MultiIndex.from_frame(before[KEY]).isin(pd.MultiIndex.from_frame(added[KEY]))
        frame = pd.concat([before[~stale], added], ignore_index=True)
        order = [place.get(key, len(place)) for key in frame[KEY].itertuples(index=False, name=None)]
        frame = frame.iloc[np.argsort(order, kind="stable")]
        unfinished = self._files[name].with_suffix(".part")
        unfinished.parent.mkdir(exist_ok=True)
        frame.to_csv(unfinished, index=False, lineterminator="\n", float_format=DIGITS)
        unfinished.replace(self._files[name])


def store_rows(rows: Rows, plan: Sequence[Planned]) -> pd.DataFrame:
    """The committed rows as a store has them, with ``eps`` besides, in the order of the plan.

    Raises:
        ValueError: a row was measured with other settings than the SPEC now has.
    """
    results = {tuple(row[name] for name in KEY): row for row in _records(rows.read("results"))}
    epochs = dict(iter(rows.read("history").groupby(KEY, sort=False)))
    made = []
    for each in plan:
        if each.key in results:
            row = results[each.key]
            _check_settings(each, row)
            own = epochs[each.key][EPOCH].rename(columns={"eps_in_force": "eps"})
            config = json.dumps(each.cell.config.model_dump(mode="json", exclude={"out"}))
            about = {"status": RUN_DONE, "error": "", "config": config}
            made.append({**row, **each.cell.describe(), **about, "history": json.dumps(own.to_dict("records"))})
    return pd.DataFrame(made)


def _check_settings(each: Planned, row: Row) -> None:
    if row["settings"] != each.settings:
        raise ValueError(
            f"results.csv: {each.cell.label} at {each.eps}/255 was measured with other settings than spec.yaml has now;"
            " restore spec.yaml, or remove the row, to have the cell run again"
        )


def _records(frame: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _result(each: Planned, row: Row, store: Store) -> Row:
    """A row of results.csv."""
    measure = each.cell.measure
    assert measure.curve is not None
    radii = [measure.curve.eps * (k + 1) / measure.points for k in range(measure.points)]
    curve = margins_of(store, each.cell.run, measure.suite).accuracy_curve(measure.curve.norm, radii)
    kept = {name: value for name, value in row.items() if name not in {*NOT_KEPT, *FACTORS}}
    points = {f"at_{k}": point.value for k, point in enumerate(curve, start=1)}
    return {
        **_key(each), **kept, **points, "cpu": torch.backends.cpu.get_cpu_capability(), "settings": each.settings,
    }  # fmt: skip


def _history(each: Planned, row: Row) -> list[Row]:
    epochs = [{**epoch, "eps_in_force": epoch["eps"]} for epoch in json.loads(str(row["history"]))]
    return [_key(each) | {name: epoch[name] for name in EPOCH} for epoch in epochs]


def _outcomes(each: Planned, store: Store) -> Row:
    """What happened to each test image, in order of their ids: bits as hexadecimal numbers, the first one highest."""
    own = outcomes([each.cell], store)
    scored = [column.key for column in columns(each.cell.measure) if column.scores]
    return _key(each) | {"n": len(own)} | {name: to_hex(own[name].to_numpy(np.float64)) for name in scored}


def to_hex(bits: np.ndarray) -> str:
    """Zeros and ones [N] as a hexadecimal text, which begins with x so that no reader takes it for a number."""
    return f"x{np.packbits(bits.astype(np.uint8)).tobytes().hex()}"


def from_hex(text: str, n: int) -> np.ndarray:
    """What :func:`to_hex` was given: float64 [n]."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text[1:]), np.uint8))[:n].astype(np.float64)


def _key(each: Planned) -> Row:
    return dict(zip(KEY, each.key, strict=True))
