"""A training in one pair of axes: accuracy by epoch, and epsilon behind it."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from temper.core.drawing import DOTTED, MUTED, PALETTE, eps_ticks, legend_below, percent_axis
from temper.threat import NORMS, Norm


def training(axes: Axes, rows: Sequence[Mapping[str, Any]], norm: Norm) -> None:
    """Draw the epochs of a run.

    Args:
        axes: where to; a second vertical axis, of epsilon, is added.
        rows: an epoch each, with ``epoch``, ``eps``, ``train_accuracy`` and ``validation_accuracy`` (may be None).
        norm: of eps.
    """
    epochs, unit = [row["epoch"] for row in rows], NORMS[norm].unit
    behind = axes.twinx()
    behind.bar(epochs, [unit * row["eps"] for row in rows], width=1, color=MUTED, alpha=0.15, label="ε")
    behind.set_ylim(0, 1.05 * max(unit * row["eps"] for row in rows) or 1)
    behind.set_ylabel(f"ε in training ({norm})")
    behind.grid(False)
    eps_ticks(behind.yaxis, unit, intervals=4)
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)
    known = [row for row in rows if row["validation_accuracy"] is not None]
    validated = [row["epoch"] for row in known], [row["validation_accuracy"] for row in known]
    axes.plot(*validated, color=PALETTE[0], marker=".", label="validation, clean images")
    seen = [row["train_accuracy"] for row in rows]
    axes.plot(epochs, seen, color=PALETTE[1], ls=DOTTED, marker=".", label="training, images as trained on")
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("accuracy")
    axes.set_xlabel("epoch")
    percent_axis(axes)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    legend_below(axes, behind)
