"""Two versions of ``fast``, sample by sample, on every network of the data folder at two radii each in Linf and L2:

    PYTHONPATH=CHECKOUT/src python benchmarks/evaluation/verdicts.py --data ../shared/data --version NAME
    python benchmarks/evaluation/verdicts.py --compare before now

The first measures the Temper that is imported and adds its verdicts to verdicts.csv beside this file, a row per network
and ball as it comes: versions differ in the checkout, and NAME is what a version's rows are called. The second prints
what the later version misses of what the earlier one, or AutoAttack (autoattack.csv), breaks, and what both cost.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from groups import Entry
from masking import BATCH, prepared

from temper.evaluation.measurement import measure
from temper.evaluation.samples import from_arrays
from temper.threat import Norm, Threat

HERE = Path(__file__).parent
# Radii at which some withstand, by how a network was trained.
Balls = dict[Norm, tuple[float, float]]
FRAGILE: Balls = {"Linf": (0.25 / 255, 1 / 255), "L2": (0.05, 0.15)}
SMALL: Balls = {"Linf": (1 / 255, 2 / 255), "L2": (0.15, 0.3)}
ROBUST: Balls = {"Linf": (2 / 255, 4 / 255), "L2": (0.25, 0.5)}
DIGITS: Balls = {"Linf": (0.05, 0.1), "L2": (1.0, 1.5)}
DIGITS_ROBUST: Balls = {"Linf": (0.2, 0.3), "L2": (1.5, 2.0)}
DIGITS_PROVEN: Balls = {"Linf": (0.1, 0.15), "L2": (1.0, 1.5)}
BALLS = {
    "cifar_cnn_a_adv": ROBUST,
    "cifar_cnn_a_mix": ROBUST,
    "cifar_resnet4b": ROBUST,
    "cifar_oval_base": ROBUST,
    "cifar_kw_l2_36px": ROBUST,
    "cifar_vit_pgd_2_3_16": ROBUST,
    "cifar_marabou_small": SMALL,
    "mnist_lenet5_clntrained": DIGITS,
    "mnist_smallcnn_standard": DIGITS,
    "mnist_lenet5_advtrained": DIGITS_ROBUST,
    "mnist_oscarknagg_linf": DIGITS_ROBUST,
    "mnist_smallcnn_trades": DIGITS_ROBUST,
    "mnist_kw_01": DIGITS_PROVEN,
    "mnist_conv_small_diffai": DIGITS_PROVEN,
    "resnet20": FRAGILE,
    "resnet32": FRAGILE,
    "resnet44": FRAGILE,
    "resnet56": FRAGILE,
}
ENTRIES = tuple(
    Entry(network, norm, eps) for network, balls in BALLS.items() for norm, radii in balls.items() for eps in radii
)
COLUMNS = ["version", "case", "n", "broken", "forward", "backward", "seconds"]


def verdicts(entry: Entry, data: Path, suite: str) -> dict[str, Any]:
    """Which samples are wrong or broken, as a text of 0 and 1, and the passes it took."""
    network, x, y = prepared(entry, data)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = measure(network, from_arrays(x, y), [Threat(entry.norm, entry.eps)], suite, 0, batch_size=BATCH)
    if not done.complete:
        raise SystemExit("stopped; rows that are finished are kept")
    frame, seconds = done.table.frame, round(time.perf_counter() - started, 1)
    broken = (frame["label"] != frame["prediction"]) | (frame["upper"] <= entry.eps)
    return {
        "case": entry.name,
        "n": entry.count,
        "broken": "".join(map(str, broken.astype(int))),
        **done.table.passes(),
        "seconds": seconds,
    }


def compared(before: str, now: str, path: Path) -> pd.DataFrame:
    """Missed and gained samples by case, and passes."""
    known = pd.read_csv(path, dtype={"broken": str})
    one, two = (known[known["version"] == version].set_index("case") for version in (before, now))
    aa = pd.read_csv(HERE / "autoattack.csv", dtype={"broken": str}).set_index(["case", "n"])["broken"]
    rows = []
    for case in two.index.intersection(one.index):
        n, mine, theirs = two.loc[case, "n"], *(np.array(list(each.loc[case, "broken"])) == "1" for each in (two, one))
        reference = np.array(list(aa[case, n])) == "1" if (case, n) in aa.index else np.zeros_like(mine)
        rows.append({
            "case": case, "withstood": int((~mine).sum()),
            "missed": " ".join(map(str, np.flatnonzero(theirs & ~mine))),
            "missed of AutoAttack's": " ".join(map(str, np.flatnonzero(reference & ~mine))),
            "gained": " ".join(map(str, np.flatnonzero(mine & ~theirs))),
            **{f"{kind} {v}": each.loc[case, kind] for v, each in ((before, one), (now, two))
               for kind in ("forward", "backward")},
            "times fewer backward": one.loc[case, "backward"] / two.loc[case, "backward"],
            "times fewer in all": one.loc[case, ["forward", "backward"]].sum()
            / two.loc[case, ["forward", "backward"]].sum(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    """Measure a version, or compare two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--version", help="what the rows are called")
    parser.add_argument("--suite", default="fast")
    parser.add_argument("--compare", nargs=2, metavar=("BEFORE", "NOW"))
    parser.add_argument("--only", nargs="*", default=[], help="beginnings of the names of entries")
    parser.add_argument("--out", type=Path, default=HERE / "verdicts.csv")
    options = parser.parse_args()
    if options.compare:
        with pd.option_context("display.max_columns", None, "display.width", 250, "display.max_rows", None):
            before, now = options.compare
            print(compared(before, now, options.out).round(2).to_string())
        return
    torch.set_num_threads(1)
    for entry in ENTRIES:
        if options.only and not entry.name.startswith(tuple(options.only)):
            continue
        row = {"version": options.version, **verdicts(entry, options.data, options.suite)}
        print({name: row[name] for name in COLUMNS if name != "broken"}, flush=True)
        frame = pd.DataFrame([row])
        if options.out.exists():
            before = pd.read_csv(options.out, dtype={"broken": str})
            frame = pd.concat([before, frame]).drop_duplicates(["version", "case"], keep="last")
        frame.to_csv(options.out, index=False)


if __name__ == "__main__":
    main()
