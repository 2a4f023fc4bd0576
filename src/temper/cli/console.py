"""What the commands print for a person."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from temper.text import cell, masked, one_line, path_cell, printable

# What reads or measures a model takes seconds to import; a query or the state of a benchmark needs none of it.
if TYPE_CHECKING:
    from temper.benchmark.advice import Advice, Choice, Ranged
    from temper.benchmark.progress import GridState
    from temper.deployment.exporting import Exported
    from temper.deployment.prediction import Failure, ImageResult, Prediction
    from temper.margins.intervals import Estimate
    from temper.runs.results import CorruptionsResult, EvaluationResult, MarginsResult
    from temper.runs.run import Run
    from temper.threat import Threat

SHOWN = 20  # lines of a list that may be long


class _Plain(Console):
    """A console to which every text is what it says: names and paths come from outside, so nothing is markup, and
    control characters are written as escapes."""

    def __init__(self, file: TextIO | None = None) -> None:
        super().__init__(file=file, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:  # all texts go through here: lines, cells, titles
        return super().render_str(printable(masked(text), keep="\n"), **options)


def say(*lines: str) -> None:
    """Print lines as they are, however long."""
    console = _Plain()
    for line in lines:
        console.print(printable(line), soft_wrap=True)


def show_table(title: str, results: Mapping[str, Mapping[str, Estimate]]) -> None:
    """Print estimates: a column per run, a row per quantity, each with its interval."""
    quantities = list(dict.fromkeys(quantity for values in results.values() for quantity in values))
    count = next(iter(next(iter(results.values())).values())).n
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = f"95 % intervals in brackets; n = {count} test images"
    table.add_column("")
    for name in results:
        table.add_column(name, justify="right")
    for quantity in quantities:
        cells = [show_value(values[quantity]) if quantity in values else "" for values in results.values()]
        table.add_row(quantity, *cells)
    _Plain().print(table)


def show_value(value: Estimate) -> str:
    """A share in percent with its interval."""
    doubt = f"\n{value.unknown:.0%} unknown" if value.unknown >= 0.005 else ""
    return f"{value.value:.1%}\n[{value.low:.1%}, {value.high:.1%}]{doubt}"


def show_run(run: Run) -> None:
    """Print a finished run's results and where to look."""
    from temper.margins.intervals import Estimate
    from temper.runs.evaluate import REPORT

    results = {name: Estimate(**numbers) for name, numbers in run.record["results"].items()}
    show_table("Measured on the test data", {run.folder.name: results})
    say(f"run: {run.folder}", f"report: {run.folder / REPORT}")


