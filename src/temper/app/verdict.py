"""Whether a decision is brittle, and why, in words: what the search found first, then what the detector says."""

from dataclasses import dataclass
from typing import Literal

from temper.app.inspection import Found
from temper.deployment.prediction import Prediction
from temper.margins.detector import BrittlenessDetector
from temper.report.views import format_distance
from temper.threat import Threat


@dataclass(frozen=True)
class Verdict:
    """What to say of a decision.

    Attributes:
        kind: brittle, where a change was seen; suspect, where the detector flags what no change was seen of; quiet,
            where neither speaks; unknown, where nothing is known yet or could be.
        headline: in a few words. reasons: in sentences.
    """

    kind: Literal["brittle", "suspect", "quiet", "unknown"]
    headline: str
    reasons: tuple[str, ...]


def verdict(
    threat: Threat, decision: Prediction, detector: BrittlenessDetector | None, found: Found, becomes: str = ""
) -> Verdict:
    """What to say of a decision.

    Args:
        threat: norm, and the radius in which a change makes it brittle.
        decision: on the clean image.
        detector: what flagged it, if anything.
        found: how far the search has come.
        becomes: name of the class of the nearest change.
    """
    reasons = _searched(threat, found, becomes), _flagged(decision, detector)
    kind, headline = _headline(threat, decision, found)
    return Verdict(kind, headline, tuple(filter(None, reasons)))


def radius(threat: Threat) -> str:
    """A threat in words: Linf 8/255."""
    return f"{threat.norm} {format_distance(threat.eps, threat.norm)}"


def _headline(
    threat: Threat, decision: Prediction, found: Found
) -> tuple[Literal["brittle", "suspect", "quiet", "unknown"], str]:
    if found.nearest is not None and found.nearest.distance <= threat.eps:
        return "brittle", f"Brittle at {radius(threat)}"
    if decision.brittle:
        return "suspect", "Flagged as brittle"
    if not found.over:
        return "unknown", "Searching for a change"
    if found.blind:
        return "unknown", "Nothing is known"
    return "quiet", f"No change found within {radius(threat)}"


def _searched(threat: Threat, found: Found, becomes: str) -> str:
    within, more = radius(threat), "" if found.over else " The search for a nearer one goes on."
    if found.nearest is not None:
        away = radius(Threat(threat.norm, found.nearest.distance))
        if found.nearest.distance <= threat.eps:
            return f"An image {away} away is decided as {becomes}.{more}"
        beyond = f", beyond {within} as far as the search knows." if found.over else f".{more}"
        return f"The nearest image found that is decided otherwise, as {becomes}, is {away} away{beyond}"
    if not found.over:
        return ""
    if found.blind:
        return (
            "No gradient leads from the decision to the pixels, so the search had nothing to go by: the model cuts it"
            " off, or it vanishes. That is no sign of robustness."
        )
    return f"No image was found that is decided otherwise, within {within} or beyond, which is no proof that none is."


def _flagged(decision: Prediction, detector: BrittlenessDetector | None) -> str:
    if detector is None:
        return "No detector was fitted, so the logit margin tells nothing by itself; temper margins fits one."
    margin, threshold = f"{decision.margin:.3g}", f"{detector.threshold:.3g}"
    if decision.brittle:
        return f"The detector flags it: its logit margin, {margin}, is not above {threshold}."
    return (
        f"The detector lets it pass: its logit margin, {margin}, is above {threshold}. Of brittle decisions it lets"
        f" {100 * detector.alpha:.3g} % pass at most, on average."
    )
