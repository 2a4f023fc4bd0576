"""How near ``margin`` comes to exact margins, of small ReLU networks on 8 x 8 digits. Two commands, of which the first
takes hours and goes on where it was stopped:

    python benchmarks/evaluation/exact.py --solve [--only NAME ...]
    python benchmarks/evaluation/exact.py [--only NAME ...]

``--solve`` computes exact margins by mixed-integer programming (exact_margin.py) and appends them to
exact_margins.csv, sample by sample; networks that exact_networks.npz lacks are trained first, which other processors
round otherwise. Without it, ``margin`` and what it was before run on the same samples, and exact.csv says how far their
flips lie beyond the exact margins, and what they cost.
"""

import argparse
import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from exact_margin import Layers, exact_margin
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from temper.attacks.attack import perturb
from temper.attacks.losses import cross_entropy
from temper.attacks.pgd import PGD
from temper.attacks.suites import SUITES, Stage, Suite
from temper.attacks.tangent import Tangent
from temper.attacks.targets import linearised_distances, nearest_first
from temper.attacks.work import Work
from temper.evaluation.measurement import measure
from temper.evaluation.samples import from_arrays
from temper.threat import Norm, Threat

HERE = Path(__file__).parent
WEIGHTS, MARGINS, EXCESS = HERE / "exact_networks.npz", HERE / "exact_margins.csv", HERE / "exact.csv"
SAMPLES = 60
EPOCHS = 40
# What ``margin`` was in Linf, and part of what it was in L1.
BEFORE = Suite("tangent 3 x 30", (Stage("tangent", Tangent(30, runs=3), random_start=False),))
# An upper bound to start from: the better it is, the tighter the big M.
BOUND = Suite("bound", (Stage("tangent", Tangent(100, runs=9)),))


@dataclass(frozen=True)
class Network:
    """A network of this benchmark: its hidden layers, the seed, and the radius it is trained to withstand in Linf."""

    hidden: tuple[int, ...]
    seed: int
    eps: float = 0.0


# ``margin`` was tuned on the first two, and is only judged on the others.
NETWORKS = {
    "standard": Network((24, 24), 0),
    "adversarial": Network((24, 24), 0, 0.1),
    "adversarial-1": Network((24, 24), 1, 0.1),
    "adversarial-wide": Network((48,), 3, 0.15),
}


