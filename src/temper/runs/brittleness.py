"""The report's part on brittle decisions, from what ``temper margins`` left in a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from temper.core.files import read_json
from temper.data.arrays import DAMAGE
from temper.errors import DamagedError, EvidenceError, RunError
from temper.margins import Estimate, EvidenceTable
from temper.margins.decisions import Brittleness, brittleness
from temper.margins.detection import risk_curve, roc_curve
from temper.margins.detector import conformal_threshold
from temper.report import BrittlenessView, SampleView

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
        norm, eps = summary["threat"]["norm"], summary["threat"]["eps"]
        scores = pd.read_parquet(folder / SCORES, page_checksum_verification=True)
        weights = np.load(folder / WEIGHTS, allow_pickle=False) if (folder / WEIGHTS).exists() else None
    except (*DAMAGE, DamagedError) as error:
        reason = " ".join(str(error).split()) or f"{WEIGHTS}: {type(error).__name__}"
        raise RunError(
            f"{folder}: its {SUMMARY}, {SCORES} or {WEIGHTS} cannot be read ({reason}); run temper margins again"
        ) from None
    found = brittleness(table, norm, eps, SUITE)
    columns = {name: scores[name].to_numpy(np.float64) for name in scores.columns if name != "sample"}
    both = bool(found.brittle.any() and found.robust.any())
    return BrittlenessView(
        norm=norm,
        eps=eps,
        margins=found.margin,
        scores=found.logit_margin,
        brittle=found.brittle,
        robust=found.robust,
        threshold=summary["detector"].get("threshold"),
        taus={words(name): Estimate(**each["tau"]) for name, each in summary["consistency"].items()},
        roc={words(name): roc_curve(found, values) for name, values in columns.items()} if both else {},
        risk={words(name): risk_curve(found, values) for name, values in columns.items()},
        flag_rates={words(name): _flag_rates(found, values) for name, values in columns.items()},
        equidistance=weights,
        detector=detector_in_words(summary),
        attacks=attacks_in_words(summary),
        ends=ends,
    )


def _flag_rates(found: Brittleness, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of all decisions that a detector fitted on them flags, at each alpha that they suffice for."""
    points = []
    for alpha in ALPHAS:
        try:
            threshold = conformal_threshold(values[found.brittle], alpha)
        except EvidenceError:  # too few brittle decisions for so small an alpha
            continue
        points.append((alpha, float((values <= threshold).mean())))
    alphas, rates = zip(*points, strict=True) if points else ((), ())
    return np.array(alphas), np.array(rates)


def detector_in_words(summary: Mapping[str, Any]) -> dict[str, str]:
    """The detector's terms and how it did, in words."""
    detector = summary["detector"]
    if "refused" in detector:
        return {"no detector": detector["refused"]}
    held_out = detector["held_out"]
    return {
        "flags": f"decisions whose logit margin is at most {detector['threshold']:.4g}",
        "promise": f"on average at most {detector['alpha']:.1%} of brittle decisions pass, for images like those"
        f" that the threshold was chosen on ({detector['brittle']} brittle ones; with 95 % confidence in this choice"
        f" at most {detector['missed_at_most']:.1%})",
        "brittle decisions that passed, other half": _share(held_out["missed"]),
        "robust decisions flagged, other half": _share(held_out["false_alarms"]),
        "all decisions flagged, other half": _share(held_out["flagged"]),
    }


def attacks_in_words(summary: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What attackers of the detector achieve, by score, in words."""
    adaptive = summary.get("adaptive", {})
    if "refused" in adaptive:
        return {}
    titles = {
        "missed": "brittle, passes unattacked",
        "plain_missed": "adversarial image passes, detector unknown to the attacker",
        "evaded": "wrong class and passes, detector known",
        "raised": "brittle, pushed past the detector",
    }
    return {
        words(score): {title: _share(each[key]) for key, title in titles.items()} for score, each in adaptive.items()
    }


def words(name: str) -> str:
    """A score's name for people."""
    return name.replace("_", " ")


def _share(numbers: dict[str, Any] | None) -> str:
    return str(Estimate(**numbers)) if numbers else "there are none"
