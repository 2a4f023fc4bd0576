"""The report's figures, each a function from views to a matplotlib Figure.

They are as wide as a phone's column or half a desktop's, so that their text stays readable on both. No
pyplot: a figure belongs to whoever asked for it, and no window or global state is touched.
"""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from temper.core.drawing import DOTTED, MUTED, PALETTE, STYLE, WIDTH, eps_ticks, percent_axis
from temper.errors import ArgumentError
from temper.margins.drawing import Look, accuracy_axes, accuracy_line
from temper.report.views import RunView, SampleView
from temper.text import masked
from temper.threat import NORMS, check_norm

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_LINES = ("-", "--", "-.", ":")
_MOST_MARKERS = 17  # of one curve: 0/255 to 16/255


def run_colour(index: int) -> str:
    """Colour of the run at this place among the views, the same in every figure and table."""
    return PALETTE[index % len(PALETTE)]


@matplotlib.rc_context(STYLE)
def accuracy_curve(views: Sequence[RunView], norm: str) -> Figure:
    """Accuracy against epsilon in ``norm``, one line per run that has it, with the 95 % intervals as bands.

    A point is hollow where some samples are unknown. Between the curve's points the line follows the estimates between
    them that leave no more unknown than the points do, and is straight elsewhere.

    Raises:
        ArgumentError: when no view has a curve in this norm.
    """
    shown = [index for index, view in enumerate(views) if norm in view.curves and view.curves[norm].points]
    if not shown:
        raise ArgumentError("norm", norm, "no view has an accuracy curve in this norm")
    checked = check_norm(norm)
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    axes = figure.add_subplot()
    for index in shown:
        curve = views[index].curves[norm]
        radii, band = sorted(curve.points), dict(sorted({**curve.between, **curve.points}.items()))
        every = math.ceil(len(radii) / _MOST_MARKERS)
        look = Look(run_colour(index), _run_marker(index), _run_line(index), every)
        accuracy_line(axes, NORMS[checked].unit, band, radii, look)
    axes.set_ylim(-0.02, 1.0)
    accuracy_axes(axes, checked)
    _legend(figure, views, shown, markers=True)
    return figure


@matplotlib.rc_context(STYLE)
def training_curves(views: Sequence[RunView]) -> Figure:
    """Accuracy and loss in training, one line per run, over the schedules of epsilon and learning rate.

    The panels share the axis of epochs. Epsilon is in its norm's unit, n/255 in Linf, where the runs have it in common.

    Raises:
        ArgumentError: when no view has a history.
    """
    shown = [index for index, view in enumerate(views) if view.training.epochs]
    if not shown:
        raise ArgumentError("views", [view.name for view in views], "none has a training history")
    units = {NORMS[views[index].training.norm].unit for index in shown}
    unit = units.pop() if len(units) == 1 else 1
    figure = Figure(figsize=(WIDTH, 5.8), layout="constrained")
    accuracy, loss, eps, lr = figure.subplots(4, 1, sharex=True, height_ratios=(3, 2, 1.5, 1))
    for index in shown:
        rows = views[index].training.epochs
        epochs = [row.epoch for row in rows]
        marker = "." if len(rows) == 1 else ""  # one point makes no line
        style = {"color": run_colour(index), "linestyle": _run_line(index), "marker": marker}
        validated = [row for row in rows if row.validation_accuracy is not None]
        accuracy.plot([row.epoch for row in validated], [row.validation_accuracy for row in validated], **style)
        accuracy.plot(epochs, [row.train_accuracy for row in rows], **(style | {"lw": 1, "linestyle": DOTTED}))
        loss.plot(epochs, [row.train_loss for row in rows], **style)
        eps.plot(epochs, [unit * row.eps for row in rows], **style)
        lr.plot(epochs, [row.lr for row in rows], **style)
    accuracy.set_ylabel("accuracy")
    accuracy.set_ylim(0, 1)
    percent_axis(accuracy)
    loss.set_ylabel("training loss")
    eps.set_ylabel("ε in training")
    eps_ticks(eps.yaxis, unit, intervals=3)
    lr.set_ylabel("learning\nrate")
    lr.yaxis.set_major_locator(MaxNLocator(2))
    lr.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for axes in (loss, eps, lr):
        top = axes.dataLim.y1 or 1.0
        axes.set_ylim(-0.06 * top, 1.08 * top)  # a line at 0 stays in sight
    lr.set_xlabel("epoch")
    lr.set_xlim(0, 1.02 * max(row.epoch for index in shown for row in views[index].training.epochs))
    lr.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    figure.align_ylabels()
    kinds = [
        Line2D([], [], color=MUTED, label="validation, clean images"),
        Line2D([], [], color=MUTED, lw=1, ls=DOTTED, label="training, images as trained on"),
    ]
    accuracy.legend(handles=kinds, loc="lower right", fontsize=8)
    _legend(figure, views, shown, markers=False)
    return figure


