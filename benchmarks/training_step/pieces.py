"""What each piece of training adds to a step, against the sum of its parts: the passes that it is said to cost.

Network, batch and attack as in ``measure.py``, float32, on one thread of the CPU. Steps and parts are timed in turn,
round after round, by the processor time of the process, which other work changes less than wall time; the
ratio is the median over the rounds.

    python benchmarks/training_step/pieces.py [--rounds N] [--out FILE.json]
"""

import argparse
import copy
import json
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from measure import BATCH, STEPS
from torch import Tensor, nn
from torch.nn import functional

from temper import models
from temper.attacks.crafting import foldable
from temper.attacks.losses import cross_entropy
from temper.models import Classifier
from temper.threat import Threat
from temper.training import objectives
from temper.training.averaging import MovingAverage
from temper.training.branch import TwoBranches, add_branch
from temper.training.config import FinetuneConfig, read_config, resolve
from temper.training.crafter import Crafter
from temper.training.perturbation import at_perturbed_weights
from temper.training.update import accumulate
from temper.training.wings import TwoWings, add_wing

THREATS = (Threat("Linf", 4 / 255), Threat("L1", 12.0))
GAMMA = 0.005
UPDATE, OPTIMISER, LOOK = "forward and backward", "optimiser", "look"
CRAFTS = {threat.norm: f"attack in {threat.norm}" for threat in THREATS}
#: Of what each step is made, and how often.
PARTS: dict[str, Mapping[str, int]] = {
    "plain": {CRAFTS["Linf"]: 1, UPDATE: 1, OPTIMISER: 1},
    "ema": {CRAFTS["Linf"]: 1, UPDATE: 1, OPTIMISER: 1},
    "awp": {CRAFTS["Linf"]: 1, UPDATE: 2, OPTIMISER: 1},
    "e-at, drawn L1": {CRAFTS["L1"]: 1, UPDATE: 1, OPTIMISER: 1},
    "max": {CRAFTS["Linf"]: 1, CRAFTS["L1"]: 1, LOOK: 2, UPDATE: 1, OPTIMISER: 1},
    "avg": {CRAFTS["Linf"]: 1, CRAFTS["L1"]: 1, UPDATE: 2, OPTIMISER: 1},
    "margin": {CRAFTS["Linf"]: 1, LOOK: 2, UPDATE: 1, OPTIMISER: 1},
    "autolora": {CRAFTS["Linf"]: 1, UPDATE: 2, OPTIMISER: 1},
    "twins": {CRAFTS["Linf"]: 1, UPDATE: 1, OPTIMISER: 1},
}


def configured(union: str) -> FinetuneConfig:
    """PGD with the steps of ``measure.py`` in both norms, which share a batch so."""
    eps = [threat.eps for threat in THREATS]
    attack = {"name": "pgd", "steps": STEPS, "union": union}
    return resolve(read_config({"norm": "Linf,L1", "eps": eps, "attack": attack, "precision": "fp32"}))


