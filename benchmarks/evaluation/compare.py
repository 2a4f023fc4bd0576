"""Sound, strong, fast: the suites beside AutoAttack, on the same samples. One command:

    python benchmarks/evaluation/compare.py --data ../shared/data [--parts agreement proven nearest speed curve]
        [--threads N] [--only CASE ...]

Writes a CSV per part beside this file; rows that are there already are kept, except of what is measured anew. The
parts ``speed`` and ``curve`` time things: nothing else should run meanwhile.

- agreement: sample by sample, what AutoAttack's standard version breaks and what ``standard`` and ``fast`` break.
- proven: instances with verdicts from complete verifiers, searched by both suites.
- nearest: distances of the suite ``margin`` beside FAB-T (9 x 100) and FMN (100), and the passes of each.
- speed: wall time and passes on robust networks, one the size of a ResNet-20 and a small one, and on a fragile one. The
  first is a run of benchmarks/epsilon_scheduling: start here after
  ``python benchmarks/epsilon_scheduling/run.py --data DATA --only grid-0-0.25``.
- curve: nine radii against the last alone.
"""

import argparse
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cases import CASES, Case, load, pixels
from proven import INSTANCES, attacked, instances_of, network
from reference import autoattack

from temper.attacks.fab import FABTargeted
from temper.attacks.fmn import FMN
from temper.attacks.suites import SUITES, Stage, Suite
from temper.core.precision import half
from temper.evaluation.measurement import Evaluation, measure
from temper.evaluation.samples import from_arrays
from temper.threat import Threat

HERE = Path(__file__).parent
BATCH = 64
# A ResNet-20 of the Epsilon-Scheduling benchmark.
ROBUST = Case("runs/epsilon_scheduling/grid-0-0.25-seed0", "cifar100_20classes_test", "Linf", 4 / 255, 64, every=31)
MORE = replace(ROBUST, count=250, every=8)
SMALL = Case("cifar_resnet4b", "cifar10_test", "Linf", 4 / 255, 128)
FRAGILE = Case("resnet20", "cifar10_test", "Linf", 8 / 255, 128)
NETWORKS = ("cifar_resnet4b", "cifar_cnn_a_adv", "resnet20", "mnist_lenet5_advtrained", "mnist_smallcnn_trades")
NEAREST = {
    "fab-t 9x100": Suite("fab-t", (Stage("fab-t", FABTargeted(100, runs=9), random_start=False),)),
    "fmn 100": Suite("fmn", (Stage("fmn", FMN(100), random_start=False),)),
    "margin": SUITES["margin"],
}


def ours(case: Case, data: Path, suite: str | Suite, radii: list[float] | None = None) -> Evaluation:
    """A suite on a case."""
    network, images, labels = load(case, data)
    threats = [Threat(case.norm, eps) for eps in radii or [case.eps]]
    done = measure(network, from_arrays(images, labels), threats, suite, 0, batch_size=BATCH)
    if not done.complete:
        raise SystemExit("stopped; rows that are finished are kept")
    return done


def broken(done: Evaluation, eps: float) -> np.ndarray:
    """Which samples are wrong or have a flip within eps: bool [N]."""
    frame = done.table.frame
    return ((frame["label"] != frame["prediction"]) | (frame["upper"] <= eps)).to_numpy()


def reference(case: Case, data: Path) -> np.ndarray:
    """Which samples are wrong or broken by AutoAttack: bool [N]; kept in autoattack.csv, for it takes long."""
    path = HERE / "autoattack.csv"
    known = pd.read_csv(path, dtype={"broken": str}) if path.exists() else pd.DataFrame(columns=["case", "n", "broken"])
    row = known[(known["case"] == case.name) & (known["n"] == case.count)]
    if row.empty:
        network, images, labels = load(case, data)
        found = autoattack(network, pixels(images), torch.from_numpy(labels), case.norm, case.eps, BATCH).broken
        row = pd.DataFrame([{"case": case.name, "n": case.count, "broken": "".join(map(str, found.astype(int)))}])
        pd.concat([known, row]).to_csv(path, index=False)
    return np.array(list(row["broken"].iloc[0])) == "1"


def agreement(data: Path, only: list[str]) -> Iterator[dict[str, Any]]:
    """Sample by sample against AutoAttack."""
    for case in CASES:
        if only and case.name not in only:
            continue
        theirs = reference(case, data)
        for suite in ("standard", "fast"):
            done = ours(case, data, suite)
            mine, passes = broken(done, case.eps), done.table.passes()
            yield {
                "case": case.name,
                "suite": suite,
                "n": case.count,
                "clean": done.table.clean_accuracy().value,
                "autoattack": float((~theirs).mean()),
                "temper": float((~mine).mean()),
                "missed": " ".join(map(str, np.flatnonzero(theirs & ~mine))),
                "gained": " ".join(map(str, np.flatnonzero(mine & ~theirs))),
                "forward": passes["forward"],
                "backward": passes["backward"],
            }


