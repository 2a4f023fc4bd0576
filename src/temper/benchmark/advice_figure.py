"""The picture of advice: what was scored, and what of it is to be expected."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from temper.benchmark.advice import WORDS, Advice, Choice
from temper.core.drawing import INK, MUTED, PALETTE, STYLE
from temper.core.files import written

FIGURE_FILE = "advice.svg"


def write_figure(advice: Advice, folder: Path) -> Path:
    """Draw into ``advice.svg`` of the folder; the same advice gives the same bytes."""
    path, figure = folder / FIGURE_FILE, advice_figure(advice)
    with matplotlib.rc_context(STYLE), written(path) as unfinished:
        figure.savefig(unfinished, format="svg", metadata={"Date": None})
    return path


@matplotlib.rc_context(STYLE)
def advice_figure(advice: Advice) -> Figure:
    """The choice, its rivals and the best of the other protocols: the score as it is in the results, the score to
    expect with its 95 % interval, and the chance of being the best."""
    first, *others = advice.choices
    shown = [first, *advice.rivals, *(each for each in others if each not in advice.rivals)]
    figure = Figure(figsize=(8.4, 1.7 + 0.4 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(shown))
    expected = np.array([each.shrunk.value for each in shown])
    reach = [expected - [each.shrunk.low for each in shown], [each.shrunk.high for each in shown] - expected]
    axes.errorbar(expected, places, xerr=reach, fmt="o", ms=6, color=PALETTE[0], label="to expect, 95 % interval")
    scores = [each.score.value for each in shown]
    axes.plot(scores, places, "o", ms=7, mfc="none", mec=PALETTE[1], mew=1.5, ls="", label="in the results, flattered")
    flattery = advice.flattery
    if not np.isnan(flattery.expected):
        word = WORDS[flattery.draws]
        axes.axvline(
            flattery.expected, color=MUTED, ls="--", lw=1.2, label=f"a choice made so, on a {word} that is held out"
        )
    for place, each in enumerate(shown):
        if not np.isnan(each.chance):
            axes.annotate(
                f"{each.chance:.0%}", (1.01, place), xycoords=("axes fraction", "data"), va="center", color=INK
            )
    axes.annotate("best", (1.01, -0.7), xycoords=("axes fraction", "data"), va="center", color=MUTED)
    axes.set_yticks(places, [_name(each) for each in shown])
    axes.set_ylim(len(shown) - 0.5, -0.9)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(left=0)
    axes.set_xlabel("sum of the perturbations' accuracies, mean over data sets")
    figure.legend(loc="outside lower center", ncols=3)
    measured = ", not measured by Temper" if advice.published else ""
    axes.set_title(f"From {advice.source}{measured}", loc="left", fontsize=9, color=MUTED)
    return figure


def _name(choice: Choice) -> str:
    configuration = choice.configuration
    schedule = "" if configuration.schedule == "fixed" else f", {configuration.schedule}"
    return f"{configuration.backbone}\n{configuration.objective}{schedule}, {choice.protocol}"
