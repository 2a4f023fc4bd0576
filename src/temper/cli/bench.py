"""``temper bench``: the commands of the benchmark; they read the call, hand it on, and say how it went."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from pydantic.dataclasses import dataclass

from temper.benchmark import engines
from temper.benchmark.engines import ENGINES, Placement
from temper.cli import DONE, FAILED, WRONG_CALL
from temper.core.calls import Count, parse
from temper.errors import ArgumentError, naming

if TYPE_CHECKING:
    EngineName = str
else:
    EngineName = Literal[tuple(ENGINES)]


def _engines_in_words() -> str:
    return "; ".join(f"{name}: {each.words}" for name, each in ENGINES.items()) + "."


USAGE = """usage: temper bench COMMAND [OPTIONS]      (temper bench COMMAND --help tells a command's options)

  plan     size and cost of a grid of runs, before anything runs
  run      carry the grid out, on this machine or on a Ray cluster; started again, it continues
  status   how far it is, and what failed
  report   the leaderboard: a static site with tables, ranks, curves and a page per run
  query    SQL on the results
  advise   which backbone, loss, protocol and schedule to take

A SPEC is a YAML file; docs/benchmark.md explains it. The smallest one:

  backbones: [convnext_tiny.fb_in22k, robust_convnext_tiny@weights.pt]
  datasets: [flowers-102]
"""

Spec = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True)
class PlanGrid:
    """Say how many runs a grid has, how many passes they take, and how long that is on this machine.

    Hours come from measured throughput: that of finished runs in the store, or with --measure a second of passes with
    each backbone. Searching adds its trials. Example: temper bench plan spec.yaml --measure
    """

    spec: Spec
    """YAML file."""
    store: str | None = None
    """Folder of the results, or s3://bucket/prefix; by default runs/ and the name of SPEC's file."""
    measure: bool = False
    """Measure backbones whose throughput is not known, about a second each."""
    json: bool = False
    """Print one JSON object on stdout and nothing else there."""

    def run(self) -> int:
        """Plan and print."""
        from temper.benchmark import planning
        from temper.benchmark.grid import cells
        from temper.benchmark.spec import read_spec
        from temper.cli.console import show_plan

        spec = read_spec(self.spec)
        grid = cells(spec)
        summary = planning.summarise(spec, grid, _place(self.store, self.spec), measure=self.measure)
        if self.json:
            sys.stdout.write(json.dumps(summary) + "\n")
        else:
            show_plan(summary)
        return DONE


@dataclass(frozen=True)
class RunGrid:
    """Carry out every run of a grid that the store does not hold yet. Stop it any time; the same command continues,
    and several at once share the work. A run that fails is recorded with its error, and the others go on.

    Example: temper bench run spec.yaml --workers 4
    """

    spec: Spec
    """YAML file."""
    store: str | None = None
    """Folder of the results, or s3://bucket/prefix; by default runs/ and the name of SPEC's file."""
    engine: Annotated[EngineName, tyro.conf.arg(help=_engines_in_words())] = "local"
    placement: Annotated[Placement, tyro.conf.arg(name="")] = Placement()
    retry_failed: bool = False
    """Begin runs that failed again."""

    def run(self) -> int:
        """Run, and say what failed."""
        from temper.benchmark.driving import run_grid
        from temper.benchmark.grid import cells
        from temper.benchmark.planning import check
        from temper.benchmark.spec import read_spec
        from temper.benchmark.store import Store
        from temper.cli.console import show_state

        grid = cells(read_spec(self.spec))
        if self.placement.threads:
            grid = [cell.with_threads(self.placement.threads) for cell in grid]
        check(grid)
        threads = max(cell.config.threads or 1 for cell in grid)
        engine = engines.make(self.engine, self.placement.model_copy(update={"threads": threads}))
        store = Store(_place(self.store, self.spec), create=True)
        reached = run_grid(grid, store, engine, retry_failed=self.retry_failed)
        show_state(reached, store.place)
        return DONE if reached.complete else FAILED


@dataclass(frozen=True)
class Status:
    """Say how many runs of a grid are done, failed (and why) and missing."""

    spec: Spec
    """YAML file."""
    store: str | None = None
    """Folder of the results, or s3://bucket/prefix; by default runs/ and the name of SPEC's file."""

    def run(self) -> int:
        """Look and print; the status is 0 where all runs are done."""
        from temper.benchmark.grid import cells
        from temper.benchmark.progress import COUNTED, state
        from temper.benchmark.spec import read_spec
        from temper.benchmark.store import Store
        from temper.cli.console import show_state

        grid = cells(read_spec(self.spec))
        store = Store(_place(self.store, self.spec))
        reached = state(grid, store, COUNTED)
        show_state(reached, store.place)
        return DONE if reached.complete else FAILED


@dataclass(frozen=True)
class BenchReport:
    """Write the leaderboard of a grid: one static site, index.html, that needs no network. A grid with missing or
    failed runs is refused and they are listed; --partial writes what there is, says what is missing, and ranks only
    configurations that are whole.
    """

    spec: Spec
    """YAML file."""
    store: str | None = None
    """Folder of the results, or s3://bucket/prefix; by default runs/ and the name of SPEC's file."""
    out: Path | None = None
    """Folder of the site; by default leaderboard/ beside the SPEC's results."""
    partial: bool = False
    """Write it although runs are missing."""

    def run(self) -> int:
        """Write, and print the path."""
        from temper.benchmark.grid import cells
        from temper.benchmark.reporting import write_site
        from temper.benchmark.spec import read_spec
        from temper.benchmark.store import Store
        from temper.cli.console import say

        spec = read_spec(self.spec)
        store = Store(_place(self.store, self.spec))
        out = self.out or (store.folder or Path("runs") / self.spec.stem) / "leaderboard"
        with naming({"folder": "out"}):
            path = write_site(spec, cells(spec), store, out, partial=self.partial)
        say(str(path))
        return DONE


@dataclass(frozen=True)
class Query:
    """Answer a SELECT on the results with DuckDB. Tables: results (a row per run: factors, metrics and their _low,
    _high, _n and _unknown), margins (a row per run, sample, norm and suite), corruptions (per run, sample, corruption).

    Example: temper bench query "SELECT backbone, avg(linf) FROM results GROUP BY 1 ORDER BY 2 DESC" --store runs/mini
    """

    sql: Annotated[str, tyro.conf.Positional]
    """The query."""
    store: str
    """Folder of the results, or s3://bucket/prefix."""
    limit: Count | None = None
    """Print at most so many rows."""
    csv: bool = False
    """Print CSV."""
    json: bool = False
    """Print one JSON object on stdout and nothing else there."""

    def run(self) -> int:
        """Ask and print."""
        from temper.benchmark.queries import query
        from temper.benchmark.store import Store
        from temper.cli.console import show_frame, write_csv

        answer = query(Store(self.store), self.sql, limit=self.limit)
        if self.json:
            rows = json.loads(answer.to_json(orient="records"))
            sys.stdout.write(json.dumps({"columns": [*answer.columns], "rows": rows}) + "\n")
        elif self.csv:
            write_csv(answer, sys.stdout)
        else:
            show_frame(answer)
        return DONE


@dataclass(frozen=True)
class DataCounts:
    """How large data are that are not at hand."""

    images: Count | None = None
    """In place of --data, how many training images you have ..."""
    classes: Count | None = None
    """... and of how many classes."""


@dataclass(frozen=True)
class Advise:
    """Say which backbone, loss, protocol and schedule to take, from results: those of a store, or, without --results,
    the published figures of arXiv:2508.14079 that come along. Each piece of advice comes with what it rests on, how
    sure it is, and what luck added to the best of many.

    Example: temper bench advise --size small --data photos --out advice
    """

    results: str | None = None
    """Folder of results, or s3://bucket/prefix; without it, the published figures, which Temper did not measure."""
    size: Literal["small", "medium", "large", "any"] = "any"
    """Backbones of at most this tier: small has below 20 million parameters, medium below 50."""
    budget: Count | None = None
    """Epochs of training that you can pay for; protocols that take more are left out."""
    data: str | None = None
    """Your data, or the name of a data set of the results: advice then rests on those with as many images per class and
    classes, unless that chooses worse on data sets that are held out."""
    counts: Annotated[DataCounts, tyro.conf.arg(name="")] = DataCounts()
    out: Path | None = None
    """Folder for the picture, advice.svg, and, from published figures with --data, spec.yaml: the few runs on your data
    that settle it, for temper bench plan and run."""
    json: bool = False
    """Print one JSON object on stdout and nothing else there."""

    def run(self) -> int:
        """Advise, print, draw, and say which runs would settle it."""
        from temper.benchmark.advice import advise
        from temper.benchmark.advice_figure import write_figure
        from temper.benchmark.settling import write_settling_spec
        from temper.cli.console import say, show_advice
        from temper.core.files import check_writable

        if self.out:
            check_writable(self.out, "out")
        advice = advise(
            self.results, size=self.size, budget=self.budget, data_spec=self.data,
            images=self.counts.images, classes=self.counts.classes,
        )  # fmt: skip
        written = {}
        if self.out and advice.published and self.data:
            written["spec"] = str(write_settling_spec(advice, self.data, self.out))
        if self.out:
            written["figure"] = str(write_figure(advice, self.out))
        if self.json:
            sys.stdout.write(json.dumps(advice.to_json() | written) + "\n")
        else:
            show_advice(advice)
            say(*(f"{what}: {path}" for what, path in written.items()))
        return DONE


COMMANDS = {"plan": PlanGrid, "run": RunGrid, "status": Status, "report": BenchReport, "query": Query, "advise": Advise}


def bench(words: list[str]) -> int:
    """Run a command of the benchmark."""
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return DONE if words else WRONG_CALL
    if words[0] not in COMMANDS:
        raise ArgumentError("bench COMMAND", words[0], f"choose one of {', '.join(COMMANDS)}")
    return parse(COMMANDS[words[0]], words[1:], f"temper bench {words[0]}").run()


def _place(store: str | None, spec: Path) -> str:
    return store or str(Path("runs") / spec.stem)
