"""Random models: how right evidence on them is, by how many draws an answer takes and by what a flip is held to.

    python benchmarks/evaluation/random_models.py --data ../shared/data [--only NAME ...] [--limit 64]

What an attack calls broken is judged by 1,000 independent votes of the plain model on its adversarial images: a sample
is broken if the class with the most votes is not its label. The attacks: APGD of 20 steps on cross-entropy and towards
nine classes, without ``eot`` and with 1, 4 and 16 draws for an answer; AutoAttack's version for random models, two
attacks of 100 steps with 20 draws. Flips found with 4 draws are also taken as they are (``seen``), and after one look
at 4 other draws (``again``), in place of 100 beyond doubt.

Adds to random_models.csv beside this file, a row for each attack as it comes. Random numbers are seeded.
"""

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from groups import Entry
from masking import prepared
from numpy.typing import NDArray
from reference import Passes
from torch import Tensor, nn
from torch.nn import functional

from temper.attacks import verification
from temper.attacks.apgd import APGD
from temper.attacks.losses import logit_difference_targeted
from temper.attacks.suites import HALF, Stage, Suite
from temper.evaluation.expected import in_expectation
from temper.evaluation.measurement import measure
from temper.evaluation.samples import from_arrays
from temper.margins.intervals import exact
from temper.threat import Threat

HERE = Path(__file__).parent
VOTES = 1000
TARGETED = APGD(20, runs=9, climbs=logit_difference_targeted, wide=True)
SHORT = Suite(
    "short",
    (Stage("apgd-ce", APGD(20, wide=True), bears=HALF), Stage("apgd-t", TARGETED, random_start=False, bears=HALF)),
)


class Noisy(nn.Module):
    """Gaussian noise on the pixels."""

    def __init__(self, network: nn.Module, deviation: float) -> None:
        super().__init__()
        self.network, self.deviation = network, deviation

    def forward(self, x: Tensor) -> Tensor:
        """[N, K]."""
        logits: Tensor = self.network(x + self.deviation * torch.randn_like(x))
        return logits


class Dropped(nn.Dropout):
    """Dropout that is active at test time, too."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...]."""
        return functional.dropout(x, self.p, training=True)


class Resized(nn.Module):
    """Images made smaller by chance and put somewhere on black (Xie et al. 2018, arXiv:1711.01991), a batch alike."""

    def __init__(self, network: nn.Module, least: int) -> None:
        super().__init__()
        self.network, self.least = network, least

    def forward(self, x: Tensor) -> Tensor:
        """[N, K]."""
        full = x.shape[-1]
        size = int(torch.randint(self.least, full + 1, ()))
        left, top = (int(torch.randint(0, full - size + 1, ())) for _ in range(2))
        smaller = functional.interpolate(x, size=size, mode="bilinear")
        logits: Tensor = self.network(functional.pad(smaller, (left, full - size - left, top, full - size - top)))
        return logits


def dropping(network: nn.Module, share: float) -> nn.Module:
    """The network with dropout after its last hidden layer."""
    name, last = [(name, each) for name, each in network.named_modules() if isinstance(each, nn.ReLU)][-1]
    network.set_submodule(name, nn.Sequential(last, Dropped(share)))
    return network


CASES: dict[str, tuple[Entry, Callable[[nn.Module], nn.Module]]] = {
    "mnist noise 0.3": (Entry("mnist_kw_01", "Linf", 0.1), lambda network: Noisy(network, 0.3)),
    "mnist dropout 0.7": (Entry("mnist_conv_small_diffai", "Linf", 0.15), lambda network: dropping(network, 0.7)),
    "cifar noise 0.1": (Entry("cifar_cnn_a_adv", "Linf", 3 / 255), lambda network: Noisy(network, 0.1)),
    "cifar resized": (Entry("cifar_marabou_small", "Linf", 1 / 255), lambda network: Resized(network, 24)),
}


@dataclass(frozen=True)
class Attacked:
    """What an attack came to: adversarial images of those that it calls broken, by place; samples that it calls right
    on their clean image, bool [N]; passes."""

    broken: dict[int, Tensor]
    right: NDArray[np.bool_]
    forward: int
    backward: int


def temper_attack(model: nn.Module, x: Tensor, y: Tensor, entry: Entry, draws: int | None) -> Attacked:
    """APGD of 20 steps, on cross-entropy and towards nine classes."""
    asked = model if draws is None else in_expectation(model, draws, 0, x[:4])
    with tempfile.TemporaryDirectory() as folder:
        threat = [Threat(entry.norm, entry.eps)]
        done = measure(asked, from_arrays(x, y), threat, SHORT, 0, adversarial=Path(folder) / "flips")
        if not done.complete:
            raise SystemExit("stopped; rows that are finished are kept")
        files = done.pack()
        flips: dict[int, Tensor] = {}
        for path in files.values():
            kept = np.load(path, allow_pickle=False)
            flips |= dict(zip(kept["sample"].tolist(), torch.from_numpy(kept["images"]), strict=True))
    frame, passes = done.table.frame.sort_values("sample"), done.table.passes()
    right = (frame["label"] == frame["prediction"]).to_numpy()
    return Attacked({k: image for k, image in flips.items() if right[k]}, right, passes["forward"], passes["backward"])


