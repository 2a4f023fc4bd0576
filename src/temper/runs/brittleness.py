"""The report's part on brittle decisions, from what ``temper margins`` left in a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from temper.core.files import read_json
from temper.data.arrays import DAMAGE
from temper.detection.defence import Defence
from temper.errors import DamagedError, EvidenceError, RunError
from temper.margins import Estimate, EvidenceTable
from temper.margins.decisions import Brittleness, brittleness
from temper.margins.detection import risk_curve, roc_curve
from temper.margins.detector import conformal_threshold
from temper.report import BrittlenessView, DetectorView, SampleView, ScoreCurves
from temper.report.views import Curve
from temper.runs.results import FittedDetector, Refused, estimates
from temper.threat import Threat

SUITE = "margin"
SCORES, SUMMARY, ENDS = "scores.parquet", "brittleness.json", "ends.npz"
WEIGHTS = "equidistance.npy"  # distances between the weights of all pairs of classes
ALPHAS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)


def brittleness_view(folder: Path, table: EvidenceTable, ends: Sequence[SampleView]) -> BrittlenessView | None:
    """What the report shows of a folder's brittle decisions; None where none were measured.

    Args:
        folder: that holds the summary and the scores.
        table: the folder's evidence.
        ends: the least and the most brittle samples.

    Raises:
        RunError: a file of the folder cannot be read.
    """
    if not (folder / SUMMARY).exists():
        return None
    try:
        summary = read_json(folder / SUMMARY)
        threat = Threat(summary["threat"]["norm"], summary["threat"]["eps"])
        scores = pd.read_parquet(folder / SCORES, page_checksum_verification=True)
        weights = np.load(folder / WEIGHTS, allow_pickle=False) if (folder / WEIGHTS).exists() else None
        taus = {words(name): Estimate(**each["tau"]) for name, each in summary["consistency"].items()}
        detector, adaptive = _detector(summary["detector"]), _adaptive(summary.get("adaptive"))
    except (*DAMAGE, DamagedError, TypeError) as error:
        reason = " ".join(str(error).split()) or f"{WEIGHTS}: {type(error).__name__}"
        raise RunError(
            f"{folder}: its {SUMMARY}, {SCORES} or {WEIGHTS} cannot be read ({reason}); run temper margins again"
        ) from None
    decisions = brittleness(table, threat.norm, threat.eps, SUITE)
    return BrittlenessView(
        threat=threat,
        decisions=decisions,
        scores=_score_curves(decisions, scores.drop(columns="sample"), taus),
        detector=DetectorView(
            threshold=summary["detector"].get("threshold"),
            terms=detector_in_words(detector),
            attacks=attacks_in_words(adaptive),
        ),
        equidistance=weights,
        ends=ends,
    )


def _score_curves(decisions: Brittleness, scores: pd.DataFrame, taus: Mapping[str, Estimate]) -> ScoreCurves:
    columns = {words(str(name)): scores[name].to_numpy(np.float64) for name in scores.columns}
    both = bool(decisions.brittle.any() and decisions.robust.any())
    return ScoreCurves(
        taus=taus,
        roc={name: roc_curve(decisions, values) for name, values in columns.items()} if both else {},
        risk={name: risk_curve(decisions, values) for name, values in columns.items()},
        flag_rates={name: _flag_rates(decisions, values) for name, values in columns.items()},
    )


def _flag_rates(decisions: Brittleness, values: NDArray[np.float64]) -> Curve:
    """Share of all decisions that a detector fitted on them flags, at each alpha that they suffice for."""
    points = []
    for alpha in ALPHAS:
        try:
            threshold = conformal_threshold(values[decisions.brittle], alpha)
        except EvidenceError:  # too few brittle decisions for so small an alpha
            continue
        points.append((alpha, float((values <= threshold).mean())))
    alphas, rates = zip(*points, strict=True) if points else ((), ())
    return np.array(alphas), np.array(rates)


def detector_in_words(detector: FittedDetector | Refused) -> dict[str, str]:
    """The detector's terms and how it did, in words."""
    if isinstance(detector, Refused):
        return {"no detector": detector.reason}
    return {
        "flags": f"decisions whose logit margin is at most {detector.threshold:.4g}",
        "promise": f"on average at most {detector.alpha:.1%} of brittle decisions pass, for images like those"
        f" that the threshold was chosen on ({detector.brittle} brittle ones; with 95 % confidence in this choice"
        f" at most {detector.missed_at_most:.1%})",
        "brittle decisions that passed, other half": _share(detector.held_out.missed),
        "robust decisions flagged, other half": _share(detector.held_out.false_alarms),
        "all decisions flagged, other half": _share(detector.held_out.flagged),
    }


def attacks_in_words(adaptive: Mapping[str, Defence] | Refused | None) -> dict[str, dict[str, str]]:
    """What attackers of the detector achieve, by score, in words."""
    if adaptive is None or isinstance(adaptive, Refused):
        return {}
    return {
        words(score): {
            "brittle, passes unattacked": _share(each.missed),
            "adversarial image passes, detector unknown to the attacker": _share(each.plain_missed),
            "wrong class and passes, detector known": _share(each.evaded),
            "brittle, pushed past the detector": _share(each.raised),
        }
        for score, each in adaptive.items()
    }


def _detector(values: Mapping[str, Any]) -> FittedDetector | Refused:
    """A summary's detector."""
    return Refused(values["refused"]) if "refused" in values else FittedDetector.from_json(values)


def _adaptive(values: Mapping[str, Any] | None) -> dict[str, Defence] | None:
    """A summary's attacks on detectors; None where there are none."""
    if values is None or "refused" in values:
        return None
    return {score: Defence(**estimates(each)) for score, each in values.items()}


def words(name: str) -> str:
    """A score's name for people."""
    return name.replace("_", " ")


def _share(value: Estimate | None) -> str:
    return str(value) if value else "there are none"
