"""What a model predicted on corrupted samples, and the accuracies that follow."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from temper.core.files import JsonObject
from temper.core.parquet import read_table, write_table
from temper.errors import EvidenceError
from temper.margins import intervals
from temper.margins.intervals import Estimate

COLUMNS = {"sample": "int64", "label": "int64", "corruption": "str", "severity": "int64", "prediction": "int64"}
#: How the rows of the clean images are named; their severity is 0.
CLEAN = "clean"
METADATA_KEY = b"temper.corruptions"

#: A corruption at a severity.
Condition = tuple[str, int]


@dataclass(frozen=True, eq=False)
class CorruptionTable:
    """Predictions on clean and corrupted samples.

    Attributes:
        frame: one row per sample, corruption and severity; see :data:`COLUMNS`.
        identity: JSON-able: fingerprints of model and data, preset, rule and seed.

    Raises:
        EvidenceError: the frame lacks columns, or has a sample twice at a corruption and severity.
    """

    frame: pd.DataFrame
    identity: JsonObject

    def __post_init__(self) -> None:
        lacking = [column for column in COLUMNS if column not in self.frame]
        if lacking:
            raise EvidenceError(f"the table has no column {lacking[0]!r}; it is not one of corruptions")
        if self.frame.duplicated(["corruption", "severity", "sample"]).any():
            raise EvidenceError("the table has a sample twice at one corruption and severity")

    def cells(self) -> list[Condition]:
        """What was measured, in order, the clean images included."""
        pairs = self.frame[["corruption", "severity"]].drop_duplicates()
        return [(str(name), int(severity)) for name, severity in pairs.itertuples(index=False)]

    def accuracy(self, corruption: str, severity: int) -> Estimate:
        """Accuracy on the samples at one corruption and severity, with the exact 95 % interval (Clopper and Pearson).

        Raises:
            EvidenceError: it was not measured.
        """
        correct = self._correct([(corruption, severity)]).to_numpy(np.bool_)
        return intervals.share(correct)

    def clean_accuracy(self) -> Estimate:
        """Accuracy on the same samples, uncorrupted."""
        return self.accuracy(CLEAN, 0)

    def mean_accuracy(self, cells: Iterable[Condition]) -> Estimate:
        """The mean of the samples' accuracies over ``cells``; n is the number of samples, not of predictions.

        The interval is over samples, because a sample's outcomes under several corruptions go together: that of
        :func:`temper.margins.intervals.mean`.

        Raises:
            EvidenceError: a cell was not measured, or some samples were left out of one.
        """
        correct = self._correct(list(cells))
        samples = correct.groupby(level="sample")
        counts = samples.count()
        if counts.nunique() > 1:
            raise EvidenceError(f"sample {counts.idxmin()} was measured at fewer corruptions than others")
        if counts.iloc[0] == 1:  # the same interval, without its approximation
            once = correct.to_numpy(np.bool_)
            return intervals.share(once)
        shares = np.asarray(samples.mean(), dtype=np.float64)
        return intervals.mean(shares, shares)

    def wrong(self, cells: Sequence[Condition]) -> pd.DataFrame:
        """Which samples (rows) are misclassified in which cells (columns, named by corruption and severity)."""
        wrong = (~self._correct(cells)).unstack(["corruption", "severity"])
        if wrong.isna().to_numpy().any():
            raise EvidenceError("some samples were not measured at every corruption and severity")
        return pd.DataFrame(wrong).astype(np.float64)

    def _correct(self, cells: Sequence[Condition]) -> "pd.Series[bool]":
        known = set(self.cells())
        for name, severity in cells:
            if (name, severity) not in known:
                raise EvidenceError(f"{name} at severity {severity} was not measured")
        chosen = pd.MultiIndex.from_frame(self.frame[["corruption", "severity"]]).isin(list(cells))
        rows = self.frame[chosen].set_index(["corruption", "severity", "sample"])
        return rows["label"] == rows["prediction"]

    def joined(self, rows: Sequence[pd.DataFrame]) -> "CorruptionTable":
        """This table and more rows of the same model and data."""
        return CorruptionTable(pd.concat([self.frame, *rows], ignore_index=True), self.identity)

    def to_pandas(self) -> pd.DataFrame:
        """One row per sample, corruption and severity."""
        return self.frame.copy()

    def save(self, path: Path) -> None:
        """Write as Parquet; the identity goes into the file's metadata."""
        write_table(path, self.frame[list(COLUMNS)], METADATA_KEY, self.identity, "zstd")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            DamagedError: the file was cut short or overwritten since.
            EvidenceError: it cannot be read or is no such table.
        """
        frame, identity = read_table(path, METADATA_KEY, "no table of corruptions")
        try:
            return cls(frame, identity)
        except EvidenceError as error:
            raise EvidenceError(f"{path}: {error}") from None


def empty_table(identity: JsonObject) -> CorruptionTable:
    """A table without rows."""
    return CorruptionTable(pd.DataFrame({c: pd.Series(dtype=kind) for c, kind in COLUMNS.items()}), identity)