def autoattack_rand(model: nn.Module, x: Tensor, y: Tensor, entry: Entry) -> Attacked:
    """AutoAttack's version for random models."""
    from pyautoattack import AutoAttack

    counted = Passes(model)
    adversary = AutoAttack(counted, norm=entry.norm, eps=entry.eps, version="rand", seed=0, device="cpu")
    adversary.verbose = False
    moved, becomes = adversary.run_standard_evaluation(x, y, batch_size=64)
    changed = (moved != x).flatten(1).any(1).numpy()
    flips = {int(k): moved[k] for k in np.flatnonzero(changed)}
    right = changed | (becomes == y).numpy()
    return Attacked(flips, right, counted.forward_rows, counted.backward_rows)


@contextmanager
def held_to(rule: str) -> Iterator[None]:
    """Inside, a flip counts as it was seen, or after one look at other draws."""

    def by_one_answer(model: nn.Module, images: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return verification.anew(model)(images), torch.ones_like(y, dtype=torch.bool)

    with mock.patch.object(verification, "decided", by_one_answer):
        if rule == "again":
            yield
        else:
            with mock.patch.object(verification, "anew", lambda model: model):
                yield


@torch.no_grad()
def majority(model: nn.Module, images: Tensor, classes: int = 10) -> Tensor:
    """The class with the most of 1,000 independent votes: int64 [N]."""
    votes = torch.zeros(len(images), classes, dtype=torch.int64)
    for _ in range(VOTES):
        votes += functional.one_hot(model(images).argmax(1), classes)
    return votes.argmax(1)


def judged(model: nn.Module, y: Tensor, found: Attacked, clean: Tensor) -> dict[str, object]:
    """What an attack claims, and what the votes say of its images, given those of the clean ones, int64 [N]."""
    places, n = sorted(found.broken), len(y)
    voted = majority(model, torch.stack([found.broken[k] for k in places])) if places else torch.zeros(0)
    false = [k for k, becomes in zip(places, voted.tolist(), strict=True) if becomes == int(y[k])]
    truly = set(places) - set(false)
    standing = sum(bool(clean[k] == y[k]) and k not in truly for k in range(n))
    low, high = exact(standing, n)
    return {
        "n": n, "clean": found.right.mean(), "robust": found.right.mean() - len(places) / n,
        "clean by votes": float((clean == y).float().mean()), "robust by votes": standing / n, "low": low, "high": high,
        "broken": len(places), "of these not by votes": len(false),
        "forward": round(found.forward / n), "backward": round(found.backward / n),
    }  # fmt: skip


def attacks(entry: Entry) -> dict[str, Callable[[nn.Module, Tensor, Tensor], Attacked]]:
    """Each attack by its name."""

    def by(draws: int | None) -> Callable[[nn.Module, Tensor, Tensor], Attacked]:
        return lambda model, x, y: temper_attack(model, x, y, entry, draws)

    def loosely(rule: str) -> Callable[[nn.Module, Tensor, Tensor], Attacked]:
        def attacked(model: nn.Module, x: Tensor, y: Tensor) -> Attacked:
            with held_to(rule):
                return temper_attack(model, x, y, entry, 4)

        return attacked

    return {
        "no eot": by(None), "eot 1": by(1), "eot 4": by(4), "eot 16": by(16),
        "eot 4, seen": loosely("seen"), "eot 4, again": loosely("again"),
        "autoattack rand": lambda model, x, y: autoattack_rand(model, x, y, entry),
    }  # fmt: skip


def main() -> None:
    """Measure every case with every attack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--out", type=Path, default=HERE / "random_models.csv")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[dict[Any, Any]] = []
    if arguments.out.exists():
        rows += pd.read_csv(arguments.out).to_dict("records")
    for name in arguments.only:
        entry, randomised = CASES[name]
        network, x, y = prepared(entry, arguments.data)
        x, y = x[: arguments.limit], y[: arguments.limit]
        model = randomised(network).eval()
        torch.manual_seed(0)
        clean = majority(model, x)
        for attack, run in attacks(entry).items():
            torch.manual_seed(1)
            started = time.perf_counter()
            found = run(model, x, y)
            seconds = time.perf_counter() - started
            torch.manual_seed(2)
            rows = [each for each in rows if (each["case"], each["attack"]) != (name, attack)]
            told = judged(model, y, found, clean)
            rows.append({"case": name, "attack": attack, **told, "seconds": round(seconds)})
            print(rows[-1], flush=True)
            pd.DataFrame(rows).round(4).to_csv(arguments.out, index=False)


if __name__ == "__main__":
    main()
