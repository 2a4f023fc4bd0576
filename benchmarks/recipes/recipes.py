"""Which recipe of robust fine-tuning is best from non-robust weights, for the same passes? One command:

    python benchmarks/recipes/recipes.py --data ../shared/data [--out runs/recipes] [--only cifar union caltech101]

Prepares data and backbones in OUT, carries out the cells of recipes.yaml through temper bench that have no row in
results.csv yet, and writes rows there as cells finish, and docs/recipes.md. Stop it any time: the same command
continues, on another machine, too, where what was committed is not run again. ``--plan`` says what is left,
``--tabulate`` runs nothing and writes the page from what there is.
"""

import argparse
import logging
import os
import sys
import zipfile
from pathlib import Path

import yaml

sys.path.append(str(Path(__file__).resolve().parents[1] / "shared"))
sys.path.append(str(Path(__file__).resolve().parents[1] / "epsilon_scheduling"))  # the ResNet-20

from carrying_out import carry_out, link, status_of
from committed_rows import Rows
from recipes_cells import SETTINGS, epochs_of, planned, recipes, spec_of
from recipes_page import write_page

from temper.benchmark.store import Store

HERE = Path(__file__).resolve().parent
DOCS = HERE.parents[1] / "docs"
STORE = "results"
CIFAR = ("cifar100_20classes_train.npz", "cifar100_20classes_test.npz")
FILES = {
    "cifar": (*(f"images/{file}" for file in CIFAR), "networks/resnet20.safetensors"),
    "caltech101": ("backbones/mobilenetv2_100.safetensors",),
}


def prepare(data: Path, out: Path, settings: tuple[str, ...]) -> None:
    """Put what the SPECs name into ``out``, and the SPECs themselves, for temper bench."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    for setting in settings:
        for file in FILES["cifar" if setting == "union" else setting]:
            link(data / file, out / "data")
        (out / "specs" / setting).mkdir(parents=True, exist_ok=True)
        for recipe in recipes(setting):
            spec = yaml.safe_dump(spec_of(setting, recipe, epochs_of(setting, recipe)), sort_keys=False)
            (out / "specs" / setting / f"{recipe.replace(' ', '')}.yaml").write_text(spec)
    if "caltech101" in settings and not (out / "data" / "caltech101").exists():
        with zipfile.ZipFile(data / "images" / "caltech101_112px.zip") as archive:
            archive.extractall(out / "data")


def main() -> int:
    """Prepare, run, tabulate; the status is 0 where all cells that were asked for are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with images/, networks/ and backbones/")
    parser.add_argument("--out", type=Path, default=Path("runs/recipes"), help="folder of data, SPECs and the store")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=[*SETTINGS], help="settings; all by default")
    parser.add_argument("--workers", type=int, default=1, help="cells at once, each on one thread")
    parser.add_argument("--plan", action="store_true", help="say what is left; run nothing")
    parser.add_argument("--tabulate", action="store_true", help="write the page from what there is; run nothing")
    call = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    rows, plan = Rows(HERE), planned()
    wanted = [each for each in plan if each.part in call.only]
    if call.plan:
        for each in wanted:
            if each.key not in rows.known():
                print(f"{each.part}: {each.cell.label}, {each.cell.config.epochs} epochs")
        return 0
    if call.tabulate:
        write_page(rows, plan, DOCS)
        return 0
    if call.data is None:
        parser.error("--data: give the folder with images/, networks/ and backbones/")
    prepare(call.data.resolve(), call.out, tuple(call.only))
    os.chdir(call.out)
    store = Store(STORE, create=True)
    logging.info(f"{rows.restore(plan, store)} committed rows put into the store")
    return status_of(
        lambda: carry_out(wanted, store, rows, call.workers),
        lambda: write_page(rows, plan, DOCS),
    )


if __name__ == "__main__":
    sys.exit(main())
