"""Figures of margin consistency and of the detection of brittle decisions, from plain numbers to a matplotlib Figure.

What they show follows arXiv:2406.18451, sections 2 and 3; their style is that of :mod:`temper.report.figures`.
"""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from numpy.typing import NDArray

from temper.core.drawing import DOTTED, INK, MUTED, PALETTE, STYLE, WIDTH
from temper.errors import ArgumentError
from temper.margins import drawing
from temper.margins.intervals import Estimate
from temper.report.figures import run_colour, short
from temper.report.views import Curve
from temper.threat import Threat, check_norm

_DASHES = ("-", "--", "-.", ":")  # for a second round through the colours
_ROW = 0.34  # inches, of a bar or box
_DPI = 200  # of the points of a scatter: they are one picture, for thousands of shapes make a page slow


@matplotlib.rc_context(STYLE)
def margin_scatter(
    margins: NDArray[np.float64],
    scores: NDArray[np.float64],
    brittle: NDArray[np.bool_],
    robust: NDArray[np.bool_],
    *,
    norm: str,
    eps: float,
    score: str = "logit margin",
    threshold: float | None = None,
) -> Figure:
    """Score against input margin, one point per decision, and how many are brittle, robust and unknown.

    A decision that no flip was found of has no margin and no point; the legend counts it all the same.

    Args:
        margins: float64 [N], pixel units of [0, 1], inf where none was found.
        scores: float64 [N], low for brittle.
        brittle, robust: bool [N]; decisions that are neither are unknown.
        norm: of the margins; those of Linf are shown in n/255.
        eps: radius that brittle and robust refer to, drawn as a line.
        score: what the scores are called.
        threshold: up to which decisions are flagged, drawn as a line; None draws none.

    Raises:
        ArgumentError: no margin is finite, or the arrays differ in length.
    """
    if not len(margins) == len(scores) == len(brittle) == len(robust):
        lengths = (len(margins), len(scores), len(brittle), len(robust))
        raise ArgumentError("margins, scores, brittle, robust", lengths, "must be of one length")
    if not np.isfinite(margins).any():
        raise ArgumentError("margins", f"{len(margins)} of them", "none is finite, so there is no point to draw")
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained", dpi=_DPI)
    points = drawing.Points(margins, scores, brittle, robust)
    drawing.scatter(figure.add_subplot(), points, Threat(check_norm(norm), eps), score, threshold)
    drawing.legend(figure.legend(loc="outside lower center", ncols=2))
    return figure


@matplotlib.rc_context(STYLE)
def roc(curves: Mapping[str, Curve]) -> Figure:
    """Share of brittle decisions flagged (TPR) against share of robust ones flagged (FPR), one line per name.

    Args:
        curves: name to (fpr, tpr), each rising from 0 to 1.

    Raises:
        ArgumentError: there are no curves.
    """
    figure, axes = _lines(curves, height=4.3)
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=DOTTED, label="by chance")
    axes.axhline(0.95, color=MUTED, lw=0.8, zorder=1)
    axes.annotate("95 %", (1.01, 0.95), xytext=(3, 0), textcoords="offset points", va="center", color=MUTED)
    axes.set_aspect("equal")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.xaxis.set_major_locator(MultipleLocator(0.2))
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.set_xlabel("robust decisions flagged (FPR)")
    axes.set_ylabel("brittle decisions flagged (TPR)")
    _legend(figure, [*curves, "by chance"])
    return figure


@matplotlib.rc_context(STYLE)
def risk_curves(curves: Mapping[str, Curve]) -> Figure:
    """Share of brittle decisions among those kept, against the share kept, one line per name.

    Args:
        curves: name to (kept, risk).

    Raises:
        ArgumentError: there are no curves.
    """
    figure, axes = _lines(curves, height=3.5)
    axes.set_xlim(1.01, -0.01)  # nothing is flagged at the left, all but the safest at the right
    axes.xaxis.set_major_locator(MultipleLocator(0.2))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("decisions kept (the lowest scores are flagged first)")
    axes.set_ylabel("brittle among those kept")
    _legend(figure, list(curves))
    return figure