def nearest(data: Path, only: list[str]) -> Iterator[dict[str, Any]]:
    """Distances of searches for the nearest flip, on the same 64 samples."""
    for name in NETWORKS:
        images = "mnist_test" if name.startswith("mnist") else "cifar10_test"
        for norm in ("Linf", "L2", "L1"):
            case = Case(name, images, norm, 1.0, 64)
            if only and f"{name}-{norm}" not in only:
                continue
            tables = {attack: ours(case, data, suite).table for attack, suite in NEAREST.items()}
            uppers = {attack: table.frame["upper"].to_numpy() for attack, table in tables.items()}
            everyone = np.logical_and.reduce([np.isfinite(upper) for upper in uppers.values()])
            for attack, table in tables.items():
                others = np.minimum.reduce([upper for other, upper in uppers.items() if other != attack])
                yield {
                    "case": f"{name}-{norm}",
                    "attack": attack,
                    "n": int(everyone.sum()),
                    "found": int(np.isfinite(uppers[attack]).sum()),
                    "mean": float(uppers[attack][everyone].mean()),
                    "median": float(np.median(uppers[attack][everyone])),
                    "best by 1 %": int((uppers[attack] < 0.99 * others).sum()),
                    "forward": table.passes()["forward"] / len(table),
                    "backward": table.passes()["backward"] / len(table),
                }


def proven(data: Path, only: list[str]) -> Iterator[dict[str, Any]]:
    """Proven and broken instances of the VNN competitions."""
    for name in INSTANCES:
        for suite in ("standard", "fast", "margin"):
            for verdict, share in (("robust", 1 - 1e-4), ("broken", 1 + 1e-4), ("open", 1.0)):
                x, y, eps = instances_of(data, name, verdict)
                if len(x):
                    found = attacked(network(data, name), x, y, eps * share, SUITES[suite], half=half("cpu"))
                    hit = found.upper <= eps * share
                    spared = " ".join(map(str, np.flatnonzero(~hit))) if verdict == "broken" else ""
                    yield {
                        "instances": name, "suite": suite, "verdict": verdict, "n": len(x),
                        "broken": int(hit.sum()), "not broken": spared,
                    }  # fmt: skip


def speed(data: Path, only: list[str]) -> Iterator[dict[str, Any]]:
    """Wall time and passes, in one process, in turn."""
    for case in (ROBUST, MORE, SMALL, FRAGILE):
        if only and case.name not in only:
            continue
        network, images, labels = load(case, data)
        started = time.perf_counter()
        theirs = autoattack(network, pixels(images), torch.from_numpy(labels), case.norm, case.eps, BATCH)
        base = time.perf_counter() - started
        yield {
            "case": case.name, "attack": "autoattack", "n": case.count, "robust": float((~theirs.broken).mean()),
            "seconds": base, "times as fast": 1.0, "forward": theirs.forward, "backward": theirs.backward,
            **theirs.seconds,
        }  # fmt: skip
        for suite in ("standard", "fast"):
            done = ours(case, data, suite)
            yield {
                "case": case.name, "attack": suite, "n": case.count,
                "robust": done.table.robust_accuracy(case.norm, case.eps).value, "seconds": done.seconds,
                "times as fast": base / done.seconds, **done.table.passes(),
            }  # fmt: skip


def curve(data: Path, only: list[str]) -> Iterator[dict[str, Any]]:
    """Clean accuracy and eight radii up to 8/255, against the last alone."""
    for suite in ("fast", "standard"):
        for case in (*(replace(case, eps=8 / 255) for case in (ROBUST, SMALL)), FRAGILE):
            if only and case.name not in only:
                continue
            single, all_ = ours(case, data, suite), ours(case, data, suite, [case.eps * k / 8 for k in range(1, 9)])
            yield {
                "case": case.name, "suite": suite, "n": case.count,
                "curve": " ".join(f"{e.value:.3f}" for e in all_.table.accuracy_curve(
                    case.norm, [case.eps * k / 8 for k in range(9)]
                )),
                "seconds of the last": single.seconds, "seconds of all": all_.seconds,
                "times as long": all_.seconds / single.seconds,
                "times the passes": sum(all_.table.passes().values()) / sum(single.table.passes().values()),
            }  # fmt: skip


PARTS = {"agreement": agreement, "proven": proven, "nearest": nearest, "speed": speed, "curve": curve}
KEYS = {
    "agreement": ["case", "suite"],
    "proven": ["instances", "suite", "verdict"],
    "nearest": ["case", "attack"],
    "speed": ["case", "attack", "n"],
}


def main() -> None:
    """Measure the parts asked for, and keep what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--only", nargs="*", default=[], help="names of cases")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sys.path.insert(0, str(HERE.parent / "epsilon_scheduling"))  # the robust network's architecture
    print(f"torch {torch.__version__}, Python {platform.python_version()}, {options.threads} threads")
    for part in options.parts:
        path = HERE / f"{part}.csv"
        for row in PARTS[part](options.data.resolve(), options.only):
            print(row, flush=True)
            frame = pd.DataFrame([row])
            if path.exists():  # each row is written as it comes
                key = KEYS.get(part, list(row)[:2])
                frame = pd.concat([pd.read_csv(path), frame]).drop_duplicates(key, keep="last")
            frame.round(6).to_csv(path, index=False)


if __name__ == "__main__":
    main()