def show_corruptions(result: CorruptionsResult) -> None:
    """Print the numbers of ``temper corruptions``: a row per corruption, a column per severity."""
    summary = result.summary
    severities = sorted({severity for each in summary.corruptions.values() for severity in each.severities})
    title = f"Accuracy on {result.subject.data} under corruptions, by severity"
    table = Table(title=title, title_justify="left")
    for column in ("", *map(str, severities), "mean"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, each in summary.corruptions.items():
        values = [*(each.severities.get(severity) for severity in severities), each.mean]
        cells = [f"{value.value:.1%}" if value else "" for value in values]
        table.add_row(name + (" (stand-in)" if name in result.stand_ins else ""), *cells)
    console = _Plain()
    console.print(table)
    for title, value in (("clean accuracy", summary.clean), ("mean accuracy under corruptions", summary.mean)):
        if value:
            console.print(f"{title}: {_one_line(value)}")
    if summary.error:
        console.print(f"mean corruption error against {summary.error.baseline}: {summary.error.value.value:.1%}")
    say(f"predictions: {result.table}", f"figure: {result.figure or 'when all is measured'}")


def show_margins(result: MarginsResult, out: Path) -> None:
    """Print the numbers of ``temper margins``: a row per score, then the detector and attacks on it."""
    from temper.runs.brittleness import attacks_in_words, detector_in_words, words
    from temper.runs.evaluate import REPORT

    brittleness = result.brittleness
    if brittleness is None:  # stopped: what was found is in the folder
        return
    counts, norm = brittleness.decisions, result.threat.norm
    table = Table(title=f"Scores against input margins in {norm}", title_justify="left")
    table.caption = (
        f"{counts.known + counts.unknown} decisions of {result.subject.data}: {counts.brittle} brittle at"
        f" {_radius(result.threat)}, {counts.robust} robust, {counts.unknown} margins unknown; 95 % intervals in"
        " brackets"
    )
    table.caption_justify = "left"
    for column in ("", "Kendall's tau", "AUROC", "average precision", "FPR at 95 % TPR"):
        table.add_column(column, justify="right" if column else "left")
    for name, each in brittleness.consistency.items():
        quality = brittleness.detection[name]
        figures = (None,) * 3 if isinstance(quality, str) else (quality.auroc, quality.aupr, quality.fpr_at_95_tpr)
        cells = ["–" if figure is None else _plain(figure) for figure in (each.tau, *figures)]
        table.add_row(words(name), *cells)
    console = _Plain()
    console.print(table)
    for title, text in detector_in_words(brittleness.detector).items():
        console.print(f"{title}: {text}")
    for score, achieved in attacks_in_words(brittleness.adaptive).items():
        console.print(f"attacks on a detector by {score}:")
        for title, text in achieved.items():
            console.print(f"  {title}: {text}")
    say(f"evidence: {result.search.table}", f"report: {out / REPORT}")


def _radius(threat: Threat) -> str:
    """A norm and a radius as a sentence has them."""
    from temper.threat import format_eps

    return f"{threat.norm} {format_eps(threat.norm, threat.eps)}"


def _plain(estimate: Estimate) -> str:
    return f"{estimate.value:.3f}\n[{estimate.low:.3f}, {estimate.high:.3f}]"


def _one_line(value: Estimate) -> str:
    return f"{value.value:.1%} [{value.low:.1%}, {value.high:.1%}], n = {value.n}"


def show_evaluation(result: EvaluationResult, out: Path) -> None:
    """Print the numbers of ``temper evaluate``."""
    from temper.runs.evaluate import REPORT

    values = {"clean accuracy": result.clean_accuracy}
    for each in result.threats:
        values[f"robust accuracy at {_radius(each.threat)}"] = each.accuracy
        if not each.subset:  # which says nothing of other radii
            values[f"expected robustness up to {_radius(each.threat)}"] = each.expected
    show_table(f"Measured on {result.subject.data}", {result.subject.model: values})
    for subset in [each.subset for each in result.threats if each.subset]:
        _Plain().print(
            f"from attacks on {subset.attacked:,} of {subset.correct:,} correct samples; of the images that the"
            f" {result.subject.samples:,} are a sample of: {_one_line(subset.distribution)}",
        )
    search = result.search
    often = f", {result.eot} for an answer of a random model" if result.eot else ""
    say(
        f"{search.forward:,} forward and {search.backward:,} backward passes{often}, {search.seconds:.1f} s",
        f"evidence: {search.table}",
        *(f"adversarial images: {path}" for path in result.adversarial.values()),
        f"report: {out / REPORT}",
    )


BRITTLE = {True: "yes", False: "no", None: ""}


def show_predictions(
    outcomes: Sequence[ImageResult], detector: Mapping[str, object] | None, out: TextIO
) -> tuple[int, int]:
    """Print a table of decisions to ``out``, failures to stderr; returns how many images, and how many failed."""
    from temper.deployment.prediction import Failure, Prediction

    table = Table("image", "class", caption_justify="left")
    table.columns[0].overflow = "fold"
    for column in ("confidence", "margin", "brittle"):
        table.add_column(column, justify="right", no_wrap=True)
    if detector:
        table.caption = f"brittle: margin at most {detector['threshold']:.4g}, so {detector['threat']} may flip it"
    decided = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
    for each in decided:
        numbers = f"{each.confidence:.1%}", f"{each.margin:.4g}", BRITTLE[each.brittle] or "-"
        table.add_row(printable(each.image), printable(each.class_name), *numbers)
    if decided:
        _Plain(out).print(table)
    failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    for failure in failed:
        _skipped(failure)
    return len(outcomes), len(failed)


def write_predictions_json(
    outcomes: Sequence[ImageResult], detector: Mapping[str, object] | None, out: TextIO
) -> tuple[int, int]:
    """Write one JSON object of all decisions; returns how many images, and how many failed."""
    from temper.deployment.prediction import Failure, Prediction

    failed = [asdict(outcome) for outcome in outcomes if isinstance(outcome, Failure)]
    images = [_columns(outcome) for outcome in outcomes if isinstance(outcome, Prediction)]
    out.write(json.dumps({"detector": detector, "images": images, "failed": failed}) + "\n")
    return len(outcomes), len(failed)


def write_predictions(outcomes: Iterable[ImageResult], out: TextIO) -> tuple[int, int]:
    """Write decisions as CSV while they come, failures to stderr; returns how many images, and how many failed."""
    from temper.deployment.prediction import Failure, Prediction

    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="surrogateescape")  # file names are bytes, and come out as they went in
    rows = csv.DictWriter(out, list(_columns(Prediction("", "", 0, 0.0, 0.0, None))), lineterminator="\n")
    rows.writeheader()
    done = failed = 0
    for outcome in outcomes:
        done += 1
        if isinstance(outcome, Failure):
            failed += 1
            _skipped(outcome)
        else:
            image = printable(outcome.image) if out.isatty() else outcome.image
            safe = {"image": path_cell(image), "class": cell(outcome.class_name)}
            rows.writerow(_columns(outcome) | safe | {"brittle": BRITTLE[outcome.brittle]})
            out.flush()
    return done, failed


