"""How every figure looks, and where one is drawn."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.legend import Legend
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator, PercentFormatter

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType  # newer than the oldest matplotlib that is allowed

# Okabe and Ito, "Color Universal Design" (2008): told apart with any colour vision. Their yellow is too pale
# on white and is left out.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#4d4d4d")
DOTTED = (0, (1, 1.5))

INK, MUTED, GRID = "#1c2630", "#566471", "#dde3e8"
WIDTH = 4.2  # inches

STYLE: "dict[RcKeyType, object]" = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "text.parse_math": False,  # names are people's own: a $ is a $
    "svg.fonttype": "path",
    "svg.hashsalt": "temper",  # the same views give the same bytes
}


@contextmanager
def drawing_into(axes: Axes | None) -> Iterator[Axes]:
    """In this style, the axes that are given, or new ones in a figure of pyplot's, which a notebook shows by itself."""
    with rc_context(STYLE):
        if axes is None:
            from matplotlib import pyplot

            axes = pyplot.figure(figsize=(WIDTH, 3.3), layout="constrained").add_subplot()
        yield axes


def legend_below(axes: Axes, *more: Axes) -> Legend:
    """A legend under axes, where it hides nothing, of what is drawn in them and in others on top of them."""
    handles = [handle for each in (axes, *more) for handle in each.get_legend_handles_labels()[0]]
    return axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)


def eps_ticks(axis: Axis, unit: int, intervals: int) -> None:
    """At most so many intervals on an axis of radii, which are drawn in ``unit`` parts of 1."""
    axis.set_major_locator(MaxNLocator(intervals, steps=[1, 2, 4, 5, 8, 10]))
    if unit != 1:
        axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}/{unit}" if tick else "0"))


def percent_axis(axes: Axes) -> None:
    """Shares on the vertical axis, in percent."""
    axes.yaxis.set_major_locator(MultipleLocator(0.2))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
