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
    from temper.benchmark.advice import Advice
    from temper.benchmark.progress import State
    from temper.deployment.exporting import Exported
    from temper.deployment.prediction import Failure, Outcome, Prediction
    from temper.margins.intervals import Estimate
    from temper.runs.run import Run

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


def show_corruptions(summary: Mapping[str, Any]) -> None:
    """Print what ``temper corruptions --json`` would: a row per corruption, a column per severity."""
    from temper.margins.intervals import Estimate

    measured = summary["corruptions"]
    severities = sorted({severity for each in measured.values() for severity in each["severities"]}, key=int)
    title = f"Accuracy on {summary['data']['name']} under corruptions, by severity"
    table = Table(title=title, title_justify="left")
    for column in ("", *severities, "mean"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, each in measured.items():
        cells = [each["severities"].get(severity) for severity in severities]
        shown = [f"{cell['value']:.1%}" if cell else "" for cell in (*cells, each["mean_accuracy"])]
        table.add_row(name + (" (stand-in)" if name in summary["stand_ins"] else ""), *shown)
    console = _Plain()
    console.print(table)
    for title, key in (("clean accuracy", "clean_accuracy"), ("mean accuracy under corruptions", "mean_accuracy")):
        if summary[key]:
            console.print(f"{title}: {_one_line(Estimate(**summary[key]))}")
    if summary["mce"]:
        console.print(
            f"mean corruption error against {summary['mce']['baseline']}: {summary['mce']['value']['value']:.1%}"
        )
    figure = summary["figure"] or "when all is measured"
    say(f"predictions: {summary['table']}", f"figure: {figure}")


def show_margins(summary: Mapping[str, Any], out: Path) -> None:
    """Print what ``temper margins --json`` would: a row per score, then the detector and attacks on it."""
    from temper.runs.brittleness import attacks_in_words, detector_in_words, words
    from temper.runs.evaluate import REPORT
    from temper.threat import format_eps

    counts, threat = summary["margins"], summary["threat"]
    radius = f"{threat['norm']} {format_eps(threat['norm'], threat['eps'])}"
    table = Table(title=f"Scores against input margins in {threat['norm']}", title_justify="left")
    table.caption = (
        f"{counts['known'] + counts['unknown']} decisions of {summary['data']['name']}: {counts['brittle']} brittle at"
        f" {radius}, {counts['robust']} robust, {counts['unknown']} margins unknown; 95 % intervals in brackets"
    )
    table.caption_justify = "left"
    for column in ("", "Kendall's tau", "AUROC", "average precision", "FPR at 95 % TPR"):
        table.add_column(column, justify="right" if column else "left")
    for name, each in summary["consistency"].items():
        found = summary["detection"][name]
        figures = [each["tau"], *(found.get(key) for key in ("auroc", "aupr", "fpr_at_95_tpr"))]
        table.add_row(words(name), *("–" if figure is None else _plain(figure) for figure in figures))
    console = _Plain()
    console.print(table)
    for title, text in detector_in_words(summary).items():
        console.print(f"{title}: {text}")
    for score, achieved in attacks_in_words(summary).items():
        console.print(f"attacks on a detector by {score}:")
        for title, text in achieved.items():
            console.print(f"  {title}: {text}")
    say(f"evidence: {summary['table']}", f"report: {out / REPORT}")


def _plain(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.3f}\n[{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _one_line(value: Estimate) -> str:
    return f"{value.value:.1%} [{value.low:.1%}, {value.high:.1%}], n = {value.n}"


def show_evaluation(summary: Mapping[str, Any], out: Path) -> None:
    """Print what ``temper evaluate --json`` would."""
    from temper.margins.intervals import Estimate
    from temper.runs.evaluate import REPORT
    from temper.threat import format_eps

    results = {"clean accuracy": Estimate(**summary["clean_accuracy"])}
    for threat in summary["threats"]:
        where = f"{threat['norm']} {format_eps(threat['norm'], threat['eps'])}"
        results[f"robust accuracy at {where}"] = Estimate(**threat["robust_accuracy"])
        if "subset" not in threat:  # which says nothing of other radii
            results[f"expected robustness up to {where}"] = Estimate(**threat["expected_robustness"])
    show_table(f"Measured on {summary['data']['name']}", {summary["model"]["spec"]: results})
    for subset in [threat["subset"] for threat in summary["threats"] if "subset" in threat]:
        _Plain().print(
            f"from attacks on {subset['attacked']:,} of {subset['correct']:,} correct samples; of the images that the"
            f" {summary['data']['n']:,} are a sample of: {_one_line(Estimate(**subset['distribution']))}",
        )
    passes = summary["passes"]
    say(
        f"{passes['forward']:,} forward and {passes['backward']:,} backward passes, {summary['seconds']:.1f} s",
        f"evidence: {summary['table']}",
        f"report: {out / REPORT}",
    )


BRITTLE = {True: "yes", False: "no", None: ""}


def show_predictions(outcomes: Sequence[Outcome], detector: Mapping[str, Any] | None, out: TextIO) -> tuple[int, int]:
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
    outcomes: Sequence[Outcome], detector: Mapping[str, Any] | None, out: TextIO
) -> tuple[int, int]:
    """Write one JSON object of all decisions; returns how many images, and how many failed."""
    from temper.deployment.prediction import Failure, Prediction

    failed = [asdict(outcome) for outcome in outcomes if isinstance(outcome, Failure)]
    images = [_columns(outcome) for outcome in outcomes if isinstance(outcome, Prediction)]
    out.write(json.dumps({"detector": detector, "images": images, "failed": failed}) + "\n")
    return len(outcomes), len(failed)


def write_predictions(outcomes: Iterable[Outcome], out: TextIO) -> tuple[int, int]:
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


def _columns(prediction: Prediction) -> dict[str, Any]:
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


def show_state(found: State, place: str) -> None:
    """Print how far a grid is, with the error of every failed run and the first missing ones."""
    total = len(found.done) + len(found.failed) + len(found.missing)
    say(
        f"{place}: {len(found.done):,} of {total:,} runs done, {len(found.failed):,} failed, "
        f"{len(found.missing):,} missing"
    )
    for label, error in found.errors().items():
        say(f"failed: {label}: {error}")
    for missing in found.missing[:SHOWN]:
        say(f"missing: {missing.label}")
    if len(found.missing) > SHOWN:
        say(f"and {len(found.missing) - SHOWN:,} more are missing")


def show_frame(frame: pd.DataFrame) -> None:
    """Print the answer to a query, every column of it."""
    fit = frame.map(_fit).rename(columns=_fit)
    say(*fit.to_string(index=False, float_format="{:.4g}".format).split("\n"), f"{len(frame):,} rows")


def _fit(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


def write_csv(frame: pd.DataFrame, out: TextIO) -> None:
    """Write the answer to a query as CSV, for a spreadsheet too."""
    frame.map(cell).rename(columns=cell).to_csv(out, index=False)


def show_advice(found: Advice) -> None:
    """Print what to take, its rivals, and what the advice rests on."""
    best = found.choices[0]
    say(
        f"Take {best.backbone} with {best.objective}, epsilon {best.schedule}, protocol {best.protocol} "
        f"({best.epochs} epochs)."
    )
    if not math.isnan(found.expected):
        say(f"Expect a sum of {found.expected:.2f} of it: its own below is the best of {found.among}, and flattered.")
    for title, choices in (("The best of each protocol", found.choices), ("Its rivals", [best, *found.rivals])):
        rows = [
            {
                "backbone": each.backbone,
                "loss": each.objective,
                "schedule": each.schedule,
                "protocol": each.protocol,
                "epochs": each.epochs,
                "sum": f"{each.score:.2f}" + ("" if math.isnan(each.low) else f" [{each.low:.2f}, {each.high:.2f}]"),
                "rank": f"{each.rank} [{each.rank_low} to {each.rank_high}]",
            }
            for each in choices
        ]
        say("", title, *pd.DataFrame(rows).map(_fit).to_string(index=False).split("\n"))
    say("")
    for line in found.basis:
        say(f"Basis: {line}.")
    for heading, text in found.evidence:
        say(f"{heading}: {text}")
