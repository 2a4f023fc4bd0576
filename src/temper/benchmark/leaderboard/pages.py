"""The pages' HTML: fragments of this package filled with escaped text, script and style inside."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from string import Template

from temper.benchmark.leaderboard.payload import board_payload, in_script, run_payload
from temper.benchmark.leaderboard.view import Leaderboard, LeaderboardRun, Metric, Value
from temper.text import escape

_SHOWN = 8  # missing cells that are visible at once; the others are one click away


def index_page(board: Leaderboard) -> str:
    """The page with rankings, the table of runs, curves, findings, and what failed or is missing."""
    done = [run for run in board.runs if run.status == "done"]
    counts = (
        _count(len(done), "run"),
        *(
            _count(len({getattr(run, name) for run in done}), word)
            for name, word in (("backbone", "backbone"), ("dataset", "data set"), ("protocol", "protocol"))
        ),
        *([escape(board.version)] if board.version else []),
    )
    script = _resource("plot.js") + _resource("app.js")
    return Template(_resource("index.html")).substitute(
        title=escape(board.title),
        policy=_policy(script),
        style=_report_style() + _resource("style.css") + _resource("board.css"),
        counts=" · ".join(counts),
        warnings=_warnings(board),
        findings=_findings(board),
        glossary=_glossary(board),
        failed=_failed(board),
        data=in_script(board_payload(board)),
        script=script,
    )


def run_page(board: Leaderboard, run: LeaderboardRun) -> str:
    """The page of one run: metrics with intervals, curves, training, and what was run."""
    script = _resource("plot.js") + _resource("run.js")
    factors = {
        "objective": run.objective,
        "schedule": run.schedule,
        "protocol": run.protocol,
        "seed": str(run.seed),
        "tier": run.tier,
        "type": run.type,
        "pre-training": run.pretraining,
    }
    return Template(_resource("run.html")).substitute(
        title=escape(f"{run.backbone} on {run.dataset}"),
        board=escape(board.title),
        policy=_policy(script),
        style=_report_style() + _resource("style.css"),
        run=escape(run.run),
        factors="".join(
            f"<div><dt>{name}</dt><dd>{escape(words)}</dd></div>" for name, words in factors.items() if words
        ),
        error=_error(run),
        metrics=_metrics(board.metrics, run),
        figures=_figures(run),
        facts=_section("What was run", f'<div class="card">{_definitions(run.facts)}</div>' if run.facts else ""),
        data=in_script(run_payload(run)),
        script=script,
    )


def number(value: float, percent: bool) -> str:
    """A metric in words, without its unit: 61.2 for a percentage of 0.612, otherwise three decimals."""
    return f"{100 * value:.1f}" if percent else f"{value:.3f}"


@cache
def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _report_style() -> str:
    return "\n" + resources.files("temper.report").joinpath("templates", "style.css").read_text(encoding="utf-8")


@cache
def _policy(script: str) -> str:
    """Content security policy: this script and no other, and no network."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _warnings(board: Leaderboard) -> str:
    failed = sum(run.status == "failed" for run in board.runs)
    lines = []
    if board.missing:
        cells = [f"<li>{escape(cell)}</li>" for cell in board.missing]
        rest = ""
        if len(cells) > _SHOWN:
            rest = (
                f"<details><summary>{len(cells) - _SHOWN} more</summary>"
                f'<ul class="cells">{"".join(cells[_SHOWN:])}</ul></details>'
            )
        have = "cells of the grid have" if len(cells) > 1 else "cell of the grid has"
        lines.append(
            f"<p><b>{len(cells)} {have} no result.</b> Rows and ranks that lack one say so or are left out;"
            f' nothing is averaged over a gap.</p><ul class="cells">{"".join(cells[:_SHOWN])}</ul>{rest}'
        )
    if failed:
        lines.append(f'<p><b>{_count(failed, "run")} failed</b>: <a href="#failed">what went wrong</a>.</p>')
    return f'<aside class="card warning" aria-label="Gaps in the results">{"".join(lines)}</aside>' if lines else ""


def _findings(board: Leaderboard) -> str:
    articles = "".join(
        f"<article><h3>{escape(heading)}</h3>"
        + "".join(f"<p>{escape(paragraph)}</p>" for paragraph in text.split("\n\n") if paragraph.strip())
        + "</article>"
        for heading, text in board.findings
    )
    if not articles:
        return ""
    return f'<section id="findings"><h2>Findings</h2><div class="findings">{articles}</div></section>'


