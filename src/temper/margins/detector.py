"""A detector of brittle decisions with a guarantee: a threshold on the logit margin, chosen by conformal risk control
(Angelopoulos, Bates, Fisch, Lei and Schuster 2024, arXiv:2208.02814)."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from temper.core import notebook
from temper.core.files import write_json
from temper.errors import ArgumentError, EvidenceError
from temper.margins import intervals
from temper.margins.decisions import brittleness
from temper.margins.intervals import LEVEL, Estimate
from temper.margins.table import EvidenceTable
from temper.threat import Threat, check_norm, parse_threats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from torch import Tensor

    from temper.margins.drawing import Points

FORMAT = 1
LEAST_ALPHA = 1e-6  # takes a million brittle decisions to calibrate on
DETECTOR = "detector.json"  # where a folder keeps one


def check_alpha(alpha: float) -> None:
    """Refuse a share that no detector can promise.

    Raises:
        ArgumentError: see above.
    """
    if not LEAST_ALPHA <= alpha < 1:
        fix = f"must lie between 0 and 1, as 0.05 for 5 %, and be {LEAST_ALPHA:g} at least"
        raise ArgumentError("alpha", alpha, fix)


def conformal_threshold(scores: NDArray[np.float64], alpha: float) -> float:
    """The threshold below or at which at least 1 - alpha of brittle decisions score, one to come included.

    Of n scores of brittle decisions and one more that is exchangeable with them, the last exceeds the k-th smallest of
    the n, k = ceil((n + 1)(1 - alpha)), with a probability of at most alpha: conformal risk control (arXiv:2208.02814,
    theorem 1) for the loss "brittle and not flagged". Ties only lower it.

    Args:
        scores: float64 [n], of brittle decisions that chose nothing else.
        alpha: in (0, 1).

    Raises:
        ArgumentError: alpha is out of range. EvidenceError: so few scores that no threshold can promise it.
    """
    check_alpha(alpha)
    rank = _rank(len(scores), alpha)
    if rank > len(scores):
        needed = math.ceil((1 - alpha) / alpha - 1e-9)
        raise EvidenceError(
            f"{len(scores)} brittle decisions are too few to calibrate on: to let at most {alpha:.3g} of them pass"
            f" takes {needed}; calibrate on more samples, at a larger radius, or allow a larger alpha"
        )
    return float(np.sort(scores)[rank - 1])


@dataclass(frozen=True)
class Detection:
    """How a detector does on decisions that it was not fitted on.

    Attributes:
        missed: share of the brittle decisions that pass unflagged; None where there are none.
        false_alarms: share of the robust decisions that are flagged; None where there are none.
        flagged: share of all decisions that are flagged.
        unknown: share of decisions that no search has settled; they are left out of the first two.
    """

    missed: Estimate | None
    false_alarms: Estimate | None
    flagged: Estimate
    unknown: float


@dataclass(frozen=True)
class Calibration:
    """The decisions that a detector's threshold was chosen on.

    Attributes:
        flag_rate: share of them that are flagged: what the guarantee costs.
        brittle: how many were brittle; the threshold rests on these.
        unknown: how many no search had settled; they were left out.
        suite: whose search told brittle decisions from others.
        identity: fingerprints of model and data, as an evidence table holds them.
        samples: their ids.
    """

    flag_rate: Estimate
    brittle: int
    unknown: int
    suite: str
    identity: Mapping[str, Any]
    samples: tuple[int, ...]


@dataclass(frozen=True)
class BrittlenessDetector:
    """Flags decisions whose logit margin is at most a threshold.

    The threshold promises: of brittle decisions (a flip within ``eps`` that the suite can find), a share of at most
    ``alpha`` passes unflagged on average, over calibration samples and decisions that are drawn alike (exchangeable).
    It promises nothing about images from elsewhere, nor about an attacker who knows the detector (``temper margins
    --adaptive`` measures that).

    Attributes:
        threat: norm and radius.
        alpha: largest share of brittle decisions that may pass.
        threshold: logit margins up to here are flagged.
        calibration: what the threshold was chosen on.
    """

    threat: Threat
    alpha: float
    threshold: float
    calibration: Calibration

    @classmethod
    def fit(
        cls, table: EvidenceTable, threat: str, alpha: float = 0.05, suite: str | None = None
    ) -> "BrittlenessDetector":
        """Choose the threshold on the decisions of a table, right and wrong ones.

        Args:
            table: evidence on samples that were not used otherwise, best of the suite ``margin``.
            threat: such as ``"Linf:8/255"``.
            alpha: largest share of brittle decisions that may pass unflagged.
            suite: whose survival counts; may be left out where there is one.

        Raises:
            ArgumentError: alpha is out of range, or the threat is none or several.
            EvidenceError: too few brittle decisions, nothing settled, or margins that are no numbers.
        """
        chosen = single_threat(threat)
        decisions = brittleness(table, chosen.norm, chosen.eps, suite)
        threshold = conformal_threshold(decisions.logit_margin[decisions.brittle], alpha)
        flagged = decisions.logit_margin <= threshold
        calibration = Calibration(
            flag_rate=intervals.share(flagged),
            brittle=int(decisions.brittle.sum()),
            unknown=int(decisions.unknown.sum()),
            suite=decisions.suite,
            identity=dict(table.identity),
            samples=tuple(decisions.sample.tolist()),
        )
        return cls(chosen, alpha, threshold, calibration)

    def flag(self, logits: "Tensor") -> "Tensor":
        """Which decisions are flagged as brittle: logits [N, K] -> bool [N].

        Raises:
            ArgumentError: logits that are not numbers, or of a single class.
        """
        from temper.margins.scores import logit_margin  # evidence is read without torch

        return logit_margin(logits) <= self.threshold

    def detect(self, table: EvidenceTable) -> Detection:
        """How the detector does on other samples.

        Raises:
            EvidenceError: the table is of another model, or shares samples with the calibration.
        """
        if table.identity.get("model") != self.calibration.identity.get("model"):
            raise EvidenceError("the detector was fitted for another model; fit one for this model")
        if table.identity.get("data") == self.calibration.identity.get("data"):
            shared = sorted({*table.frame["sample"].tolist()} & {*self.calibration.samples})
            if shared:
                raise EvidenceError(
                    f"{len(shared)} samples (first {shared[0]}) were used to fit the detector; measure it on others"
                )
        decisions = brittleness(table, self.threat.norm, self.threat.eps, self.calibration.suite)
        flagged = decisions.logit_margin <= self.threshold
        return Detection(
            missed=intervals.share_among(~flagged, decisions.brittle),
            false_alarms=intervals.share_among(flagged, decisions.robust),
            flagged=intervals.share(flagged),
            unknown=float(decisions.unknown.mean()),
        )

    def plot(self, table: EvidenceTable, ax: "Axes | None" = None) -> "Axes":
        """Draw the decisions of a table, logit margin against input margin, with the threshold and the radius.

        A decision that no flip was found of has no point; the legend counts it. New axes by default, which a notebook
        shows. Raises as :func:`temper.margins.decisions.brittleness`.
        """
        from temper.core.drawing import drawing_into, legend_below
        from temper.margins import drawing

        points = self._points(table)
        with drawing_into(ax) as axes:
            drawing.scatter(axes, points, self.threat, threshold=self.threshold)
            drawing.legend(legend_below(axes))
        return axes

    def plot_roc(self, table: EvidenceTable, ax: "Axes | None" = None) -> "Axes":
        """Draw which share of a table's brittle and of its robust decisions each threshold flags, and this one.

        Raises:
            EvidenceError: no decision is brittle, or none robust, or as :meth:`plot`.
        """
        from temper.core.drawing import drawing_into
        from temper.margins import drawing

        points = self._points(table)
        for kind, found in (("brittle", points.brittle), ("robust", points.robust)):
            if not found.any():
                raise EvidenceError(f"no decision is {kind} at {self.threat}; a ROC curve takes both kinds")
        with drawing_into(ax) as axes:
            drawing.roc(axes, points, self.threshold)
        return axes

    def _points(self, table: EvidenceTable) -> "Points":
        from temper.margins.drawing import Points

        found = brittleness(table, self.threat.norm, self.threat.eps, self.calibration.suite)
        return Points(found.margin, found.logit_margin, found.brittle, found.robust)

    def _repr_html_(self) -> str:
        made = self.calibration
        rows = [
            ("flags decisions with a logit margin of at most", f"{self.threshold:.4g}"),
            ("lets pass of brittle decisions, on average, at most", f"{self.alpha:.1%}"),
            ("that share, with 95 % confidence in this calibration, at most", f"{self.missed_at_most():.1%}"),
            ("flags of the decisions it was calibrated on", made.flag_rate),
            ("calibrated on brittle decisions", made.brittle),
            ("left out, since no search had settled them", made.unknown),
            ("suite", made.suite),
        ]
        return notebook.page(f"Detector of decisions that {self.threat} may flip", [], rows=rows)

    def missed_at_most(self, confidence: float = LEVEL) -> float:
        """What the share that passes stays below, with this confidence over the choice of the calibration samples.

        The average over such choices is what ``alpha`` bounds; with this very choice the share is a draw from a beta
        distribution (Vovk 2012, arXiv:1209.2673, proposition 2).
        """
        brittle = self.calibration.brittle
        rank = _rank(brittle, self.alpha)
        return float(beta.ppf(confidence, brittle + 1 - rank, rank))

    def save(self, path: str | Path) -> None:
        """Write the detector as JSON."""
        terms = {"alpha": self.alpha, "threshold": self.threshold}
        flat = {**asdict(self.threat), **terms, **asdict(self.calibration)}
        write_json(Path(path), {"temper_detector": FORMAT, **flat})

    @classmethod
    def load(cls, path: str | Path, identity: Mapping[str, Any] | None = None) -> "BrittlenessDetector":
        """Read what :meth:`save` wrote.

        Args:
            path: of the JSON file.
            identity: the model's fingerprints, ``table.identity["model"]``; the detector must be of that model.

        Raises:
            EvidenceError: the file cannot be read, is no detector, or is one for another model.
        """
        try:
            content = json.loads(Path(path).read_text())
            version = content.pop("temper_detector")
            threat = Threat(check_norm(content.pop("norm")), content.pop("eps"))
            alpha, threshold = content.pop("alpha"), content.pop("threshold")
            content |= {"flag_rate": Estimate(**content["flag_rate"]), "samples": tuple(content["samples"])}
            detector = cls(threat, alpha, threshold, Calibration(**content))
        except OSError as error:
            raise EvidenceError(f"{path}: cannot be read ({error.strerror})") from None
        except (ValueError, AttributeError, KeyError, TypeError):
            raise EvidenceError(f"{path}: is not a detector's file; fit it again with temper margins") from None
        if version != FORMAT:
            raise EvidenceError(f"{path}: was written by another version of temper; fit the detector again")
        if identity is not None and dict(identity) != dict(detector.calibration.identity.get("model", {})):
            raise EvidenceError(f"{path}: the detector was fitted for another model; fit one for this model")
        return detector


def single_threat(text: str) -> Threat:
    """The one threat in a text such as ``Linf:8/255``; raises ArgumentError where there is none or several."""
    threats = parse_threats(text)
    if len(threats) != 1:
        raise ArgumentError("threat", text, "give one norm and one radius, as Linf:8/255")
    return threats[0]


def _rank(count: int, alpha: float) -> int:
    """k = ceil((n + 1)(1 - alpha)), free of rounding, at least 1."""
    return max(math.ceil((count + 1) * (1 - alpha) - 1e-9), 1)
