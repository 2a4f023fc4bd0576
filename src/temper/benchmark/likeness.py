"""Which data sets of a benchmark are most like one's own, and whether looking at those alone chooses better."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from temper import data
from temper.benchmark.configuration import CONFIGURATION
from temper.data import catalogue
from temper.errors import ArgumentError

Size = tuple[float, int]  # training images per class, classes
_FEWEST = 3  # data sets: one is held out, and the nearest half of the others is fewer than all of them


def own_size(data_spec: str | None, images: int | None, classes: int | None) -> Size | None:
    """Size of one's own data, read or as it is said; None where nothing is.

    Raises:
        ArgumentError: only one of images and classes is said, or the data too. DataError: the data cannot be read.
    """
    if images is None and classes is None:
        return None if data_spec is None else _read_size(data_spec)
    if data_spec is not None:
        raise ArgumentError("data", data_spec, "says how many images and classes there are; leave out images, classes")
    if images is None or classes is None:
        raise ArgumentError("images, classes", (images, classes), "say both, or name your data")
    return images / classes, classes


def _read_size(data_spec: str) -> Size:
    known = catalogue.named_in(data_spec)
    if known:
        return known.counts["train"] / known.classes, known.classes
    own = data.load(data_spec, split="train" if "train" in data.available_splits(data_spec) else None)
    return len(own) / own.num_classes, own.num_classes


def sizes(rows: pd.DataFrame) -> dict[str, Size]:
    """Of the data sets of the results, as far as they are known: ``train_n`` and ``classes`` of the runs."""
    if not {"train_n", "classes"} <= {*rows.columns}:
        return {}
    known = rows.dropna(subset=["train_n", "classes"]).drop_duplicates("dataset")
    return {str(row["dataset"]): (row["train_n"] / row["classes"], int(row["classes"])) for _, row in known.iterrows()}


def nearest_half(own: Size, known: Mapping[str, Size]) -> list[str]:
    """The half of the data sets (at least one) nearest to ``own``, nearest first: by the logarithms of images per
    class and of classes."""
    distances = {name: float(np.hypot(*np.log(np.divide(size, own)))) for name, size in known.items()}
    return sorted(distances, key=lambda name: distances[name])[: max(len(known) // 2, 1)]


def by_dataset(rows: pd.DataFrame, totals: "pd.Series[float]") -> pd.DataFrame:
    """Mean scores, a row per configuration of a protocol and a column per data set that all protocols have."""
    table = rows.assign(total=totals)
    keys = ["protocol", *CONFIGURATION]
    return table.pivot_table(index=keys, columns="dataset", values="total", aggfunc="mean").dropna(axis="columns")


def held_out_choices(table: pd.DataFrame, known: Mapping[str, Size]) -> tuple[float, float] | None:
    """Mean score on a data set of the configuration that is best on the nearest half of the others, and on all others.

    Returns:
        None for fewer than 3 data sets, where the two are the same choice.
    """
    names = [str(name) for name in table.columns if str(name) in known]
    if len(names) < _FEWEST:
        return None
    nearest, every = [], []
    for name in names:
        others = {other: known[other] for other in names if other != name}
        own: NDArray[np.float64] = table[name].to_numpy(np.float64)
        nearest.append(own[_best(table, nearest_half(known[name], others))])
        every.append(own[_best(table, [*others])])
    return float(np.mean(nearest)), float(np.mean(every))


def _best(table: pd.DataFrame, names: Sequence[str]) -> int:
    return int(table[[*names]].mean(axis=1).to_numpy().argmax())