def _columns(prediction: Prediction) -> dict[str, object]:
    """A decision under the names that other programs know."""
    return {
        "image": prediction.image,
        "class": prediction.class_name,
        "class_index": prediction.class_index,
        "confidence": prediction.confidence,
        "margin": prediction.margin,
        "brittle": prediction.brittle,
    }


def _skipped(failure: Failure) -> None:
    sys.stderr.write(f"temper: skipped {printable(failure.image)}: {one_line(failure.reason)}\n")


def show_export(done: Exported) -> None:
    """Print what was exported and how it was checked."""
    channels, height, width = done.shape
    say(
        f"{done.path}: input images float32 [N, {channels}, {height}, {width}] in [0, 1], outputs"
        f" {', '.join(done.outputs)}",
        f"checked on {done.checked_on}: logits differ from the model's by at most {done.difference:.2g}"
        f" ({done.relative:.1g} of the largest)",
    )


def show_plan(summary: Mapping[str, Any]) -> None:
    """Print what a grid costs: its size by factor, passes, and hours where throughput is known."""
    factors = ", ".join(f"{len(values)} {name}" for name, values in summary["factors"].items())
    console = _Plain()
    say(f"{summary['runs']:,} runs ({factors}); {summary['done']:,} of them done")
    table = Table(title="Cost of what is missing", title_justify="left")
    for column in ("backbone", "runs", "training passes", "measuring passes, at most", "passes/s", "hours"):
        table.add_column(column, justify="left" if column == "backbone" else "right")
    for name, row in summary["backbones"].items():
        hours = "unknown" if row["hours"] is None else f"{row['hours']:.2f}"
        speed = "unknown" if row["throughput"] is None else f"{row['throughput']:,.0f}"
        table.add_row(name, f"{row['runs']:,}", f"{row['training']:.3g}", f"{row['measuring']:.3g}", speed, hours)
    console.print(table)
    if summary["hours"] is None:
        say("Hours are unknown for backbones that never ran here: --measure times them.")
    else:
        say(f"{summary['hours']:.2f} hours of one {summary['device']}, at most; divide by the workers")


