"""What the commands print for a person."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from temper.report import Value
from temper.threat import format_eps
from temper.training.run import Run


def show_table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[Value]]) -> None:
    """Print estimates: a row per name, a column per quantity, intervals below the values."""
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.caption = f"95 % intervals in brackets; n = {next(iter(rows.values()))[0].n} test images"
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name, values in rows.items():
        table.add_row(name, *[show_value(value) for value in values])
    Console().print(table)


def show_value(value: Value) -> str:
    """A share in percent with its interval."""
    doubt = f"\n{value.unknown:.0%} unknown" if value.unknown >= 0.005 else ""
    return f"{value.value:.1%}\n\\[{value.low:.1%}, {value.high:.1%}]{doubt}"


def show_run(run: Run) -> None:
    """Print a finished run's results and where to look."""
    results = {name: Value(**numbers) for name, numbers in run.record["results"].items()}
    show_table(run.folder.name, list(results), {run.config.schedule.name: list(results.values())})
    Console().print(f"model, evidence and report: {run.folder}\nreport: {run.folder / 'report.html'}", soft_wrap=True)


def show_evaluation(summary: Mapping[str, Any], out: Path) -> None:
    """Print what ``temper evaluate --json`` would."""
    columns = ["robust accuracy", "expected robustness up to there"]
    rows = {"clean": [Value(**summary["clean_accuracy"])]}
    for threat in summary["threats"]:
        name = f"{threat['norm']} {format_eps(threat['norm'], threat['eps'])}"
        rows[name] = [Value(**threat["robust_accuracy"]), Value(**threat["expected_robustness"])]
    show_table(f"{summary['model']['spec']} on {summary['data']['name']}", columns, rows)
    passes = summary["passes"]
    Console().print(
        f"{passes['forward']:,} forward and {passes['backward']:,} backward passes, {summary['seconds']:.1f} s\n"
        f"evidence: {summary['table']}\nreport: {out / 'report.html'}",
        soft_wrap=True,
    )
