"""docs/study.md and its figures, from the committed rows alone."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import study_answers as answers
from committed_rows import KEY, Planned, Rows, from_hex, store_rows
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from study_cells import COMPARED, CURVE, EPSILONS, EVERYWHERE, PARTS
from winner_answers import section

from temper.benchmark.configuration import FACTORS
from temper.benchmark.transfer import with_severity

PAGE, FIGURES = "study.md", "study"
COLOURS = {"standard": "#0072b2", "fixed": "#d55e00", "hinge": "#009e73"}
INTRODUCTION = Path(__file__).with_name("introduction.md")
RATES = Path(__file__).with_name("learning_rates.csv")
WINNER = Path(__file__).with_name("winner")  # the rows of winner.py


def write_page(rows: Rows, plan: Sequence[Planned], docs: Path) -> None:
    """Write the page and its figures into ``docs``; where there is no row yet, what is asked and how."""
    frame = store_rows(rows, plan)
    if frame.empty:
        nothing = f"**So far: 0 of {len(plan)} cells.** Nothing is measured yet."
        (docs / PAGE).write_text("\n".join([*_opening(plan), nothing]) + "\n")
        return
    frame = with_severity(frame)
    (docs / FIGURES).mkdir(exist_ok=True)
    matplotlib.rcParams["svg.hashsalt"] = "temper"
    clean_against_eps(frame, plan).savefig(docs / FIGURES / "clean.svg", metadata={"Date": None})
    validation(rows.read("history"), plan).savefig(docs / FIGURES / "validation.svg", metadata={"Date": None})
    (docs / PAGE).write_text("\n".join(_page(frame, rows.read("outcomes"), plan)) + "\n")


def _page(frame: pd.DataFrame, outcomes: pd.DataFrame, plan: Sequence[Planned]) -> Iterator[str]:
    yield from [*_opening(plan), *_progress(frame, plan)]
    yield from ["", "## What it says so far", ""]
    yield from ["![clean accuracy against the epsilon of training, by backbone and data set](study/clean.svg)", ""]
    yield from _answers(frame)
    yield from ["", "How clean validation accuracy grew, at 8/255 and 4/255 (a line per seed):", ""]
    yield "![clean validation accuracy, epoch by epoch](study/validation.svg)"
    yield from ["", "## A schedule that wins on both?", "", *_WINNER, "", *section(Rows(WINNER))]
    for eps in EPSILONS:
        own = frame[frame["eps"] == eps]
        yield from [
            "",
            f"## Measured at Linf {eps}/255",
            "",
            *(answers.mean_table(own) if len(own) else ["Nothing yet."]),
        ]
    yield from ["", "## Tests", "", _TESTS, "", *answers.test_table(frame)]
    yield from ["", "## Leaderboard", "", _RANKS, ""]
    for eps in EVERYWHERE:
        yield from [f"### Linf {eps}/255", "", *_leaderboard(frame, outcomes, eps), ""]
    yield "All numbers: [results.csv](../benchmarks/study/results.csv), a row per cell with its intervals and curve;"
    yield "[history.csv](../benchmarks/study/history.csv), its epochs."


_TESTS = (
    "Paired t-tests against fixed epsilon. A pair is a backbone on a data set, its seeds averaged first, as they "
    "repeat one another; p-values are corrected by Holm for all the rows of the table. Pairs share backbones and data."
)
_WINNER = (
    "As good as fixed epsilon at the full epsilon, and as hinge in expected robustness: asked of one cell, MobileNetV2",
    "on Caltech101 at Linf 4/255, on 400 test images and three seeds on which nothing was chosen (10, 11, 12).",
    "By `python benchmarks/study/winner.py --data DATA`; [rows](../benchmarks/study/winner/results.csv).",
)
_RANKS = (
    "Borda points over both data sets and the accuracies clean, at eps, L2, L1 and common; intervals of ranks over "
    "test images and seeds, of the seeds for which every backbone, data set and schedule compared is there."
)


def _answers(frame: pd.DataFrame) -> Iterator[str]:
    for question, answer in {
        "Does fixed epsilon fail here?": answers.fails(frame),
        "From which epsilon on?": answers.onset(frame, *CURVE),
        "Does the schedule cure it?": answers.cure(frame),
        "What does it cost at the full epsilon?": answers.price(frame),
        "Does the ranking of backbones change?": answers.ranking(frame),
        "Which of the paper's statements hold?": answers.statements(frame),
    }.items():
        yield f"- **{question}** {answer}"


def _progress(frame: pd.DataFrame, plan: Sequence[Planned]) -> Iterator[str]:
    """How many cells of each part there are, and what they cost."""
    there = set(frame[KEY].itertuples(index=False, name=None))
    said = []
    for part in PARTS:
        own = [each.key in there for each in plan if each.part == part]
        said.append(f"{part} {sum(own)} of {len(own)}")
    hours, left = frame["seconds"].sum() / 3600, len(plan) - len(frame)
    yield f"**So far: {len(frame)} of {len(plan)} cells** ({'; '.join(said)}), which took {hours:.1f} hours, a process"
    yield f"on one core each. What follows rests on these; {left} cells are not measured, and nothing is said of them."
    yield "A cell is a backbone, data set, way of training and seed, measured at one epsilon."


def _opening(plan: Sequence[Planned]) -> list[str]:
    return [INTRODUCTION.read_text().rstrip(), "", *_rates(plan), "", "## How far it is", ""]


def _rates(plan: Sequence[Planned]) -> Iterator[str]:
    """What the learning rate was chosen by."""
    last = pd.read_csv(RATES).groupby("learning_rate").last()
    whole = last["epoch"].max()
    said = []
    for rate, row in last.iterrows():
        stopped = "" if row["epoch"] == whole else f" after {row['epoch']:.0f} epochs, where it was stopped"
        said.append(f"{rate:g}: {row['validation_accuracy']:.1%}{stopped}")
    yield "The learning rate, one for all cells, was chosen by clean validation accuracy of MobileNetV2 on Caltech101,"
    yield f"at a fixed 4/255, with seed 100, which is not used below: {'; '.join(said)}. It is"
    yield f"{plan[0].cell.config.optimiser.backbone_lr:g}."


def _leaderboard(frame: pd.DataFrame, outcomes: pd.DataFrame, eps: int) -> Iterator[str]:
    own = frame[frame["eps"] == eps]
    kept = _whole(own)
    if kept.empty:
        yield "Not to be told yet: no seed has every backbone and data set with the schedules compared."
        return
    by_sample = _unpacked(outcomes[outcomes["eps"] == eps]).merge(kept[[*FACTORS]])
    yield from answers.leaderboard(kept, by_sample)


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the ways of training that some seed has for every backbone and data set, and of the seeds that have
    all of these."""
    places = 6  # three backbones on two data sets
    counts = rows.groupby(["objective", "schedule", "seed"])["clean"].transform("size")
    rows = rows[counts == places]
    methods = len(rows[["objective", "schedule"]].drop_duplicates())
    return rows[rows.groupby("seed")["clean"].transform("size") == places * methods]


