"""``fast`` against AutoAttack, sample by sample, on the networks of groups.py. One command:

    python benchmarks/evaluation/masking.py --data ../shared/data --group judged [--only NAME ...]

Writes masking.csv beside this file, a row per network as it comes. AutoAttack's verdicts are kept in autoattack.csv and
taken from there the next time, for the very same weights; networks of masked.py are trained where theirs are missing.
``--luck SEED`` asks instead how many of the samples that it broke AutoAttack itself misses with another seed: luck.csv.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cases import Case, load, pixels
from groups import JUDGED, TUNED, Entry
from masked import RECIPES, images, masked
from numpy.typing import NDArray
from reference import STANDARD, Reference, autoattack
from torch import Tensor, nn

from temper.errors import TemperWarning
from temper.evaluation.measurement import measure
from temper.evaluation.samples import from_arrays
from temper.models import weights_fingerprint
from temper.threat import Threat

HERE = Path(__file__).parent
BATCH = 64
GROUPS = {"tuned": TUNED, "judged": JUDGED}


def prepared(entry: Entry, data: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, images float NCHW in [0, 1], labels int64 [N]; of a random network its own predictions."""
    if entry.network not in RECIPES:
        source = "mnist_test" if entry.network.startswith("mnist") else "cifar10_test"
        network, raw, labels = load(Case(entry.network, source, entry.norm, entry.eps, entry.count), data)
        return network, pixels(raw), torch.from_numpy(labels)
    network, recipe = masked(entry.network, data), RECIPES[entry.network]
    x, y = (each[: entry.count] for each in images(recipe, data, "test"))
    if not recipe.epochs:
        with torch.no_grad():
            y = network(x).argmax(1)
    return network, x, y


def reference(entry: Entry, data: Path) -> "pd.Series[Any]":
    """AutoAttack's verdict: which samples are wrong or broken, as a text of 0 and 1, and the passes it took."""
    path = HERE / "autoattack.csv"
    columns = ["case", "n", "weights", "broken", "forward", "backward", "seconds"]
    known = pd.read_csv(path, dtype={"broken": str}) if path.exists() else pd.DataFrame(columns=columns)
    network, x, y = prepared(entry, data)
    weights = weights_fingerprint(network)[:12]
    row = known[(known["case"] == entry.name) & (known["n"] == entry.count) & (known["weights"] == weights)]
    if row.empty:
        done = attacked(network, x, y, entry, seed=0)
        verdict = "".join(map(str, done.broken.astype(int)))
        seconds = round(sum(done.seconds.values()))
        values = [entry.name, entry.count, weights, verdict, done.forward, done.backward, seconds]
        row = pd.DataFrame([dict(zip(columns, values, strict=True))])
        known = pd.read_csv(path, dtype={"broken": str}) if path.exists() else known
        pd.concat([known, row]).to_csv(path, index=False)
    return row.iloc[0]


def attacked(network: nn.Module, x: Tensor, y: Tensor, entry: Entry, seed: int) -> Reference:
    """What AutoAttack finds."""
    network = network.requires_grad_(False)
    if x.shape[1] == 1:  # sooner; the package cannot take gradients of several channels in this layout
        network = network.to(memory_format=torch.channels_last)
    with torch.no_grad():
        few = network(x[:1]).shape[1] < 4  # its targeted DLR takes four logits
    attacks = [attack for attack in STANDARD if not (few and attack == "apgd-t")]
    return autoattack(network, x, y, entry.norm, entry.eps, BATCH, attacks, seed)


def lucky(entry: Entry, data: Path, seed: int) -> dict[str, Any]:
    """Which of the samples that AutoAttack broke it misses with another seed."""
    network, x, y = prepared(entry, data)
    theirs = reference(entry, data)
    places = np.flatnonzero(np.array(list(theirs["broken"])) == "1")
    again = attacked(network, x[places], y[places], entry, seed).broken
    missed = " ".join(map(str, places[~again]))
    return {"case": entry.name, "weights": theirs["weights"], "seed": seed, "broken": len(places), "missed": missed}


def compared(entry: Entry, data: Path, all_: bool) -> dict[str, Any]:
    """Sample by sample: what ``fast`` misses and gains, what both cost, and what it warns of; unless ``all_`` are asked
    for, on those alone that AutoAttack broke: what is found on a sample does not depend on the others."""
    theirs = reference(entry, data)
    other = np.array(list(theirs["broken"])) == "1"
    network, x, y = prepared(entry, data)
    samples = from_arrays(x, y)
    if not all_:
        other, samples = other[other], samples.take(np.flatnonzero(other).tolist())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", TemperWarning)
        done = measure(network, samples, [Threat(entry.norm, entry.eps)], "fast", 0, batch_size=BATCH)
    if not done.complete:
        raise SystemExit("stopped; rows that are finished are kept")
    frame = done.table.frame
    mine: NDArray[np.bool_] = ((frame["label"] != frame["prediction"]) | (frame["upper"] <= entry.eps)).to_numpy()
    ids = frame["sample"].to_numpy()
    passes = done.table.passes()
    return {
        "case": entry.name,
        "n": entry.count,
        "attacked": len(samples),
        "broken by autoattack": int(other.sum()),
        "broken by fast": int(mine.sum()),
        "missed": " ".join(map(str, ids[other & ~mine])),
        "gained": " ".join(map(str, ids[mine & ~other])),
        "forward": passes["forward"],
        "backward": passes["backward"],
        "forward of autoattack": theirs["forward"],
        "backward of autoattack": theirs["backward"],
        "warned": " | ".join(str(each.message) for each in told),
    }


def main() -> None:
    """Measure the networks asked for, and keep what was measured of others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--group", choices=list(GROUPS), default="judged")
    parser.add_argument("--only", nargs="*", default=[], help="names of entries")
    parser.add_argument("--reference", action="store_true", help="AutoAttack's verdicts alone")
    parser.add_argument("--broken", action="store_true", help="only samples that AutoAttack broke: what is missed")
    parser.add_argument("--luck", type=int, metavar="SEED", help="AutoAttack against itself with another seed")
    parser.add_argument("--out", type=Path, help="masking.csv, or luck.csv, beside this file")
    options = parser.parse_args()
    for entry in GROUPS[options.group]:
        if options.only and entry.name not in options.only:
            continue
        if options.reference:
            print(reference(entry, options.data).to_dict(), flush=True)
            continue
        if options.luck is not None:
            row = lucky(entry, options.data, options.luck)
            keys, out = ["case", "seed"], options.out or HERE / "luck.csv"
        else:
            row = {"group": options.group, **compared(entry, options.data, not options.broken)}
            keys, out = ["group", "case"], options.out or HERE / "masking.csv"
        print(row, flush=True)
        frame = pd.DataFrame([row])
        if out.exists():
            before = pd.read_csv(out, dtype=dict.fromkeys(["missed", "gained"], str))
            frame = pd.concat([before, frame]).drop_duplicates(keys, keep="last")
        frame.round(6).to_csv(out, index=False)


if __name__ == "__main__":
    main()