def digits(part: str) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 8, 8] in [0, 1] and labels; every third is for testing."""
    images, labels = load_digits(return_X_y=True)
    chosen = (np.arange(len(labels)) % 3 == 0) == (part == "test")
    return torch.from_numpy(images[chosen] / 16).float().view(-1, 1, 8, 8), torch.from_numpy(labels[chosen]).long()


def module(hidden: tuple[int, ...]) -> nn.Sequential:
    """Such a network with fresh weights."""
    sizes = (64, *hidden, 10)
    pairs = [(nn.Linear(into, out), nn.ReLU()) for into, out in pairwise(sizes)]
    return nn.Sequential(nn.Flatten(), *[each for pair in pairs for each in pair][:-1])


def trained(network: Network) -> nn.Sequential:
    """Trained on digits, with 10 steps of PGD where it has a radius."""
    torch.manual_seed(network.seed)
    model, (x, y) = module(network.hidden), digits("train")
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(EPOCHS):
        for some in torch.randperm(len(y)).split(64):
            images = x[some]
            if network.eps:
                attack = PGD(10, climbs=cross_entropy)
                images = perturb(attack, model, images, y[some], network.eps, "Linf")
            optimiser.zero_grad()
            functional.cross_entropy(model(images), y[some]).backward()
            optimiser.step()
    return model.eval()


def known_networks() -> dict[str, nn.Sequential]:
    """The networks, from exact_networks.npz where it has them."""
    stored = dict(np.load(WEIGHTS)) if WEIGHTS.exists() else {}
    models = {}
    for name, network in NETWORKS.items():
        models[name] = module(network.hidden).eval()
        state = models[name].state_dict()
        if f"{name}/{next(iter(state))}" not in stored:
            models[name] = trained(network)
            stored |= {f"{name}/{key}": value.numpy() for key, value in models[name].state_dict().items()}
            np.savez_compressed(WEIGHTS, **stored)
        models[name].load_state_dict({key: torch.from_numpy(stored[f"{name}/{key}"]) for key in state})
    return models


def layers_of(model: nn.Sequential) -> Layers:
    """Its weights and biases in float64."""
    return [
        (each.weight.detach().double().numpy(), each.bias.detach().double().numpy())
        for each in model
        if isinstance(each, nn.Linear)
    ]


def searched(model: nn.Module, norm: Norm, suite: Suite) -> pd.DataFrame:
    """The evidence table of the suite on the first test images, right or wrong."""
    x, y = digits("test")
    done = measure(model, from_arrays(x[:SAMPLES], y[:SAMPLES]), [Threat(norm, 1.0)], suite, 0)
    if not done.complete:
        raise SystemExit("stopped; rows that are finished are kept")
    return done.table.frame.sort_values("sample").reset_index(drop=True)


def by_linearised_distance(model: nn.Module, image: Tensor, norm: Norm) -> list[int]:
    """The other classes, in the order of their distance were the network linear around the image [1, 1, 8, 8]."""
    label = model(image).argmax(1)
    rivals = torch.tensor([[target for target in range(10) if target != label]])
    far = linearised_distances(model, Work(image, label, torch.zeros(1), rivals), norm)
    order: list[int] = rivals[0, nearest_first(far)[0]].tolist()
    return order


def solve(name: str, model: nn.Sequential, norm: Norm) -> Iterator[dict[str, Any]]:
    """Exact margins of the samples that exact_margins.csv lacks."""
    known = pd.read_csv(MARGINS) if MARGINS.exists() else pd.DataFrame(columns=["network", "norm", "sample"])
    done = set(known[(known["network"] == name) & (known["norm"] == norm)]["sample"])
    if len(done) >= SAMPLES:
        return
    bounds, (x, _), layers = searched(model, norm, BOUND)["upper"], digits("test"), layers_of(model)
    for sample in sorted(set(range(SAMPLES)) - done):
        started = time.perf_counter()
        image = x[sample : sample + 1]
        first = by_linearised_distance(model, image, norm)
        found = exact_margin(layers, image.flatten().double().numpy(), norm, float(bounds[sample]), first)
        yield {
            "network": name, "norm": norm, "sample": sample, "margin": found.margin, "target": found.target,
            "gap": found.gap, "seconds": round(time.perf_counter() - started, 1),
        }  # fmt: skip


def append(path: Path, row: dict[str, Any]) -> None:
    """A row more in a CSV file, on the disk at once: the next may take minutes."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def excess(name: str, model: nn.Module, norm: Norm, suite: Suite, exact: pd.DataFrame) -> dict[str, Any]:
    """How far the suite's flips lie beyond the exact margins, in percent, and its passes per sample."""
    frame = searched(model, norm, suite)
    beyond = 100 * (frame["upper"].to_numpy()[exact["sample"]] / exact["margin"].to_numpy() - 1)
    return {
        "network": name, "norm": norm, "suite": suite.name, "n": len(exact), "mean %": beyond.mean(),
        "within 0.1 %": float((beyond <= 0.1).mean()), "p95 %": float(np.percentile(beyond, 95)),
        "max %": beyond.max(), "min %": beyond.min(), "forward": frame["forward"].mean(),
        "backward": frame["backward"].mean(), "gap": exact["gap"].max(),
    }  # fmt: skip


def keep(row: dict[str, Any]) -> None:
    """A row in exact.csv, in place of an older one."""
    frame = pd.DataFrame([row])
    if EXCESS.exists():
        frame = pd.concat([pd.read_csv(EXCESS), frame]).drop_duplicates(["network", "norm", "suite"], keep="last")
    frame.round(6).to_csv(EXCESS, index=False)


def main() -> None:
    """Solve, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--solve", action="store_true")
    parser.add_argument("--only", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    options = parser.parse_args()
    models = known_networks()
    for name in options.only:
        for norm in ("Linf", "L1"):
            if options.solve:
                for row in solve(name, models[name], norm):
                    append(MARGINS, row)
                continue
            exact = pd.read_csv(MARGINS).query("network == @name and norm == @norm")
            for suite in (SUITES["margin"], BEFORE) if len(exact) else ():
                row = excess(name, models[name], norm, suite, exact)
                print(row, flush=True)
                keep(row)


if __name__ == "__main__":
    main()
