"""What the page of a report lays out, made of views: pictures as data URLs, numbers as words."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from temper.core.drawing import STYLE
from temper.margins.intervals import Estimate
from temper.report.brittleness_figures import (
    equidistance_boxplot,
    flag_rate_against_alpha,
    margin_scatter,
    risk_curves,
    roc,
    tau_bars,
)
from temper.report.figures import (
    accuracy_curve,
    as_rgb,
    magnified_difference,
    robust_epochs,
    robust_overfitting,
    run_colour,
    training_curves,
)
from temper.report.views import BrittlenessView, RunView, SampleView, format_distance

_SMOOTH_FROM = 96  # pixels; smaller images are shown with their pixels visible


@dataclass(frozen=True)
class Picture:
    """An image; ``alt`` tells those who cannot see it what it shows."""

    url: str
    alt: str
    pixelated: bool = False


@dataclass(frozen=True)
class IntervalBar:
    """Where the band of an interval and the mark of its estimate stand, in percent."""

    low: str
    width: str
    mark: str


@dataclass(frozen=True)
class ResultCell:
    """An estimate in words; ``unknown`` is empty where nothing is."""

    value: str
    interval: str
    n: str
    unknown: str
    bar: IntervalBar


@dataclass(frozen=True)
class Panel:
    """One picture of a sample, and the words under it."""

    picture: Picture
    kind: str
    words: str


@dataclass(frozen=True)
class SampleCard:
    """A sample's image, its adversarial image and their difference."""

    panels: Sequence[Panel]
    label: str
    distance: str


@dataclass(frozen=True)
class BrittlenessCard:
    """A run's brittle decisions; a plot that there is not is None."""

    radius: str
    plots: Mapping[str, Picture | None]
    detector: Mapping[str, str]
    attacks: Mapping[str, Mapping[str, str]]
    ends: Sequence[SampleCard]


@dataclass(frozen=True)
class RobustnessCard:
    """How robust a run was while it was trained, in words; empty where nothing was measured."""

    best: str
    last: str
    kept: str
    passes: str


@dataclass(frozen=True)
class TransferCard:
    """How a run took to its task and to robustness, in words; empty where that is not known."""

    delay: str
    severity: str
    warnings: Sequence[str]
    robustness: RobustnessCard | None


@dataclass(frozen=True)
class RunCard:
    """One run; its cells are by column, and there is none where it has no such number."""

    name: str
    colour: str
    cells: Mapping[str, ResultCell]
    transfer: TransferCard
    brittleness: BrittlenessCard | None
    samples: Sequence[SampleCard]
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Page:
    """A whole report; ``lead`` is empty or says what it shows, ``curves`` are by norm."""

    title: str
    lead: str
    columns: Sequence[str]
    runs: Sequence[RunCard]
    curves: Mapping[str, Picture]
    training: Picture | None
    overfitting: Picture | None


def page_of(views: Sequence[RunView], title: str, lead: str = "") -> Page:
    """What a report of these runs shows."""
    norms = dict.fromkeys(norm for view in views for norm, curve in view.curves.items() if curve.points)
    trained = any(view.training.epochs for view in views)
    return Page(
        title=title,
        lead=lead,
        columns=list(dict.fromkeys(column for view in views for column in view.table)),
        runs=[_run(view, run_colour(index)) for index, view in enumerate(views)],
        curves={norm: Picture(drawn(accuracy_curve(views, norm)), _curve_in_words(views, norm)) for norm in norms},
        training=Picture(drawn(training_curves(views)), _training_in_words(views)) if trained else None,
        overfitting=_overfitting(views),
    )