def _glossary(board: Leaderboard) -> str:
    return "".join(
        f"<div><dt>{escape(metric.label)}</dt><dd>{escape(metric.help)}</dd></div>"
        for metric in board.metrics
        if metric.help
    )


def _failed(board: Leaderboard) -> str:
    failed = [run for run in board.runs if run.status == "failed"]
    if not failed:
        return ""
    columns = ("backbone", "data set", "objective", "schedule", "protocol", "seed", "error")
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    rows = "".join(
        f'<tr><th scope="row">{_link(run)}</th>'
        + "".join(
            f"<td>{escape(str(each))}</td>"
            for each in (run.dataset, run.objective, run.schedule, run.protocol, run.seed)
        )
        + f'<td class="error">{escape(run.error)}</td></tr>'
        for run in failed
    )
    return (
        '<section id="failed"><h2>Failed runs</h2>'
        '<div class="card scroll" tabindex="0" role="region" aria-label="Failed runs">'
        f'<table class="dense"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>'
    )


def _link(run: LeaderboardRun) -> str:
    name = escape(run.backbone)
    return f'<a class="run" href="runs/{escape(run.run)}.html">{name}</a>' if run.run else name


def _error(run: LeaderboardRun) -> str:
    if run.status == "done":
        return ""
    return f'<aside class="card warning"><p><b>This run failed.</b></p><pre>{escape(run.error)}</pre></aside>'


def _metrics(metrics: Sequence[Metric], run: LeaderboardRun) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(metric.label)}<span class="help">{escape(metric.help)}</span></th>'
        f"{_metric_cells(metric, run.metrics[metric.key])}</tr>"
        for metric in metrics
        if metric.key in run.metrics
    )
    if not rows:
        return ""
    return (
        '<section><h2>Metrics</h2><div class="card scroll" tabindex="0" role="region" aria-label="Metrics">'
        '<table class="dense"><thead><tr><th scope="col">metric</th><th scope="col" class="number">value</th>'
        '<th scope="col" class="number">95 % interval</th><th scope="col" class="number">samples</th>'
        f'<th scope="col" class="number">unknown</th></tr></thead><tbody>{rows}</tbody></table></div></section>'
    )


def _metric_cells(metric: Metric, value: Value) -> str:
    unit = "\u00a0%" if metric.percent else ""
    interval = "–"
    if value.low is not None and value.high is not None:
        interval = f"{number(value.low, metric.percent)} to {number(value.high, metric.percent)}{unit}"
    cells = (
        f"<b>{number(value.value, metric.percent)}{unit}</b>",
        interval,
        "–" if value.n is None else f"{value.n:,}",
        f"{100 * value.unknown:.1f}\u00a0%" if value.unknown else "–",
    )
    return "".join(f'<td class="number">{cell}</td>' for cell in cells)


def _figures(run: LeaderboardRun) -> str:
    curves = '<div class="charts" id="accuracy"></div>' if any(run.curve.values()) else ""
    history = '<div class="charts" id="history"></div>' if run.history else ""
    note = '<p class="soft">Bands are 95 % intervals over samples; at 0 it is the clean accuracy.</p>'
    return _section("Accuracy against perturbation size", curves and curves + note + _curve_numbers(run)) + _section(
        "Training", history
    )


def _curve_numbers(run: LeaderboardRun) -> str:
    """The curves as tables, for those who read numbers or cannot see figures."""
    tables = "".join(
        f'<table class="dense"><caption>{escape(norm)}, accuracy in %</caption><thead><tr><th scope="col">ε</th>'
        '<th scope="col" class="number">accuracy</th><th scope="col" class="number">95 % interval</th></tr></thead>'
        "<tbody>"
        + "".join(
            f'<tr><th scope="row">{_eps(eps, norm)}</th><td class="number">{number(value, True)}</td>'
            f'<td class="number">{number(low, True)} to {number(high, True)}</td></tr>'
            for eps, value, low, high in points
        )
        + "</tbody></table>"
        for norm, points in run.curve.items()
        if points
    )
    if not tables:
        return ""
    return f'<details class="card"><summary>The curves in numbers</summary><div class="tables">{tables}</div></details>'


def _eps(eps: float, norm: str) -> str:
    return f"{round(eps * 255, 2):g}/255" if norm.lower() == "linf" else f"{eps:g}"


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{heading}</h2>{content}</section>" if content else ""


def _definitions(facts: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in facts.items())}</dl>"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
