"""What a late start costs: the delay of adapting to the task against the accuracy it ends with (arXiv:2509.23325)."""

from collections.abc import Sequence

import pandas as pd

from temper.benchmark.analysis.cells import check_columns
from temper.benchmark.analysis.factors import correlated
from temper.errors import EvidenceError

FEWEST = 4  # runs that an interval of a correlation needs


def delay_and_accuracy(
    rows: pd.DataFrame, by: Sequence[str] = ("backbone", "dataset"), *, confidence: float = 0.95
) -> pd.DataFrame:
    """Pearson's correlation of a run's delay with its clean accuracy, as section 3 and figure 9 have it.

    Args:
        rows: one row per run, with ``delay`` and ``clean``; in the paper runs with a fixed epsilon, from 0 on. Runs
            that differ in the seed alone repeat one another: average them first.
        by: columns that tell the groups apart.
        confidence: of the interval, see :func:`temper.benchmark.analysis.proxy`.

    Returns:
        One row per group: ``by``, ``n`` runs, ``pearson`` with ``_low``, ``_high`` and ``_p`` (two-sided). NaN where
        delay or accuracy is constant.

    Raises:
        ArgumentError: a column is not there. EvidenceError: a group has fewer than 4 rows.
    """
    check_columns(rows, (), [*by, "delay", "clean"])
    records = []
    for names, own in rows.groupby([*by], sort=False):
        if len(own) < FEWEST:
            raise EvidenceError(f"{names} has {len(own)} runs, a correlation's interval needs at least {FEWEST}")
        numbers = correlated(own["delay"].to_numpy(float), own["clean"].to_numpy(float), "pearson", confidence)
        records.append(dict(zip(by, names, strict=True)) | {"n": len(own)} | numbers)
    return pd.DataFrame(records)
