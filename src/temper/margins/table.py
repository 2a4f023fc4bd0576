"""The evidence table: what every search found, sample by sample, in a form that merges in any order."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from temper.core import notebook
from temper.core.parquet import read_table, write_table
from temper.errors import EvidenceError
from temper.margins import metrics
from temper.margins.intervals import Estimate
from temper.threat import Threat, check_norm, parse_threats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = 50  # of a curve between 0 and the largest radius
COLUMNS: dict[str, str] = {
    "sample": "int64",
    "label": "int64",
    "prediction": "int64",
    "logit_margin": "float64",
    "top_logit_1": "float64",
    "top_logit_2": "float64",
    "top_logit_3": "float64",
    "norm": "str",
    "suite": "str",
    "upper": "float64",
    "survived": "float64",
    "attack": "str",
    "seed": "int64",
    "forward": "int64",
    "backward": "int64",
}
KEY = ["norm", "suite", "sample"]
METADATA_KEY = b"temper"


@dataclass(frozen=True)
class Provenance:
    """Where evidence comes from.

    Attributes:
        suites: name to attacks and budgets; to ``{"name": ..., "attacks": [], "given": True}`` where no suite searched,
            but another tool of that name gave its adversarial images.
        radii: suite to norm to the radii that were searched, rising; none of images that were given.
        seeds: of the random starts; none of images that were given.
        versions: of Temper.
        precision: of the searches, and inside the model where it lowers its own; every flip was checked at what is full
            precision but for that.
    """

    suites: Mapping[str, Any]
    radii: Mapping[str, Mapping[str, list[float]]]
    seeds: list[int]
    versions: list[str]
    precision: list[str]

    def merge(self, other: "Provenance") -> "Provenance":
        """Of both; raises EvidenceError where one name stands for two suites."""
        for suite in {*self.suites} & {*other.suites}:
            if self.suites[suite] != other.suites[suite]:
                raise EvidenceError(
                    f"suite {suite} had other attacks or budgets in one table than in the other; "
                    "what one survived says nothing about the other"
                )
        return Provenance(
            suites={**self.suites, **other.suites},
            radii={suite: self._radii(other, suite) for suite in {*self.radii, *other.radii}},
            seeds=sorted({*self.seeds, *other.seeds}),
            versions=sorted({*self.versions, *other.versions}),
            precision=sorted({*self.precision, *other.precision}),
        )

    def _radii(self, other: "Provenance", suite: str) -> dict[str, list[float]]:
        one, two = self.radii.get(suite, {}), other.radii.get(suite, {})
        return {norm: sorted({*one.get(norm, []), *two.get(norm, [])}) for norm in {*one, *two}}


@dataclass(frozen=True)
class EvidenceTable:
    """Evidence on the margins of one model's decisions on one data set.

    Attributes:
        frame: one row per norm, suite and sample, sorted, with the columns of :data:`COLUMNS`: ``upper`` is the
            smallest distance of a verified flip (inf: none found), ``survived`` the largest eps at which the suite
            searched and found nothing (0: never searched), ``attack`` the one that set ``upper``, with random starts
            of ``seed``, ``forward`` and ``backward`` the passes spent on the search. Of images that another tool gave,
            ``suite`` and ``attack`` are its name, ``survived`` and ``seed`` 0, the passes those of checking them.
            ``top_logit_1`` to ``_3`` are the largest logits of the clean image (nan for a third of two),
            ``logit_margin`` is the first less the second.
        identity: fingerprints of model, preprocessing and data, as ``{"model": ..., "data": ...}``; of a random model
            that was measured in expectation also ``"eot"``, the passes for an answer.
        provenance: suites, radii, seeds, versions.

    Raises:
        EvidenceError: the frame is not such a table.
    """

    frame: pd.DataFrame
    identity: Mapping[str, Any]
    provenance: Provenance

    def __post_init__(self) -> None:
        missing = [column for column in COLUMNS if column not in self.frame.columns]
        if missing:
            raise EvidenceError(f"evidence lacks the column {missing[0]}; it needs {', '.join(COLUMNS)}")
        if self.frame.empty:
            raise EvidenceError("evidence needs at least one sample")
        try:
            frame = self.frame[list(COLUMNS)].astype(COLUMNS).sort_values(KEY, ignore_index=True)
        except (ValueError, TypeError) as error:
            raise EvidenceError(f"evidence has values of the wrong kind ({error})") from None
        twice = frame[frame.duplicated(KEY)]
        if len(twice):
            raise EvidenceError(f"two rows of evidence on {twice[KEY].iloc[0].to_dict()}: merge them")
        distances = frame[["upper", "survived"]]
        if not (distances >= 0).all(axis=None):
            raise EvidenceError("upper and survived must be numbers of at least 0 (inf: no flip, 0: not searched)")
        _check_one_decision(frame)
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
        repeatedly. For that the passes are the larger of both, too, not their sum.

        Raises:
            EvidenceError: the tables are of different models, preprocessing, data or suites of one name.
        """
        self.check_identity(other.identity)
        both = pd.concat([self.frame, other.frame], ignore_index=True)
        _check_one_decision(both)
        # The smallest flip comes first; the other columns settle ties, so that no order of merging matters.
        both = both.sort_values([*KEY, "upper", "attack", "seed", "logit_margin"])
        merged = both.drop_duplicates(KEY).set_index(KEY)
        largest = ["survived", "forward", "backward"]
        merged[largest] = both.groupby(KEY)[largest].max()
        return EvidenceTable(merged.reset_index(), self.identity, self.provenance.merge(other.provenance))

    def check_identity(self, identity: Mapping[str, Any]) -> None:
        """Raise EvidenceError unless evidence with these fingerprints is on the same model and data."""
        for part in sorted({*self.identity, *identity}):
            one, two = self.identity.get(part), identity.get(part)
            if one != two and part == "eot":
                own, asked = (f"eot = {each}" if each else "no eot" for each in (one, two))
                raise EvidenceError(f"the evidence is of {own}, not of {asked}, and says nothing about this one")
            if one != two:
                raise EvidenceError(f"the evidence is on another {part}, and says nothing about this one")

    def is_given(self, suite: str) -> bool:
        """Whether rows of this name are of images that another tool gave, and not of a search."""
        return bool(self.provenance.suites.get(suite, {}).get("given", False))

    def nearest(self, norm: str) -> "pd.Series[float]":
        """By sample id, the distance of the nearest flip that any suite found in this norm; inf where none did."""
        return self.frame[self.frame["norm"] == norm].groupby("sample")["upper"].min()

    def take(self, samples: NDArray[np.int64]) -> "EvidenceTable":
        """The evidence on the samples of these ids.

        Raises:
            EvidenceError: none of them is in the table.
        """
        return EvidenceTable(self.frame[self.frame["sample"].isin(samples)], self.identity, self.provenance)

    def to_pandas(self) -> pd.DataFrame:
        """A copy of the rows."""
        return self.frame.copy()

    def save(self, path: str | Path) -> None:
        """Write Parquet with identity and provenance in the file's metadata."""
        notes = {"identity": dict(self.identity), "provenance": asdict(self.provenance)}
        write_table(Path(path), self.frame, METADATA_KEY, notes)

    @classmethod
    def load(cls, path: str | Path) -> "EvidenceTable":
        """Read what :meth:`save` wrote.

        Raises:
            DamagedError: the file was cut short or overwritten since.
            EvidenceError: it cannot be read or is not an evidence table.
        """
        frame, notes = read_table(Path(path), METADATA_KEY, "not an evidence table")
        try:
            identity, provenance = notes["identity"], Provenance(**notes["provenance"])
        except (KeyError, TypeError):
            raise EvidenceError(f"{path}: is not an evidence table (temper's metadata is not in it)") from None
        try:
            return cls(frame, identity, provenance)
        except EvidenceError as error:
            raise EvidenceError(f"{path}: {error}") from None

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
        self, norm: str, eps: float, suite: str | None = None, *, grid: Sequence[float] | None = None
    ) -> Estimate:
        """See :func:`temper.margins.metrics.expected_robustness`."""
        return metrics.expected_robustness(self, norm, eps, suite, grid=grid)

    def mean_margin(self, norm: str, suite: str | None = None) -> Estimate:
        """See :func:`temper.margins.metrics.mean_margin`."""
        return metrics.mean_margin(self, norm, suite)

    def union_robust_accuracy(self, threats: str | Sequence[str], suite: str | None = None) -> Estimate:
        """See :func:`temper.margins.metrics.union_robust_accuracy`; ``threats`` such as ``"Linf:4/255 L2:0.5"``."""
        return metrics.union_robust_accuracy(self, parse_threats(threats), suite)

    def plot(self, norm: str | None = None, suite: str | None = None, ax: "Axes | None" = None) -> "Axes":
        """Draw accuracy against epsilon with its 95 % interval; hollow marks are radii with unknown samples.

        Args:
            norm: may be left out where evidence is in one.
            suite: whose survival counts; may be left out where one searched.
            ax: where to; new axes by default, which a notebook shows.

        Raises:
            EvidenceError: several norms or suites and none named, or nothing was searched at any radius.
        """
        from temper.core.drawing import drawing_into
        from temper.margins.drawing import curve

        chosen, radii = self._searched(norm, suite)
        steps = sorted({0.0, *radii, *(radii[-1] * step / STEPS for step in range(1, STEPS))})
        points = dict(zip(steps, self.accuracy_curve(chosen, steps, suite), strict=True))
        with drawing_into(ax) as axes:
            curve(axes, check_norm(chosen), points, {0.0, *radii})
        return axes

    def _searched(self, norm: str | None, suite: str | None) -> tuple[str, list[float]]:
        """The norm that is meant, and the radii that were searched in it, rising."""
        if norm is None and len(self.norms) > 1:
            raise EvidenceError(f"evidence is in several norms ({', '.join(self.norms)}): say which one to draw")
        chosen = norm or self.norms[0]
        radii = self.provenance.radii.get(metrics.chosen_suite(self, chosen, suite), {}).get(chosen, [])
        if not radii:
            raise EvidenceError(f"no suite searched in {chosen}, so there is no curve; temper evaluate searches")
        return chosen, radii

    def _repr_html_(self) -> str:
        facts = [f"{len(self):,} samples, clean accuracy {self.clean_accuracy()}"]
        facts += [f"images given by {suite}" for suite in self.provenance.suites if self.is_given(suite)]
        rows = [
            (Threat(check_norm(norm), eps), suite, *_cells(self.robust_accuracy(norm, eps, suite)))
            for suite, norms in sorted(self.provenance.radii.items())
            for norm, radii in sorted(norms.items())
            for eps in radii
        ]
        head = ("perturbation", "suite", "robust accuracy", "95 % interval", "unknown")
        return notebook.page("Evidence on the margins of a model's decisions", facts, head, rows)

    def passes(self) -> dict[str, int]:
        """Forward and backward passes that the searches spent on all samples together."""
        return {"forward": int(self.frame["forward"].sum()), "backward": int(self.frame["backward"].sum())}


def _cells(share: Estimate) -> tuple[str, str, str]:
    return f"{share.value:.1%}", f"{share.low:.1%} to {share.high:.1%}", f"{share.unknown:.1%}"


def _check_one_decision(frame: pd.DataFrame) -> None:
    decisions = frame.drop_duplicates(["sample", "label", "prediction"])
    twice = decisions[decisions.duplicated("sample")]
    if len(twice):
        sample = twice["sample"].iloc[0]
        raise EvidenceError(f"evidence disagrees about label or prediction of sample {sample}; is the model random?")