@matplotlib.rc_context(STYLE)
def robust_overfitting(views: Sequence[RunView]) -> Figure:
    """Accuracy on attacked training images and robust accuracy on validation images, epoch by epoch.

    A ring marks the epoch whose weights were kept, at its validation accuracy.

    Raises:
        ArgumentError: when robust accuracy was measured in no view's training.
    """
    shown = [index for index, view in enumerate(views) if robust_epochs(view)]
    if not shown:
        raise ArgumentError("views", [view.name for view in views], "none has robust validation accuracies")
    figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
    axes = figure.add_subplot()
    for index in shown:
        training, measured, colour = views[index].training, robust_epochs(views[index]), run_colour(index)
        epochs = [row.epoch for row in training.epochs]
        marker = "." if len(measured) == 1 else ""  # one point makes no line
        axes.plot([*measured], [*measured.values()], color=colour, linestyle=_run_line(index), marker=marker)
        axes.plot(epochs, [row.train_accuracy for row in training.epochs], color=colour, lw=1, linestyle=DOTTED)
        if training.kept in measured:
            axes.plot(training.kept, measured[training.kept], "o", ms=7, mfc="none", mec=colour, mew=1.5)
    axes.set_ylim(-0.02, 1.0)
    axes.set_ylabel("accuracy")
    percent_axis(axes)
    axes.set_xlabel("epoch")
    axes.set_xlim(0, 1.02 * max(row.epoch for index in shown for row in views[index].training.epochs))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    kinds = [
        Line2D([], [], color=MUTED, lw=1, ls=DOTTED, label="training, images as trained on"),
        Line2D([], [], color=MUTED, label="validation, robust at the target ε"),
        Line2D([], [], color=MUTED, ls="", marker="o", ms=7, mfc="none", mew=1.5, label="weights kept"),
    ]
    axes.legend(handles=kinds, loc="best", fontsize=8)
    _legend(figure, views, shown, markers=False)
    return figure


def robust_epochs(view: RunView) -> dict[float, float]:
    """Robust accuracy on the validation images by epoch, where it was measured."""
    rows = [(row.epoch, row.robust_validation_accuracy) for row in view.training.epochs]
    return {epoch: accuracy for epoch, accuracy in rows if accuracy is not None}


def magnified_difference(sample: SampleView) -> tuple[NDArray[np.floating], int]:
    """What the attack added, around mid-grey, and the whole number it was magnified by to fill the range.

    Returns:
        float [H, W, C] in [0, 1], where 0.5 is "unchanged", and the magnification (at least 1).
    """
    difference = sample.adversarial - sample.image / 255
    largest = float(np.abs(difference).max())
    factor = max(1, math.floor(0.5 / largest)) if largest > 0 else 1
    return np.clip(0.5 + factor * difference, 0.0, 1.0), factor


def as_rgb(image: NDArray[np.floating]) -> NDArray[np.floating]:
    """Grey or colour float [H, W, 1 or 3] as colour [H, W, 3], clipped to [0, 1]."""
    return np.clip(np.broadcast_to(image, (*image.shape[:2], 3)), 0.0, 1.0)


def _run_line(index: int) -> str:
    return _LINES[index // len(PALETTE) % len(_LINES)]


def _run_marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def _legend(figure: Figure, views: Sequence[RunView], shown: Sequence[int], *, markers: bool) -> None:
    size = 5 if markers else 0
    names = [short(views[index].name) for index in shown]
    handles = [
        Line2D([], [], color=run_colour(i), ls=_run_line(i), marker=_run_marker(i), ms=size, label=name)
        for i, name in zip(shown, names, strict=True)
    ]
    longest = max(map(len, names))
    columns = 3 if longest <= 16 else 2 if longest <= 26 else 1
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def short(name: str, longest: int = 44) -> str:
    """A name as a figure has room for: without credentials, and of a long one the two ends, for what differs is often
    the last part."""
    name = masked(name)
    return name if len(name) <= longest else f"{name[: longest // 2 - 1]}…{name[-(longest - longest // 2) :]}"
