"""The report as one HTML file that needs nothing else: no network, no scripts, figures and images inside."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from temper.core.files import WRONG_PLACE, written
from temper.errors import ArgumentError
from temper.report.brittleness_figures import (
    equidistance_boxplot,
    flag_rate_against_alpha,
    margin_scatter,
    risk_curves,
    roc,
    tau_bars,
)
from temper.report.figures import (
    STYLE,
    accuracy_curve,
    as_rgb,
    magnified_difference,
    run_colour,
    training_curves,
)
from temper.report.style import CSS
from temper.report.views import BrittlenessView, Estimate, RunView, SampleView, format_distance
from temper.text import escape

_SMOOTH_FROM = 96  # pixels; smaller images are shown with their pixels visible

_HOW_TO_READ = """
<section class="card read"><h2>How to read this</h2><dl>
<div><dt>Robust accuracy at ε</dt>
<dd>The share of samples that are classified correctly and for which no attack found a change of at most ε,
in the norm named, that changes the prediction. An attack that was not run could lower it, never raise it.
In Linf, ε is given in n/255: every pixel value of 0 to 255 may move by n.</dd></div>
<div><dt>Expected robustness up to ε</dt>
<dd>Robust accuracy averaged over all perturbation sizes from 0 to ε, that is the area under the accuracy
curve divided by ε: the accuracy against a perturbation whose size is drawn at random.</dd></div>
<div><dt>The 95 % interval (small print, bands)</dt>
<dd>How far the number could move if other samples of the same kind had been drawn; n is the number of
samples. It says nothing of other training seeds or stronger attacks.</dd></div>
<div><dt>Unknown</dt>
<dd>The share of samples that were not searched at that ε, for instance because time ran out. They count as
broken for the lower end of the interval and as robust for its upper end, so they widen it. Hollow
points in a curve have some.</dd></div>
</dl></section>
"""


def write_report(views: Sequence[RunView], path: str | Path, *, title: str) -> Path:
    """Write one self-contained HTML file about one run or a comparison of several.

    Parts that no view has (samples, history, curves ...) are left out.

    Args:
        views: the runs, in order of display; their names must differ.
        path: the file to write, whole or not at all; an existing one is replaced.
        title: heading of the page.

    Returns:
        The path written.

    Raises:
        ArgumentError: when there are no views, two have one name, or the path cannot be written.
        OSError: when the disk is full.
    """
    if not views:
        raise ArgumentError("views", [], "a report needs at least one run")
    names = [view.name for view in views]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError("views", names, f"two runs are named {name!r}: give each a name of its own")
    path = Path(path)
    page = _page(views, title)
    try:
        with written(path) as unfinished:
            unfinished.write_text(page, encoding="utf-8")
    except OSError as error:
        if error.errno not in WRONG_PLACE:  # a full disk is no fault of the path
            raise
        fix = f"the report cannot be written here ({error.strerror}); name a file in a folder you can write to"
        raise ArgumentError("path", str(path), fix) from error
    return path


def _page(views: Sequence[RunView], title: str) -> str:
    count = "One run" if len(views) == 1 else f"{len(views)} runs compared"
    sections = (
        _results(views),
        _HOW_TO_READ,
        _figures(views),
        _brittleness(views),
        _samples(views),
        _facts(views),
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f'<body><main><h1>{escape(title)}</h1><p class="soft">{count}</p>\n{"".join(sections)}</main></body>'
        "</html>\n"
    )


def _results(views: Sequence[RunView]) -> str:
    columns = list(dict.fromkeys(column for view in views for column in view.table))
    if not columns:
        return ""
    head = "".join(f'<th scope="col" role="columnheader">{escape(column)}</th>' for column in ("run", *columns))
    rows = "".join(
        f'<tr role="row"><th scope="row" role="rowheader">{_swatch(index)}{escape(view.name)}</th>'
        + "".join(_cell(column, view.table.get(column), run_colour(index)) for column in columns)
        + "</tr>"
        for index, view in enumerate(views)
    )
    return (
        '<section class="card scroll" tabindex="0" role="region" aria-label="Results">'
        '<table class="results" role="table">'
        "<caption>Each number with its 95\u00a0% interval (small print, and the band in the bar from 0 to"
        " 100\u00a0%) and the number of samples n.</caption>"
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{rows}</tbody></table></section>\n'
    )


def _cell(column: str, value: Estimate | None, colour: str) -> str:
    label = f'<td role="cell" data-column="{escape(column)}">'
    if value is None:
        return f'{label}<div><span class="value" aria-label="not measured">–</span></div></td>'
    unknown = f'<span class="range unknown">{_percent(value.unknown)} unknown</span>' if value.unknown > 0 else ""
    return (
        f'{label}<div><span class="value">{_percent(value.value)}</span>{_bar(value, colour)}'
        f'<span class="range">{100 * value.low:.1f} to {_percent(value.high)}</span>'
        f'<span class="range">n = {value.n:,}</span>{unknown}</div></td>'
    )


def _bar(value: Estimate, colour: str) -> str:
    low, high, middle = (100 * share for share in (value.low, value.high, value.value))
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="track" y="4" width="100" height="2"/><g class="own" fill="{colour}">'
        f'<rect x="{low:.2f}" y="2" width="{high - low:.2f}" height="6" opacity=".4"/>'
        f'<rect x="{min(max(middle - 0.8, 0), 98.4):.2f}" width="1.6" height="10"/></g></svg>'
    )


def _figures(views: Sequence[RunView]) -> str:
    norms = list(dict.fromkeys(norm for view in views for norm, points in view.curves.items() if points))
    plots = [
        _plot(
            accuracy_curve(views, norm),
            _curve_in_words(views, norm),
            f"<b>Accuracy against perturbation size in {escape(norm)}.</b> At 0 it is the clean accuracy."
            " Bands are 95 % intervals; between the points they hold what was not searched there.",
        )
        for norm in norms
    ]
    if any(view.history for view in views):
        plots.append(
            _plot(
                training_curves(views),
                _training_in_words(views),
                "<b>Training.</b> Accuracy and loss over the epochs, above the schedules of ε and learning"
                " rate. Training accuracy and loss are those of the images trained on, perturbed by up to ε.",
            )
        )
    if not plots:
        return ""
    return f'<section><h2>Accuracy and training</h2><div class="figures">{"".join(plots)}</div></section>\n'


def _brittleness(views: Sequence[RunView]) -> str:
    """A card per run on its brittle decisions."""
    shown = [(index, view, view.brittleness) for index, view in enumerate(views) if view.brittleness]
    if not shown:
        return ""
    return (
        "<section><h2>Brittle decisions</h2>"
        + "".join(f"<h3>{_swatch(index)}{escape(view.name)}</h3>{_brittle_run(found)}" for index, view, found in shown)
        + "</section>\n"
    )


def _brittle_run(found: BrittlenessView) -> str:
    radius = f"{found.norm} {format_distance(found.eps, found.norm)}"
    plots = [
        _plot(
            margin_scatter(
                found.margins, found.scores, found.brittle, found.robust,
                norm=found.norm, eps=found.eps, threshold=found.threshold,
            ),
            f"Logit margin against input margin; {found.brittle.sum()} of {len(found.brittle)} decisions are brittle.",
            f"<b>Logit margin against input margin.</b> A decision is brittle at {radius} if an image within that"
            " distance is classified otherwise, whether or not the label is right.",
        ),
        _plot(
            tau_bars(found.taus),
            "; ".join(f"{name}: {each.value:.2f}" for name, each in found.taus.items()),
            "<b>Margin consistency.</b> Kendall's tau-b between each score and the input margin: 1 where both rank"
            " decisions alike, 0 where the score says nothing.",
        ),
    ]  # fmt: skip
    if found.roc:
        plots.append(
            _plot(
                roc(found.roc),
                "Share of brittle decisions flagged against share of robust ones flagged.",
                f"<b>Telling brittle decisions from robust ones</b> at {radius}.",
            )
        )
    plots.append(
        _plot(
            risk_curves(found.risk),
            "Share of brittle decisions among those kept.",
            "<b>Risk.</b> How brittle the decisions are that remain when the lowest scores are set aside.",
        )
    )
    flag_rates = {name: curve for name, curve in found.flag_rates.items() if len(curve[0])}
    if flag_rates:
        plots.append(
            _plot(
                flag_rate_against_alpha(flag_rates),
                "Share of decisions flagged against the share of brittle ones that may pass.",
                "<b>What a promise costs.</b> Share of decisions that a detector must flag so that no more brittle ones"
                " pass than alpha.",
            )
        )
    if found.equidistance is not None:
        plots.append(
            _plot(
                equidistance_boxplot({"pairs of classes": found.equidistance}),
                "Distances between the classes' weights, divided by their median.",
                "<b>Equidistance.</b> Were the weights of all pairs of classes equally far apart, logit and feature"
                " margin would rank decisions alike.",
            )
        )
    ends = "".join(_sample(sample) for sample in found.ends)
    pictures = (
        '<p class="soft">The most brittle decisions, then the least brittle ones, with the nearest image found that'
        f' changes each.</p><div class="samples">{ends}</div>'
    )
    detector = f'<div class="card"><h4>Detector</h4>{_definitions(found.detector)}</div>'
    return f'<div class="figures">{"".join(plots)}</div>{detector}{_attacks(found)}{pictures if ends else ""}'


def _attacks(found: BrittlenessView) -> str:
    if not found.attacks:
        return ""
    columns = list(next(iter(found.attacks.values())))
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in ("detector on", *columns))
    cells = {
        score: "".join(f"<td>{escape(each[column])}</td>" for column in columns)
        for score, each in found.attacks.items()
    }
    rows = "".join(f'<tr><th scope="row">{escape(score)}</th>{row}</tr>' for score, row in cells.items())
    return (
        '<div class="card scroll" tabindex="0" role="region" aria-label="Attacks on the detector">'
        "<h4>Attacks on the detector</h4><table><caption>The detector is no defence against an attacker who knows it:"
        f" the last two columns are what such an attacker achieves.</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _curve_in_words(views: Sequence[RunView], norm: str) -> str:
    lines = []
    for view in views:
        if curve := view.curves.get(norm):
            radii = sorted(curve)
            ends = (radii[0], radii[len(radii) // 2], radii[-1]) if len(radii) > 2 else radii
            words = ", ".join(f"{_percent(curve[eps].value)} at {format_distance(eps, norm)}" for eps in ends)
            lines.append(f"{view.name}: {words}")
    return f"Lines of accuracy against epsilon in {norm}. " + "; ".join(lines) + "."


def _training_in_words(views: Sequence[RunView]) -> str:
    lines = [
        f"{view.name}: {view.history[-1].epoch:g} epochs, final loss {view.history[-1].train_loss:.3g}, "
        f"epsilon from {format_distance(view.history[0].eps, view.training_norm)} "
        f"to {format_distance(view.history[-1].eps, view.training_norm)}"
        for view in views
        if view.history
    ]
    return "Lines over the epochs: accuracy, training loss, epsilon and learning rate. " + "; ".join(lines) + "."


def _samples(views: Sequence[RunView]) -> str:
    shown = [(index, view) for index, view in enumerate(views) if view.samples]
    if not shown:
        return ""
    runs = "".join(
        f'<h3>{_swatch(index)}{escape(view.name)}</h3><div class="samples">'
        + "".join(_sample(sample) for sample in view.samples)
        + "</div>"
        for index, view in shown
    )
    return (
        "<section><h2>Samples and their nearest found adversarial images</h2>"
        '<p class="soft">The distance is that of the nearest image found that changes the prediction.'
        f" Differences are magnified as stated; mid-grey is no change.</p>{runs}</section>\n"
    )


def _sample(sample: SampleView) -> str:
    difference, factor = magnified_difference(sample)
    distance = f"{sample.norm} {format_distance(sample.distance, sample.norm)}"
    pictures = (
        (sample.image / 255, f"Image of class {sample.label}", "predicted", sample.prediction),
        (sample.adversarial, f"Adversarial image, {distance}", "predicted", sample.adversarial_prediction),
        (difference, f"Their difference, magnified {factor} times", "difference", f"× {factor}"),
    )
    strip = "".join(
        f"<div>{_picture(image, alt)}{kind}<b>{_breakable(words)}</b></div>" for image, alt, kind, words in pictures
    )
    return (
        f'<figure class="card"><div class="strip">{strip}</div>'
        f"<figcaption>True class <b>{_breakable(sample.label)}</b>, distance {escape(distance)}</figcaption>"
        "</figure>"
    )


def _facts(views: Sequence[RunView]) -> str:
    blocks = "".join(
        f'<details class="card"><summary>{_swatch(index)}{escape(view.name)}</summary>'
        f"{_definitions(view.facts)}</details>"
        for index, view in enumerate(views)
        if view.facts
    )
    return f'<section class="facts"><h2>What was run</h2>{blocks}</section>\n' if blocks else ""


def _definitions(facts: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in facts.items())}</dl>"


def _swatch(index: int) -> str:
    return f'<span class="swatch" style="background:{run_colour(index)}" aria-hidden="true"></span>'


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\u00a0%"


def _breakable(name: str) -> str:
    return escape(name).replace("_", "_<wbr>")


def _plot(figure: Figure, alt: str, caption: str) -> str:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    image = f'<img class="plot" src="{_data_url(buffer, "image/svg+xml")}" alt="{escape(alt)}">'
    return f'<figure class="card">{image}<figcaption>{caption}</figcaption></figure>'


def _picture(image: NDArray[np.floating], alt: str) -> str:
    buffer = io.BytesIO()
    imsave(buffer, as_rgb(image), format="png")
    kind = ' class="pixelated"' if max(image.shape[:2]) < _SMOOTH_FROM else ""
    return f'<img{kind} src="{_data_url(buffer, "image/png")}" alt="{escape(alt)}">'


def _data_url(buffer: io.BytesIO, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
