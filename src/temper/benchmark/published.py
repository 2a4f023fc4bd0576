"""The published results of arXiv:2508.14079 as result rows, to compare with and to rank among.

The files are the study's own, which come without a licence and are therefore not part of Temper: one row for each of
6 data sets x 40 backbones x 2 losses x 3 protocols, one seed.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from temper.benchmark.analysis.scores import perturbation_product, perturbation_sum
from temper.errors import DataError
from temper.text import nearest

_METRICS = {"clean_acc": "clean", "Linf_acc": "linf", "L2_acc": "l2", "L1_acc": "l1", "common_acc": "common"}
_OBJECTIVES = {"Classic AT": "at", "TRADES": "trades-guide"}
_PROTOCOLS = {"FFT (50 epochs)": "full-50", "FFT (5 epochs)": "full-5", "LP (50 epochs)": "linear-50"}
_TYPES = {"fully attention": "attention", "fully convolutional": "convolution", "hybrid": "hybrid"}
_TIERS = {tier: tier for tier in ("small", "medium", "large")}
_PRETRAINING = {
    strategy: strategy
    for strategy in (
        "supervised",
        "supervised (multistep)",
        "supervised (robust)",
        "self-supervised",
        "self-supervised (multimodal)",
        "fusion",
    )
}
_RESULT_COLUMNS = (
    *_METRICS, "sum", "geom", "model_size", "backbone", "dataset", "loss_function", "pre_training_dataset",
    "pre_training_strategy", "model_type", "ft_strategy",
)  # fmt: skip

_SEARCH_OBJECTIVES = {"CLASSIC_AT": "at", "TRADES_v2": "trades-guide"}
_SEARCH_PROTOCOLS = {"FFT-50": "full-50", "FFT-5": "full-5", "LP-50": "linear-50"}
_SEARCH_NUMBERS = {
    "lr_backbone": "backbone_lr",
    "lr_head": "head_lr",
    "wd_backbone": "backbone_weight_decay",
    "wd_head": "head_weight_decay",
}
_SEARCH_COLUMNS = ("backbone", "dataset", "loss", "protocol", "epochs", *_SEARCH_NUMBERS, "cosine")


def read_published(path: str | Path) -> pd.DataFrame:
    """The published results as result rows.

    The data are the study's, with its errors: about a tenth of the accuracies were counted on three quarters of the
    images, two backbones (efficientnet-b0, mobilevit-small) were trained from random weights, and
    ``eva02_tiny_patch14_224.mim_in22k`` is filed as medium although it is small.

    Args:
        path: ``guide_results.csv``.

    Returns:
        One row per run: ``backbone``, ``dataset`` (the study's names), ``objective`` ("at" or "trades-guide"),
        ``schedule`` ("fixed"), ``protocol`` ("full-50", "full-5" or "linear-50"), ``seed`` (1), ``tier``, ``type``,
        ``pretraining``, ``pretraining_data``, and the accuracies ``clean``, ``linf``, ``l2``, ``l1``, ``common``.

    Raises:
        DataError: when the file cannot be read, is another, has a run twice, a word or number that cannot be, or a
            sum or product that its accuracies do not give.
    """
    table = _read(path, _RESULT_COLUMNS)
    accuracies = {name: _numbers(path, table, column) for column, name in _METRICS.items()}
    rows = pd.DataFrame(
        {
            "backbone": table["backbone"],
            "dataset": table["dataset"],
            "objective": _words(path, table, "loss_function", _OBJECTIVES),
            "schedule": "fixed",
            "protocol": _words(path, table, "ft_strategy", _PROTOCOLS),
            "seed": 1,
            "tier": _words(path, table, "model_size", _TIERS),
            "type": _words(path, table, "model_type", _TYPES),
            "pretraining": _words(path, table, "pre_training_strategy", _PRETRAINING),
            "pretraining_data": table["pre_training_dataset"],
            **accuracies,
        }
    )
    published = list(_METRICS.values())
    for metric in published:
        _refuse(path, ~rows[metric].between(0, 1), f"{metric} accuracy is not in [0, 1]")
    for column, computed in (
        ("sum", perturbation_sum(rows, published)),
        ("geom", perturbation_product(rows, published)),
    ):
        _refuse(
            path,
            (_numbers(path, table, column) - computed).abs() > 1e-9,
            f"column {column!r} is not the {computed.name} of the five accuracies",
        )
    _refuse(path, rows.duplicated(["backbone", "dataset", "objective", "protocol"]), "this run was there before")
    return rows


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