def drawn(figure: Figure) -> str:
    """A figure as a data URL."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _data_url(buffer, "image/svg+xml")


def _run(view: RunView, colour: str) -> RunCard:
    return RunCard(
        name=view.name,
        colour=colour,
        cells={column: _cell(estimate) for column, estimate in view.table.items()},
        transfer=_transfer(view),
        brittleness=_brittleness(view.brittleness) if view.brittleness else None,
        samples=[_sample(sample) for sample in view.samples],
        facts=view.facts,
    )


def _transfer(view: RunView) -> TransferCard:
    training, lost = view.training, view.training.severity
    severity = ""
    if lost:
        severity = f"{100 * lost.value:.1f} points ({100 * lost.low:.1f} to {100 * lost.high:.1f})"
    return TransferCard(training.delay, severity, training.warnings, _robustness(view))


def _robustness(view: RunView) -> RobustnessCard | None:
    measured, kept = robust_epochs(view), view.training.kept
    if not measured:
        return None
    (best, highest), (last, value) = max(measured.items(), key=lambda each: each[1]), list(measured.items())[-1]
    return RobustnessCard(
        best=f"{_percent(highest)} (epoch {best:g})",
        last=f"{_percent(value)} (epoch {last:g})",
        kept="" if kept is None else f"epoch {kept:g}",
        passes=view.training.passes,
    )


def _overfitting(views: Sequence[RunView]) -> Picture | None:
    cards = {view.name: card for view in views if (card := _robustness(view))}
    if not cards:
        return None
    words = "; ".join(f"{name}: at best {card.best}, at last {card.last}" for name, card in cards.items())
    alt = f"Lines over the epochs: accuracy on training images and robust accuracy on validation images. {words}."
    return Picture(drawn(robust_overfitting(views)), alt)


def _cell(estimate: Estimate) -> ResultCell:
    return ResultCell(
        value=_percent(estimate.value),
        interval=f"{100 * estimate.low:.1f} to {_percent(estimate.high)}",
        n=f"{estimate.n:,}",
        unknown=_percent(estimate.unknown) if estimate.unknown > 0 else "",
        bar=_bar(estimate),
    )


def _bar(estimate: Estimate) -> IntervalBar:
    low, high, middle = (100 * share for share in (estimate.low, estimate.high, estimate.value))
    return IntervalBar(f"{low:.2f}", f"{high - low:.2f}", f"{min(max(middle - 0.8, 0), 98.4):.2f}")


def _brittleness(view: BrittlenessView) -> BrittlenessCard:
    return BrittlenessCard(
        radius=f"{view.threat.norm} {format_distance(view.threat.eps, view.threat.norm)}",
        plots=_brittleness_plots(view),
        detector=view.detector.terms,
        attacks=view.detector.attacks,
        ends=[_sample(sample) for sample in view.ends],
    )


def _brittleness_plots(view: BrittlenessView) -> dict[str, Picture | None]:
    """The figures by what the template calls them."""
    scores, distances = view.scores, view.equidistance
    counts = f"{view.decisions.brittle.sum()} of {len(view.decisions.brittle)} decisions are brittle"
    rates = {name: curve for name, curve in scores.flag_rates.items() if len(curve[0])}
    figures = {
        "scatter": (_scatter(view), f"Logit margin against input margin; {counts}."),
        "taus": (tau_bars(scores.taus), "; ".join(f"{name}: {each.value:.2f}" for name, each in scores.taus.items())),
        "roc": (
            roc(scores.roc) if scores.roc else None,
            "Share of brittle decisions flagged against share of robust ones flagged.",
        ),
        "risk": (risk_curves(scores.risk), "Share of brittle decisions among those kept."),
        "flag_rates": (
            flag_rate_against_alpha(rates) if rates else None,
            "Share of decisions flagged against the share of brittle ones that may pass.",
        ),
        "equidistance": (
            None if distances is None else equidistance_boxplot({"pairs of classes": distances}),
            "Distances between the classes' weights, divided by their median.",
        ),
    }
    return {name: Picture(drawn(figure), alt) if figure else None for name, (figure, alt) in figures.items()}


def _scatter(view: BrittlenessView) -> Figure:
    decisions = view.decisions
    return margin_scatter(
        decisions.margin,
        decisions.logit_margin,
        decisions.brittle,
        decisions.robust,
        norm=view.threat.norm,
        eps=view.threat.eps,
        threshold=view.detector.threshold,
    )


def _sample(sample: SampleView) -> SampleCard:
    difference, factor = magnified_difference(sample)
    distance = f"{sample.norm} {format_distance(sample.distance, sample.norm)}"
    return SampleCard(
        panels=(
            Panel(picture(sample.image / 255, f"Image of class {sample.label}"), "predicted", sample.prediction),
            Panel(
                picture(sample.adversarial, f"Adversarial image, {distance}"),
                "predicted",
                sample.adversarial_prediction,
            ),
            Panel(
                picture(difference, f"Their difference, magnified {factor} times"),
                "difference",
                f"× {factor}",
            ),
        ),
        label=sample.label,
        distance=distance,
    )


def picture(image: NDArray[np.floating], alt: str) -> Picture:
    """An image float [H, W, 1 or 3] in [0, 1], in PNG."""
    buffer = io.BytesIO()
    imsave(buffer, as_rgb(image), format="png")
    return Picture(_data_url(buffer, "image/png"), alt, pixelated=max(image.shape[:2]) < _SMOOTH_FROM)


def _data_url(buffer: io.BytesIO, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _curve_in_words(views: Sequence[RunView], norm: str) -> str:
    lines = []
    for view in views:
        if norm in view.curves and (points := view.curves[norm].points):
            radii = sorted(points)
            ends = (radii[0], radii[len(radii) // 2], radii[-1]) if len(radii) > 2 else radii
            words = ", ".join(f"{_percent(points[eps].value)} at {format_distance(eps, norm)}" for eps in ends)
            lines.append(f"{view.name}: {words}")
    return f"Lines of accuracy against epsilon in {norm}. " + "; ".join(lines) + "."


def _training_in_words(views: Sequence[RunView]) -> str:
    lines = [
        f"{view.name}: {last.epoch:g} epochs, final loss {last.train_loss:.3g}, "
        f"epsilon from {format_distance(first.eps, view.training.norm)} "
        f"to {format_distance(last.eps, view.training.norm)}"
        for view in views
        if view.training.epochs
        for first, last in [(view.training.epochs[0], view.training.epochs[-1])]
    ]
    return "Lines over the epochs: accuracy, training loss, epsilon and learning rate. " + "; ".join(lines) + "."


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"
