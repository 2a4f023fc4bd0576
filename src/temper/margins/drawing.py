"""What decisions and curves look like: drawn into axes that are given."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.legend import Legend
from numpy.typing import NDArray

from temper.core.drawing import DOTTED, MUTED, PALETTE, eps_ticks, percent_axis
from temper.margins.intervals import Estimate
from temper.threat import NORMS, Norm, Threat, format_eps

_BRITTLE, _ROBUST, _UNKNOWN = PALETTE[1], PALETTE[0], "#8a949d"


@dataclass(frozen=True)
class Points:
    """Decisions.

    Attributes:
        margins: float64 [N], pixel units of [0, 1], inf where none was found.
        scores: float64 [N], low for brittle.
        brittle, robust: bool [N]; decisions that are neither are unknown.
    """

    margins: NDArray[np.float64]
    scores: NDArray[np.float64]
    brittle: NDArray[np.bool_]
    robust: NDArray[np.bool_]


def scatter(
    axes: Axes, points: Points, threat: Threat, score: str = "logit margin", threshold: float | None = None
) -> None:
    """Score against input margin, one point per decision, and how many are brittle, robust and unknown.

    A decision that no flip was found of has no margin and no point; the legend counts it all the same.
    """
    unit, drawn = NORMS[threat.norm].unit, np.isfinite(points.margins)
    size = float(np.clip(6000 / len(drawn), 3, 16))
    for name, kind, colour, marker in (
        ("brittle", points.brittle, _BRITTLE, "o"),
        ("robust", points.robust, _ROBUST, "^"),
        ("unknown", ~points.brittle & ~points.robust, _UNKNOWN, "s"),
    ):
        if kind.any():
            hidden, at = int((kind & ~drawn).sum()), kind & drawn
            label = f"{name}: {kind.sum()}" + (f" ({hidden} not drawn)" if hidden else "")
            x, y = unit * points.margins[at], points.scores[at]
            shapes = axes.scatter(x, y, s=size, color=colour, marker=marker, label=label)
            shapes.set(linewidths=0, alpha=0.6, rasterized=True)
    label = f"ε = {format_eps(threat.norm, threat.eps)}"
    axes.axvline(unit * threat.eps, color=MUTED, lw=1.2, ls="--", label=label)
    if threshold is not None:
        axes.axhline(threshold, color=MUTED, lw=1.2, ls=":", label=f"flagged up to {threshold:.3g}")
    axes.set_xlim(left=0)
    axes.set_xlabel(f"input margin ({threat.norm})")
    axes.set_ylabel(score)
    eps_ticks(axes.xaxis, unit, intervals=5)


def legend(given: Legend) -> None:
    """Make the points of a legend as large and full as its text."""
    for handle in given.legend_handles:
        if isinstance(handle, PathCollection):
            handle.set(alpha=1, sizes=[24])


def roc(axes: Axes, points: Points, threshold: float) -> None:
    """Share of brittle decisions flagged against that of robust ones, at every threshold, and where this one is.

    Args:
        axes: where to.
        points: of which some are brittle and some robust; those that are neither are left out.
        threshold: scores up to here are flagged.
    """
    brittle, robust = np.sort(points.scores[points.brittle]), np.sort(points.scores[points.robust])
    cuts = np.concatenate([[-np.inf], np.unique(np.concatenate([brittle, robust]))])
    tpr, fpr = (np.searchsorted(each, cuts, side="right") / len(each) for each in (brittle, robust))
    axes.plot(fpr, tpr, color=PALETTE[0], label=f"{len(brittle)} brittle, {len(robust)} robust decisions")
    at = [np.searchsorted(each, threshold, side="right") / len(each) for each in (robust, brittle)]
    label = f"flagged up to {threshold:.3g}"
    axes.plot(*at, "o", color=PALETTE[1], label=label, clip_on=False)
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=DOTTED, label="by chance")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set_xlabel("robust decisions flagged")
    axes.set_ylabel("brittle decisions flagged")
    axes.legend(loc="lower right")


def curve(axes: Axes, norm: Norm, points: Mapping[float, Estimate], searched: set[float]) -> None:
    """Accuracy against epsilon, with the 95 % intervals as a band, and a mark where it was searched.

    A mark is hollow where some samples are unknown.

    Args:
        axes: where to.
        norm: of the radii.
        points: radius to accuracy, rising; those in between are from the evidence there.
        searched: radii that get a mark.
    """
    accuracy_line(axes, NORMS[norm].unit, points, [*searched], Look())
    axes.set_ylim(-0.02, 1.02)
    accuracy_axes(axes, norm)


@dataclass(frozen=True)
class Look:
    """How one of several lines is told from the others."""

    colour: str = PALETTE[0]
    marker: str = "o"
    line: str = "-"
    every: int = 1  # searched radius that gets a mark


def accuracy_line(
    axes: Axes, unit: int, points: Mapping[float, Estimate], searched: Sequence[float], look: Look
) -> None:
    """One line of :func:`curve`, with its band and marks, in ``unit`` parts of 1.

    It leaves out what leaves more unknown than the radii that were searched do.
    """
    colour, values = look.colour, [*points.values()]
    eps = [unit * radius for radius in points]
    axes.fill_between(eps, [v.low for v in values], [v.high for v in values], color=colour, alpha=0.2, lw=0)
    worst = max(points[radius].unknown for radius in searched)
    line = {unit * radius: each.value for radius, each in points.items() if each.unknown <= worst}
    axes.plot([*line], [*line.values()], color=colour, linestyle=look.line)
    for radius in searched[:: look.every]:
        face = "white" if points[radius].unknown > 0 else colour
        axes.plot(unit * radius, points[radius].value, look.marker, color=colour, markerfacecolor=face, markersize=5)


def accuracy_axes(axes: Axes, norm: Norm) -> None:
    """Axes of accuracy against the radii of a norm, when their lines are drawn."""
    axes.margins(x=0.02)
    axes.set_ylabel("accuracy")
    axes.set_xlabel(f"perturbation size ε ({norm})")
    percent_axis(axes)
    eps_ticks(axes.xaxis, NORMS[norm].unit, intervals=5)