@matplotlib.rc_context(STYLE)
def flag_rate_against_alpha(curves: Mapping[str, Curve]) -> Figure:
    """What a promise costs: share of decisions flagged against the share of brittle ones that may pass, per name.

    Args:
        curves: name to (alphas, flag rates).

    Raises:
        ArgumentError: there are no curves.
    """
    figure, axes = _lines(curves, height=3.5)
    for line in axes.get_lines():
        line.set_marker("o")
        line.set_markersize(4)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.01)
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.set_xlabel("brittle decisions that may pass (α)")
    axes.set_ylabel("decisions flagged")
    _legend(figure, list(curves))
    return figure


@matplotlib.rc_context(STYLE)
def equidistance_boxplot(distances: Mapping[str, NDArray[np.float64]]) -> Figure:
    """How equal the distances between the classes' weights are, each model's divided by their median.

    Boxes show quartiles and whiskers the whole range. Were the distances all equal (arXiv:2406.18451, eq. 3), logit and
    feature margin would rank alike.

    Args:
        distances: name to the distances of all pairs of classes, float64 [K (K - 1) / 2].

    Raises:
        ArgumentError: there are no distances, or their median is 0.
    """
    _check_some("distances", distances)
    for name, values in distances.items():
        if not len(values) or not np.median(values) > 0:
            raise ArgumentError(f"distances[{name!r}]", f"{len(values)} of them", "must have a median above 0")
    figure, axes = _rows(list(distances))
    for index, values in enumerate(distances.values()):
        least, first, third, most = np.quantile(values, [0, 0.25, 0.75, 1]) / np.median(values)
        axes.errorbar(1, index, xerr=[[1 - least], [most - 1]], color=MUTED, elinewidth=1.2, capsize=4, zorder=1)
        axes.barh(index, third - first, left=first, height=0.55, color=run_colour(index), zorder=2)
        axes.plot([1, 1], [index - 0.275, index + 0.275], color="white", lw=1.5, solid_capstyle="butt", zorder=3)
    axes.axvline(1, color=MUTED, lw=1, ls=DOTTED, zorder=0)
    figure.supxlabel("distance between two classes' weights / median", fontsize=9)
    return figure


@matplotlib.rc_context(STYLE)
def tau_bars(estimates: Mapping[str, Estimate]) -> Figure:
    """Kendall's tau-b of margin and score, a bar with its 95 % interval per name.

    Raises:
        ArgumentError: there are no estimates.
    """
    _check_some("estimates", estimates)
    figure, axes = _rows(list(estimates))
    for index, each in enumerate(estimates.values()):
        axes.barh(index, each.value, height=0.6, color=run_colour(index), alpha=0.55)
        axes.errorbar(
            each.value,
            index,
            xerr=[[each.value - each.low], [each.high - each.value]],
            color=INK,
            elinewidth=1.2,
            capsize=3,
        )
        axes.annotate(
            f"{each.value:.2f}", (max(each.high, 0), index), xytext=(5, 0), textcoords="offset points", va="center"
        )
    lowest = min(each.low for each in estimates.values())
    axes.set_xlim(min(0, lowest - 0.05), 1.12)  # a tau of 1 has its number beside it, too
    axes.axvline(0, color=MUTED, lw=1)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    figure.supxlabel("Kendall's τ-b of input margin and score", fontsize=9)
    return figure


def _lines(curves: Mapping[str, Curve], height: float) -> tuple[Figure, Axes]:
    """A figure of shares with a line per name."""
    _check_some("curves", curves)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, (x, y)) in enumerate(curves.items()):
        dashes = _DASHES[index // len(PALETTE) % len(_DASHES)]
        axes.plot(x, y, label=short(name), color=run_colour(index), linestyle=dashes)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g} %"))
    return figure, axes


def _rows(names: Sequence[str]) -> tuple[Figure, Axes]:
    """A figure with a row per name, the first on top."""
    figure = Figure(figsize=(WIDTH, 0.8 + _ROW * len(names)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(names)), [short(name, 22) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    return figure, axes


def _legend(figure: Figure, names: Sequence[str]) -> None:
    longest = max(len(short(name)) for name in names)
    figure.legend(loc="outside lower center", ncols=3 if longest <= 16 else 2 if longest <= 26 else 1)


def _check_some(argument: str, given: Mapping[str, object]) -> None:
    if not given:
        raise ArgumentError(argument, dict(given), "give at least one, by name")
