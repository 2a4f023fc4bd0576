"""The evidence table: what every search found, sample by sample, in a form that merges in any order."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from temper.errors import EvidenceError
from temper.files import written
from temper.margins import metrics
from temper.margins.intervals import Estimate

COLUMNS: dict[str, str] = {
    "sample": "int64",
    "label": "int64",
    "prediction": "int64",
    "logit_margin": "float64",
    "norm": "str",
    "suite": "str",
    "upper": "float64",
    "survived": "float64",
    "attack": "str",
    "forward": "int64",
    "backward": "int64",
}
KEY = ["sample", "norm", "suite"]
METADATA_KEY = b"temper"


@dataclass(frozen=True)
class EvidenceTable:
    """Evidence on the margins of one model's decisions on one data set.

    Attributes:
        frame: one row per sample, norm and suite, sorted, with the columns of :data:`COLUMNS`: ``upper`` is the
            smallest distance of a verified flip (inf: none found), ``survived`` the largest eps at which the suite
            searched and found nothing (0: never searched), ``attack`` the one that set ``upper``, ``forward`` and
            ``backward`` the passes spent.
        identity: fingerprints of model, preprocessing and data, as ``{"model": ..., "data": ...}``.
        provenance: what else a reader wants to know: suites with their attacks and budgets, seeds, version.
    """

    frame: pd.DataFrame
    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        missing = [column for column in COLUMNS if column not in self.frame.columns]
        if missing:
            raise EvidenceError(f"evidence lacks the column {missing[0]}; it needs {', '.join(COLUMNS)}")
        frame = self.frame[list(COLUMNS)].astype(COLUMNS).sort_values(KEY, ignore_index=True)
        twice = frame.duplicated(KEY)
        if twice.any():
            raise EvidenceError(f"two rows of evidence on {frame.loc[twice.idxmax(), KEY].to_dict()}: merge them")
        if frame[["upper", "survived"]].isna().any(axis=None) or (frame[["upper", "survived"]] < 0).any(axis=None):
            raise EvidenceError("upper and survived must be numbers of at least 0 (inf: no flip, 0: not searched)")
        object.__setattr__(self, "frame", frame)

    def __len__(self) -> int:
        """Number of samples."""
        return int(self.frame["sample"].nunique())

    @property
    def norms(self) -> list[str]:
        """Norms that were searched in."""
        return sorted(self.frame["norm"].unique())

    def merge(self, other: "EvidenceTable") -> "EvidenceTable":
        """Both tables' evidence: per sample, norm and suite the smaller ``upper`` and the larger ``survived``.

        Commutative, associative and idempotent, so tables may come from any number of workers, in any order,
        repeatedly.

        Raises:
            EvidenceError: the tables are of different models, preprocessing or data.
        """
        for part, own in self.identity.items():
            if other.identity.get(part) != own:
                raise EvidenceError(
                    f"the tables are of different {part}s ({own} and {other.identity.get(part)}); evidence on one "
                    "says nothing about the other"
                )
        both = pd.concat([self.frame, other.frame], ignore_index=True)
        # Sorted so that the first row of a group holds the smallest flip; equal ones go by the attack's name.
        both = both.sort_values([*KEY, "upper", "attack"], ignore_index=True)
        groups = both.groupby(KEY, sort=False)
        if (groups[["label", "prediction"]].nunique() > 1).any(axis=None):
            raise EvidenceError("the tables disagree about a label or prediction; is the model random?")
        merged = groups.first()
        merged[["survived", "forward", "backward"]] = groups[["survived", "forward", "backward"]].max()
        return EvidenceTable(merged.reset_index(), self.identity, _merge_notes(self.provenance, other.provenance))

    def to_pandas(self) -> pd.DataFrame:
        """A copy of the rows."""
        return self.frame.copy()

    def save(self, path: Path) -> None:
        """Write Parquet with identity and provenance in the file's metadata."""
        content = pa.Table.from_pandas(self.frame, preserve_index=False)
        notes = {"identity": dict(self.identity), "provenance": dict(self.provenance)}
        content = content.replace_schema_metadata({METADATA_KEY: json.dumps(notes, sort_keys=True)})
        with written(path) as unfinished:
            pq.write_table(content, unfinished)

    @classmethod
    def load(cls, path: Path) -> "EvidenceTable":
        """Read what :meth:`save` wrote.

        Raises:
            EvidenceError: the file cannot be read or is not an evidence table.
        """
        try:
            content = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise EvidenceError(f"{path}: cannot be read as Parquet ({error})") from None
        notes = (content.schema.metadata or {}).get(METADATA_KEY)
        if notes is None:
            raise EvidenceError(f"{path}: is not an evidence table (no temper metadata)")
        known = json.loads(notes)
        return cls(content.to_pandas(), known["identity"], known["provenance"])

    def clean_accuracy(self) -> Estimate:
        """See :func:`temper.margins.metrics.clean_accuracy`."""
        return metrics.clean_accuracy(self)

    def robust_accuracy(self, norm: str, eps: float, suite: str | None = None) -> Estimate:
        """See :func:`temper.margins.metrics.robust_accuracy`."""
        return metrics.robust_accuracy(self, norm, eps, suite)

    def accuracy_curve(self, norm: str, radii: Sequence[float], suite: str | None = None) -> list[Estimate]:
        """See :func:`temper.margins.metrics.accuracy_curve`."""
        return metrics.accuracy_curve(self, norm, radii, suite)

    def expected_robustness(
        self, norm: str, eps: float, suite: str | None = None, *, points: int | None = None
    ) -> Estimate:
        """See :func:`temper.margins.metrics.expected_robustness`."""
        return metrics.expected_robustness(self, norm, eps, suite, points=points)

    def passes(self) -> dict[str, int]:
        """Forward and backward passes spent on all samples together."""
        return {"forward": int(self.frame["forward"].sum()), "backward": int(self.frame["backward"].sum())}


def _merge_notes(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance of both: mappings are joined, lists united and sorted."""
    merged: dict[str, Any] = {}
    for key in sorted({*one, *other}):
        a, b = one.get(key), other.get(key)
        if a is None or b is None or a == b:
            merged[key] = b if a is None else a
        elif isinstance(a, Mapping) and isinstance(b, Mapping):
            merged[key] = _merge_notes(a, b)
        else:
            merged[key] = sorted({*_as_list(a), *_as_list(b)}, key=str)
    return merged


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def rows(
    *,
    samples: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    logit_margins: np.ndarray,
    norm: str,
    suite: str,
) -> pd.DataFrame:
    """Rows of samples that no search has touched yet: nothing found, nothing survived, no passes."""
    return pd.DataFrame(
        {
            "sample": samples,
            "label": labels,
            "prediction": predictions,
            "logit_margin": logit_margins,
            "norm": norm,
            "suite": suite,
            "upper": np.inf,
            "survived": 0.0,
            "attack": "",
            "forward": 0,
            "backward": 0,
        }
    )
