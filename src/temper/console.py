"""What the commands print for a person."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from temper.folders import REPORT
from temper.report import Value
from temper.threat import format_eps
from temper.training.run import Run


def show_table(title: str, results: Mapping[str, Mapping[str, Value]]) -> None:
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
    Console().print(table)


def show_value(value: Value) -> str:
    """A share in percent with its interval."""
    doubt = f"\n{value.unknown:.0%} unknown" if value.unknown >= 0.005 else ""
    return f"{value.value:.1%}\n\\[{value.low:.1%}, {value.high:.1%}]{doubt}"


def show_run(run: Run) -> None:
    """Print a finished run's results and where to look."""
    results = {name: Value(**numbers) for name, numbers in run.record["results"].items()}
    show_table("Measured on the test data", {run.folder.name: results})
    Console().print(f"run: {run.folder}\nreport: {run.folder / REPORT}", soft_wrap=True)


def show_corruptions(summary: Mapping[str, Any]) -> None:
    """Print what ``temper corruptions --json`` would: a row per corruption, a column per severity."""
    measured = summary["corruptions"]
    severities = sorted({severity for each in measured.values() for severity in each["severities"]}, key=int)
    table = Table(title=f"Accuracy on {summary['data']['name']} under corruptions", title_justify="left")
    for column in ("", *(f"severity {severity}" for severity in severities), "mean"):
        table.add_column(column, justify="right" if column else "left")
    for name, each in measured.items():
        cells = [each["severities"].get(severity) for severity in severities]
        shown = [f"{cell['value']:.1%}" if cell else "" for cell in (*cells, each["mean_accuracy"])]
        table.add_row(name + (" (stand-in)" if name in summary["stand_ins"] else ""), *shown)
    console = Console()
    console.print(table)
    for title, key in (("clean accuracy", "clean_accuracy"), ("mean accuracy under corruptions", "mean_accuracy")):
        if summary[key]:
            console.print(f"{title}: {_one_line(Value(**summary[key]))}", highlight=False)
    if summary["mce"]:
        console.print(
            f"mean corruption error against {summary['mce']['baseline']}: {summary['mce']['value']['value']:.1%}"
        )
    figure = summary["figure"] or "when all is measured"
    console.print(f"predictions: {summary['table']}\nfigure: {figure}", soft_wrap=True)


def _one_line(value: Value) -> str:
    return f"{value.value:.1%} \\[{value.low:.1%}, {value.high:.1%}], n = {value.n}"


def show_evaluation(summary: Mapping[str, Any], out: Path) -> None:
    """Print what ``temper evaluate --json`` would."""
    results = {"clean accuracy": Value(**summary["clean_accuracy"])}
    for threat in summary["threats"]:
        where = f"{threat['norm']} {format_eps(threat['norm'], threat['eps'])}"
        results[f"robust accuracy at {where}"] = Value(**threat["robust_accuracy"])
        results[f"expected robustness up to {where}"] = Value(**threat["expected_robustness"])
    show_table(f"Measured on {summary['data']['name']}", {summary["model"]["spec"]: results})
    passes = summary["passes"]
    Console().print(
        f"{passes['forward']:,} forward and {passes['backward']:,} backward passes, {summary['seconds']:.1f} s\n"
        f"evidence: {summary['table']}\nreport: {out / REPORT}",
        soft_wrap=True,
    )
