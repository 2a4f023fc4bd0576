"""The published figures of arXiv:2508.14079, which advice starts from before one has results, and to compare with.

``published.csv`` beside this file has the figures alone: accuracies of 6 data sets x 40 backbones x 2 losses x
3 protocols, one seed, measured by the study's authors and not by Temper. What is told of backbones and data sets comes
from Temper's own catalogues. The study's files are not part of Temper, as they come without a licence.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from temper.benchmark.presets import GUIDE_PROTOCOLS
from temper.data.catalogue import CATALOGUE as DATASETS
from temper.errors import DataError
from temper.models.catalogue import CATALOGUE as BACKBONES
from temper.text import nearest

SOURCE = "arXiv:2508.14079"
# The facts sheet of the study, sections 1 to 9: what its public code and its figures show.
FLAWS = (
    "at least a tenth of the figures were counted on three quarters of the images",
    "half of the searches at 50 epochs seem to have tried five learning rates or fewer, so a rank may be their luck",
    "networks of several families had another normalisation than their own",
    "training images were augmented twice, once for all epochs",
    "TRADES had twice the batch",
)

_SEARCH_OBJECTIVES = {"CLASSIC_AT": "at", "TRADES_v2": "trades-guide"}
_SEARCH_PROTOCOLS = {"FFT-50": "full-50", "FFT-5": "full-5", "LP-50": "linear-50"}
_SEARCH_NUMBERS = {
    "lr_backbone": "backbone_lr",
    "lr_head": "head_lr",
    "wd_backbone": "backbone_weight_decay",
    "wd_head": "head_weight_decay",
}
_SEARCH_COLUMNS = ("backbone", "dataset", "loss", "protocol", "epochs", *_SEARCH_NUMBERS, "cosine")


def published_results() -> pd.DataFrame:
    """The published figures as result rows, with their errors (:data:`FLAWS`).

    Two more: efficientnet-b0 and mobilevit-small were trained from random weights
    (:data:`temper.benchmark.presets.UNTRAINED`), and the study files ``eva02_tiny_patch14_224.mim_in22k`` as medium;
    ``tier`` is here by the measured size, where it is small.

    Returns:
        One row per run: ``backbone``, ``dataset`` (the study's names), ``objective`` ("at" or "trades-guide"),
        ``schedule`` ("fixed"), ``protocol`` ("full-50", "full-5" or "linear-50"), ``seed`` (1), ``config`` (what the
        protocol stands for), ``tier``, ``type``, ``pretraining``, ``pretraining_data``, ``train_n`` and ``classes`` of
        the data set, and the accuracies ``clean``, ``linf``, ``l2``, ``l1``, ``common``, rounded to a millionth.
    """
    rows = pd.read_csv(Path(__file__).with_name("published.csv"), comment="#")
    facts = pd.DataFrame([BACKBONES[name].facts() for name in rows["backbone"]]).drop(columns="parameters")
    sets = [DATASETS[name] for name in rows["dataset"]]
    return rows.join(facts).assign(
        schedule="fixed",
        seed=1,
        config=[json.dumps(GUIDE_PROTOCOLS[name]) for name in rows["protocol"]],
        train_n=[each.counts["train"] for each in sets],
        classes=[each.classes for each in sets],
    )


def read_published_hyperparameters(path: str | Path) -> pd.DataFrame:
    """The hyper-parameters that the published runs' searches chose, as released.

    Not all were released: 480 runs have them for "full-50", 480 for "full-5", 377 for "linear-50". A file that was
    released several times with the same values is one row; one run (coat_tiny.in1k, caltech101, "at", "full-5") has
    two that differ.

    Args:
        path: ``guide_hyperparameters.csv``.

    Returns:
        ``backbone``, ``dataset`` (the study's names), ``objective`` ("at" or "trades-guide"), ``protocol``,
        ``epochs``, ``backbone_lr``, ``head_lr``, ``backbone_weight_decay``, ``head_weight_decay`` and ``lr_schedule``
        ("cosine" or "constant"). In "linear-50" the backbone's two are placeholders: it is frozen.

    Raises:
        DataError: when the file cannot be read, is another, or has a word or number that cannot be.
    """
    table = _read(path, _SEARCH_COLUMNS)
    numbers = {name: _numbers(path, table, column) for column, name in _SEARCH_NUMBERS.items()}
    rows = pd.DataFrame(
        {
            "backbone": table["backbone"],
            "dataset": table["dataset"],
            "objective": _words(path, table, "loss", _SEARCH_OBJECTIVES),
            "protocol": _words(path, table, "protocol", _SEARCH_PROTOCOLS),
            "epochs": _numbers(path, table, "epochs").astype(np.int64),
            **numbers,
            "lr_schedule": _words(path, table, "cosine", {"True": "cosine", "False": "constant"}),
        }
    )
    for name in numbers:
        _refuse(path, rows[name] < 0, f"{name} is negative")
    return rows.drop_duplicates(ignore_index=True)


def _read(path: str | Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """The file's columns as text, all filled."""
    try:
        table = pd.read_csv(path, dtype=str)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise DataError(f"{path}: not a CSV file that can be read: {error}".splitlines()[0]) from error
    for column in columns:
        if column not in table.columns:
            near = nearest(column, table.columns)
            hint = f" (it has {near[0]!r})" if near else ""
            raise DataError(f"{path}: has no column {column!r}{hint}: give the study's file as it was released")
    if table.empty:
        raise DataError(f"{path}: has no rows: give the study's file as it was released")
    for column in columns:
        _refuse(path, table[column].isna(), f"column {column!r} is empty")
    return table


def _words(path: str | Path, table: pd.DataFrame, column: str, words: Mapping[str, str]) -> "pd.Series[str]":
    unknown = ~table[column].isin([*words])
    _refuse(path, unknown, f"column {column!r} is none of {', '.join(words)}")
    return table[column].map(words)


def _numbers(path: str | Path, table: pd.DataFrame, column: str) -> "pd.Series[float]":
    numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
    _refuse(path, ~numbers.between(-np.inf, np.inf, inclusive="neither"), f"column {column!r} is not a number")
    return numbers


def _refuse(path: str | Path, wrong: "pd.Series[bool]", reason: str) -> None:
    if wrong.any():
        line = int(np.argmax(wrong.to_numpy())) + 2  # line 1 is the header
        raise DataError(f"{path}: line {line}: {reason} ({int(wrong.sum())} such rows)")