class Bench:
    """A network in training, its steps and their parts."""

    def __init__(self) -> None:
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        loaded = models.load("backbone:resnet20", num_classes=10, weights="none", image_size=32, mean=mean, std=std)
        self.fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
        self.classifier = loaded.to(memory_format=torch.channels_last)
        x = torch.rand(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        self.x, self.y = x.contiguous(memory_format=torch.channels_last), torch.arange(BATCH) % 10
        self.pairs = foldable(self.classifier, self.x[:2])
        made = torch.optim.AdamW(self.classifier.parameters(), lr=1e-5)
        self.model, self.optimiser = self.fabric.setup(self.classifier, made)
        self.average = MovingAverage(self.classifier, 0.999)
        self.crafters = {
            union: Crafter(self.classifier, self.pairs, configured(union), self.fabric.autocast)
            for union in ("e-at", "max", "avg")
        }
        self.crafters["margin"] = Crafter(
            self.classifier, self.pairs, configured("e-at"), self.fabric.autocast, slopes={"Linf": 100.0}
        )
        branched, winged = copy.deepcopy(loaded), copy.deepcopy(loaded)
        add_branch(branched, rank=8)
        add_wing(winged)
        self.beside = {
            "autolora": self.beginning(branched, TwoBranches(branched)),
            "twins": self.beginning(winged, TwoWings(winged)),
        }

    def beginning(self, classifier: Classifier, asked: nn.Module) -> tuple[Classifier, Any, Any, Crafter]:
        """A classifier, what its updates go through, their optimiser and what crafts for them."""
        model, optimiser = self.fabric.setup(asked, torch.optim.AdamW(classifier.parameters(), lr=1e-5))
        pairs = foldable(classifier, self.x[:2])
        return classifier, model, optimiser, Crafter(classifier, pairs, configured("e-at"), self.fabric.autocast)

    def step_of(self, objective: str) -> None:
        """An update of AutoLoRa, whose branch is right about half of the images, or of TWINS."""
        classifier, model, optimiser, crafter = self.beside[objective]
        classifier.train()
        made = objectives.make(objective, crafter.logits, None, 0, natural_accuracy=0.5)
        batch = (self.x, self.y, torch.arange(BATCH))
        accumulate(self.fabric, model, made, crafter, batch, THREATS[:1], 1, None)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def step(self, threats: tuple[Threat, ...] = THREATS[:1], union: str = "e-at", piece: str = "") -> None:
        """An update as the loop makes it."""
        self.classifier.train()
        crafter = self.crafters[union]
        objective = objectives.make("at", crafter.logits, beta=None, label_smoothing=0)
        batch = (self.x, self.y, torch.arange(BATCH))
        gradient: Callable[[], Tensor] = partial(
            accumulate, self.fabric, self.model, objective, crafter, batch, threats, 1, None
        )
        if piece == "awp":
            at_perturbed_weights(gradient, self.classifier, crafter, GAMMA)
        else:
            gradient()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if piece == "ema":
            self.average.after_step(self.classifier, 1000)

    def craft(self, threat: Threat) -> None:
        """The inner attack of a batch."""
        (attack,) = self.crafters["e-at"].attacks([threat], 1, torch.arange(BATCH))
        attack(self.x, self.y, cross_entropy)

    def update(self) -> None:
        """A pass forward and backward in train mode."""
        self.classifier.train()
        self.fabric.backward(functional.cross_entropy(self.model(self.x).float(), self.y))

    @torch.no_grad()
    def look(self) -> None:
        """A forward pass as attacks see the model."""
        self.crafters["e-at"].logits(self.x)


def measure(rounds: int) -> dict[str, Any]:
    """Median seconds of processor time of every step and part, and of each step the ratio to the sum of its parts."""
    bench = Bench()
    steps: dict[str, Callable[[], None]] = {
        "plain": bench.step,
        "ema": partial(bench.step, piece="ema"),
        "awp": partial(bench.step, piece="awp"),
        "e-at, drawn L1": partial(bench.step, THREATS[1:]),
        "max": partial(bench.step, THREATS, "max"),
        "avg": partial(bench.step, THREATS, "avg"),
        "margin": partial(bench.step, union="margin"),
        "autolora": partial(bench.step_of, "autolora"),
        "twins": partial(bench.step_of, "twins"),
    }
    parts: dict[str, Callable[[], None]] = {CRAFTS[each.norm]: partial(bench.craft, each) for each in THREATS}
    parts |= {UPDATE: bench.update, OPTIMISER: bench.optimiser.step, LOOK: bench.look}
    times: dict[str, list[float]] = {name: [] for name in (*steps, *parts)}
    for turn in range(rounds + 1):
        for name, action in (steps | parts).items():
            started = time.process_time()
            action()
            taken = time.process_time() - started
            if turn:  # the first round warms up
                times[name].append(taken)
    ratios = {
        name: [
            times[name][k] / sum(count * times[part][k] for part, count in Counter(made_of).items())
            for k in range(rounds)
        ]
        for name, made_of in PARTS.items()
    }
    return {
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "step / sum of its parts": {name: statistics.median(values) for name, values in ratios.items()},
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.rounds)
    print(f"Processor time of one thread, medians of {options.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    for name, value in found["seconds"].items():
        ratio = found["step / sum of its parts"].get(name)
        print(f"  {name:24s} {1000 * value:9.1f} ms" + (f"   {ratio:.3f} of its parts" if ratio else ""))
    if options.out:
        machine = {"torch": torch.__version__, "python": platform.python_version()}
        options.out.write_text(json.dumps({"machine": machine, "load": os.getloadavg(), **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
