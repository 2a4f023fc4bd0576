"""Result rows as full grids: every configuration in every cell, or an error that says which are missing.

A row is one finished run. A configuration is (backbone, objective, schedule); it is ranked within one protocol, over
data sets and seeds.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from temper.benchmark.configuration import CONFIGURATION
from temper.errors import ArgumentError, EvidenceError
from temper.text import did_you_mean, nearest

FACTS = ("tier", "type", "pretraining", "pretraining_data", "parameters")
_LISTED = 3


def check_columns(rows: pd.DataFrame, factors: Sequence[str], metrics: Sequence[str]) -> None:
    """Require the columns, and that no row lacks one of ``metrics`` (any columns that must be filled).

    Raises:
        ArgumentError: for a column that is not in ``rows``, with the nearest name.
        EvidenceError: when a row lacks a metric.
    """
    for column in [*factors, *metrics]:
        if column not in rows.columns:
            known = [*map(str, rows.columns)]
            hint = did_you_mean(nearest(column, known), f"the rows have {', '.join(known)}")
            raise ArgumentError("column", column, hint)
    for metric in metrics:
        missing = rows.index[rows[metric].isna()]
        if len(missing):
            raise EvidenceError(f"{metric!r} is missing in {len(missing)} rows, the first is row {missing[0]!r}")


def name_of(configuration: object, columns: Sequence[str]) -> str:
    """The values of ``columns`` in words: "backbone resnet50, seed 1"."""
    values = configuration if isinstance(configuration, tuple) else (configuration,)
    return ", ".join(f"{column} {value}" for column, value in zip(columns, values, strict=True))


def whole(rows: pd.DataFrame, planned: pd.DataFrame) -> pd.DataFrame:
    """The rows of configurations that have every data set and seed of their protocol; others cannot be compared.

    Args:
        rows: one row per run.
        planned: rows, or anything with their factors as columns, that say which data sets and seeds a protocol has.
    """
    cells = planned[["protocol", "dataset", "seed"]].drop_duplicates()
    wanted = rows["protocol"].map(cells.groupby("protocol").size())
    present = rows.groupby(["protocol", *CONFIGURATION], observed=True)["dataset"].transform("size")
    return rows[present == wanted]


def grid(
    rows: pd.DataFrame, axes: Sequence[Sequence[str]], metrics: Sequence[str]
) -> tuple[list[pd.DataFrame], NDArray[np.float64]]:
    """The metrics as an array with one axis for each group of columns.

    Args:
        rows: one row per cell.
        axes: the columns whose combinations, as found in the rows, are the places along each axis.
        metrics: numeric columns.

    Returns:
        The labels of each axis (a frame with its columns, sorted), and float64 [len(labels) ..., metrics].

    Raises:
        ArgumentError: for a column that is not in ``rows``.
        EvidenceError: when there are no rows, a cell of the product of the axes is missing or there twice, or a row
            lacks a key or a metric.
    """
    keys = [column for axis in axes for column in axis]
    check_columns(rows, (), [*keys, *metrics])
    if rows.empty:
        raise EvidenceError("there are no rows to analyse: check what they were filtered by")
    labels: list[pd.DataFrame] = []
    cells = np.zeros(len(rows), dtype=np.int64)
    for axis in axes:
        codes = rows.groupby([*axis], sort=True, observed=True).ngroup().to_numpy()
        _, first = np.unique(codes, return_index=True)
        labels.append(rows[[*axis]].iloc[first].reset_index(drop=True))
        cells = cells * len(first) + codes
    shape = tuple(map(len, labels))
    counts = np.bincount(cells, minlength=math.prod(shape))
    _check_each_once(counts, labels)
    values = np.empty((len(counts), len(metrics)))
    values[cells] = rows[[*metrics]].to_numpy(float)
    return labels, values.reshape(*shape, len(metrics))


def _check_each_once(counts: NDArray[np.int64], labels: Sequence[pd.DataFrame]) -> None:
    """Require one row for each cell of the product of the labels."""
    if (counts > 1).any():
        twice = _name_cell(int(np.argmax(counts > 1)), labels)
        raise EvidenceError(
            f"{counts.max()} rows for {twice}: drop all but one, or tell them apart by a further column (such as seed)"
        )
    missing = np.flatnonzero(counts == 0)
    if len(missing):
        listed = "; ".join(_name_cell(int(cell), labels) for cell in missing[:_LISTED])
        more = f"; and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise EvidenceError(
            f"{len(missing)} of {len(counts)} cells are missing: {listed}{more}: "
            "run them, or leave their configurations or data sets out of the rows"
        )


def _name_cell(cell: int, labels: Sequence[pd.DataFrame]) -> str:
    places = np.unravel_index(cell, tuple(map(len, labels)))
    parts = (
        name_of(tuple(label.iloc[int(place)]), [*label.columns]) for place, label in zip(places, labels, strict=True)
    )
    return ", ".join(parts)