def _unpacked(outcomes: pd.DataFrame) -> pd.DataFrame:
    """What happened to every sample, a row each."""
    frames = []
    for row in outcomes.to_dict("records"):
        n = int(row["n"])
        bits = {name: from_hex(str(row[name]), n) for name in answers.SCORED}
        frames.append(pd.DataFrame({name: row[name] for name in FACTORS} | {"sample": np.arange(n)} | bits))
    return pd.concat(frames, ignore_index=True)


# --- figures --------------------------------------------------------------------------------------


def _panels(plan: Sequence[Planned], height: float) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """A figure with a panel per backbone (columns) and data set (rows)."""
    backbones = list(dict.fromkeys(str(each.cell.factors["backbone"]) for each in plan))
    datasets = list(dict.fromkeys(str(each.cell.factors["dataset"]) for each in plan))
    figure = Figure(figsize=(3.4 * len(backbones), height * len(datasets)), layout="constrained")
    axes = figure.subplots(len(datasets), len(backbones), sharex=True, sharey="row", squeeze=False)
    panels = {
        (backbone, dataset): axes[row][column]
        for row, dataset in enumerate(datasets)
        for column, backbone in enumerate(backbones)
    }
    for (backbone, dataset), panel in panels.items():
        panel.set_title(f"{backbone}, {dataset}", fontsize=9)
        panel.grid(alpha=0.3)
    return figure, panels


def clean_against_eps(frame: pd.DataFrame, plan: Sequence[Planned]) -> Figure:
    """Clean accuracy against the epsilon of training: the paper's Figure 1, with the schedule beside it."""
    figure, panels = _panels(plan, 2.8)
    for (backbone, dataset), panel in panels.items():
        own = frame[(frame["backbone"] == backbone) & (frame["dataset"] == dataset)]
        standard = own[own["objective"] == "standard"].drop_duplicates("seed")
        if len(standard):
            panel.axhline(standard["clean"].mean(), color=COLOURS["standard"], linestyle=":", label="standard")
        for schedule in COMPARED:
            runs = own[(own["objective"] == "at") & (own["schedule"] == schedule)]
            means = runs.groupby("eps")["clean"].mean()
            panel.plot(means.index, means.to_numpy(), color=COLOURS[schedule], label=f"{schedule}, mean")
            panel.plot(runs["eps"], runs["clean"], ".", color=COLOURS[schedule])
        if own.empty:
            panel.text(0.5, 0.5, "not measured yet", ha="center", va="center", transform=panel.transAxes, color="grey")
        panel.set(xlim=(0, 8.5), xticks=(1, 2, 4, 8), ylim=(0, 1))
        if len(own):
            panel.legend(frameon=False, fontsize=7)
    figure.supxlabel("epsilon of training (n/255, Linf)", fontsize=9)
    figure.supylabel("clean accuracy (100 test images)", fontsize=9)
    return figure


def validation(history: pd.DataFrame, plan: Sequence[Planned]) -> Figure:
    """Clean validation accuracy epoch by epoch: how late a task is learnt."""
    figure, panels = _panels(plan, 2.8)
    history = history[history["eps"].isin(EVERYWHERE)]
    for (backbone, dataset), panel in panels.items():
        own = history[(history["backbone"] == backbone) & (history["dataset"] == dataset)]
        for (objective, schedule, eps, _), run in own.groupby(["objective", "schedule", "eps", "seed"], sort=False):
            method = str(objective if objective == "standard" else schedule)
            if method not in COLOURS or (objective == "standard" and eps != EVERYWHERE[0]):
                continue
            label = method if objective == "standard" else f"{method}, {eps}/255"
            style = "--" if eps != EVERYWHERE[0] else "-"
            panel.plot(run["epoch"], run["validation_accuracy"], style, color=COLOURS[method], label=label, alpha=0.8)
        if own.empty:
            panel.text(0.5, 0.5, "not measured yet", ha="center", va="center", transform=panel.transAxes, color="grey")
        panel.set(ylim=(0, 1))
        named = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
        if named:
            panel.legend(list(named.values()), list(named), frameon=False, fontsize=7)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("clean validation accuracy", fontsize=9)
    return figure
