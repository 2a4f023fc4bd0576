"""Is there a schedule as good as fixed epsilon at the full epsilon and as hinge below it? One command:

    python benchmarks/study/winner.py --data ../shared/data [--out runs/study] [--workers 2]

One cell of the study (MobileNetV2, Caltech101, Linf 4/255) with 400 test images, on three seeds of its own. It
goes on as study.py does, keeps its rows in winner/, and writes them into docs/study.md.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "shared"))

from carrying_out import carry_out, status_of
from committed_rows import Rows
from study_cells import planned as study_planned
from study_page import WINNER, write_page
from winner_cells import planned

from study import DOCS, prepare
from temper.benchmark.store import Store

HERE = Path(__file__).resolve().parent
STORE = "winner"


def main() -> int:
    """Prepare, run, tabulate; the status is 0 where all cells are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/ and backbones/")
    parser.add_argument("--out", type=Path, default=Path("runs/study"), help="folder of data, weights and the store")
    parser.add_argument("--workers", type=int, default=1, help="cells at once, each on one thread")
    call = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    prepare(call.data, call.out)
    rows, plan = Rows(WINNER), planned()
    os.chdir(call.out)
    store = Store(STORE, create=True)
    rows.restore(plan, store)
    return status_of(
        lambda: carry_out(plan, store, rows, call.workers),
        lambda: write_page(Rows(HERE), study_planned(), DOCS),
    )


if __name__ == "__main__":
    sys.exit(main())