def show_state(state: GridState, place: str) -> None:
    """Print how far a grid is, with the error of every failed run and the first missing ones."""
    total = len(state.done) + len(state.failed) + len(state.missing)
    say(
        f"{place}: {len(state.done):,} of {total:,} runs done, {len(state.failed):,} failed, "
        f"{len(state.missing):,} missing"
    )
    for label, error in state.errors().items():
        say(f"failed: {label}: {error}")
    for missing in state.missing[:SHOWN]:
        say(f"missing: {missing.label}")
    if len(state.missing) > SHOWN:
        say(f"and {len(state.missing) - SHOWN:,} more are missing")


def show_frame(frame: pd.DataFrame) -> None:
    """Print the answer to a query, every column of it."""
    fit = frame.map(_fit).rename(columns=_fit)
    say(*fit.to_string(index=False, float_format="{:.4g}".format).split("\n"), f"{len(frame):,} rows")


def _fit(value: object) -> object:
    return printable(value) if isinstance(value, str) else value


def write_csv(frame: pd.DataFrame, out: TextIO) -> None:
    """Write the answer to a query as CSV, for a spreadsheet too."""
    frame.map(cell).rename(columns=cell).to_csv(out, index=False)


def show_advice(advice: Advice) -> None:
    """Print what to take, what to expect of it, its rivals, and what the advice rests on."""
    best, chosen = advice.choices[0], advice.choices[0].configuration
    say(
        f"Take {chosen.backbone} with {chosen.objective}, epsilon {chosen.schedule}, protocol {best.protocol} "
        f"({best.epochs} epochs)."
    )
    if advice.published:
        say(f"This rests on {advice.source}, not on anything that Temper measured.")
    say(*_outlook(advice), "", "The best of each protocol", *_lines(advice.choices), "")
    say(_rivals_in_words(advice), *_lines([best, *advice.rivals]), "")
    say(*(f"Basis: {line}." for line in advice.basis), *(f"{heading}: {text}" for heading, text in advice.evidence))


def _outlook(advice: Advice) -> list[str]:
    """What to expect of the choice, in words."""
    from temper.benchmark.advice import WORDS

    best, flattery = advice.choices[0], advice.flattery
    if not math.isnan(best.shrunk.value):
        return [
            f"Expect a sum of {_interval(best.shrunk)} of it: {best.score.value:.2f}, its own, is the best of "
            f"{flattery.among}, and flattered.",
            f"On one more {WORDS[flattery.draws]} expect it {_interval(flattery.further, '+')} above the mean "
            f"configuration of its protocol.",
        ]
    if not math.isnan(flattery.expected):
        return [f"Expect a sum of {flattery.expected:.2f} of it: its own is the best of {flattery.among}, flattered."]
    return []


def _rivals_in_words(advice: Advice) -> str:
    from temper.benchmark.advice import SURE

    if math.isnan(advice.choices[0].chance):
        return "Its rivals"
    return f"The fewest with it that hold the best with a chance of {SURE:.0%}; runs of these alone would settle it"


def _lines(choices: Sequence[Choice]) -> list[str]:
    return pd.DataFrame([_choice(each) for each in choices]).map(_fit).to_string(index=False).split("\n")


def _interval(value: Ranged, sign: str = "") -> str:
    return f"{value.value:{sign}.2f} [{value.low:{sign}.2f}, {value.high:{sign}.2f}]"


def _choice(choice: Choice) -> dict[str, object]:
    """A line of advice."""
    score, rank = choice.score, choice.rank
    known = not math.isnan(choice.shrunk.value)
    return {
        "backbone": choice.configuration.backbone,
        "loss": choice.configuration.objective,
        "schedule": choice.configuration.schedule,
        "protocol": choice.protocol,
        "epochs": choice.epochs,
        "sum": f"{score.value:.2f}" if math.isnan(score.low) else _interval(score),
        "to expect": _interval(choice.shrunk) if known else "unknown",
        "best": f"{choice.chance:.0%}" if known else "unknown",
        "rank": f"{rank.value} [{rank.low} to {rank.high}]",
    }
