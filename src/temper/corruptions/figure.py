"""The figure of a measurement: accuracy against severity, or per corruption where there is one severity."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from temper.core.drawing import PALETTE, STYLE
from temper.core.files import written
from temper.corruptions.catalogue import GROUPS, STAND_INS
from temper.corruptions.table import CLEAN, Condition, CorruptionTable

_MARKERS = ("o", "s", "^", "D")
_MUTED = "#566471"


def write_figure(table: CorruptionTable, cells: Sequence[Condition], path: Path) -> None:
    """Draw as SVG; the same numbers give the same bytes."""
    figure = accuracy_figure(table, cells)
    with matplotlib.rc_context(STYLE), written(path) as unfinished:
        figure.savefig(unfinished, format="svg", metadata={"Date": None})


@matplotlib.rc_context(STYLE)
def accuracy_figure(table: CorruptionTable, cells: Sequence[Condition]) -> Figure:
    """Accuracy with 95 % intervals: a panel per group of corruptions, or one of bars if there is one severity."""
    if len({severity for _, severity in cells}) == 1:
        return _bars(table, cells)
    groups = {group: [n for n in names if any(n == cell[0] for cell in cells)] for group, names in GROUPS.items()}
    shown = {group: names for group, names in groups.items() if names}
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (group, names) in zip(panels, shown.items(), strict=False):
        _curves(axes, table, names, cells)
        axes.set_title(group, fontsize=9, loc="left")
        axes.tick_params(labelbottom=True, labelleft=True)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    figure.supxlabel("severity (0: clean)", fontsize=9)
    figure.supylabel("accuracy", fontsize=9)
    return figure


def _curves(axes: Axes, table: CorruptionTable, names: Sequence[str], cells: Sequence[Condition]) -> None:
    for index, name in enumerate(names):
        points = [(CLEAN, 0), *sorted(cell for cell in cells if cell[0] == name)]
        at = [severity for _, severity in points]
        estimates = [table.accuracy(*cell) for cell in points]
        colour, marker = PALETTE[index % len(PALETTE)], _MARKERS[index % len(_MARKERS)]
        axes.fill_between(at, [e.low for e in estimates], [e.high for e in estimates], color=colour, alpha=0.15, lw=0)
        axes.plot(
            at,
            [e.value for e in estimates],
            marker=marker,
            ms=5,
            color=colour,
            label=_title(name),
        )
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_locator(MultipleLocator(1))
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.legend(fontsize=8, loc="best", frameon=True, framealpha=0.7, edgecolor="none")


def _bars(table: CorruptionTable, cells: Sequence[Condition]) -> Figure:
    figure = Figure(figsize=(4.6, 1.2 + 0.27 * len(cells)), layout="constrained")
    axes = figure.add_subplot()
    estimates = [table.accuracy(*cell) for cell in cells]
    places = range(len(cells))
    reach = [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
    axes.barh(places, [e.value for e in estimates], color=PALETTE[0], alpha=0.75, height=0.65)
    axes.errorbar([e.value for e in estimates], places, xerr=reach, fmt="none", ecolor="#1c2630", lw=1.1)
    clean = table.clean_accuracy().value
    axes.axvline(clean, color=_MUTED, ls="--", lw=1.2)
    axes.text(clean, -0.75, f"clean {clean:.0%}", ha="center", va="bottom", fontsize=8, color=_MUTED)
    axes.set_yticks(places, [_title(name) for name, _ in cells])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.set_xlabel(f"accuracy at severity {cells[0][1]}")
    return figure


def _title(name: str) -> str:
    return name.replace("_", " ") + (" (stand-in)" if name in STAND_INS else "")
