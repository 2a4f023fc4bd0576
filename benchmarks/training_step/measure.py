"""The cost of one adversarial training step: ours, the sum of its parts, and a plain textbook loop.

Same network (CIFAR ResNet-20), batch (128), attack (PGD-7, Linf 8/255), machine and process. The three are timed in
turn, round after round, so that a drift of the machine's speed hits all alike; medians are reported.

    python benchmarks/training_step/measure.py [--weights resnet20.safetensors] [--threads N] [--rounds N]
        [--precisions fp32 bf16] [--out FILE.json]
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional

from temper import models
from temper.attacks.attack import input_gradient
from temper.attacks.crafting import crafting, foldable
from temper.attacks.losses import cross_entropy
from temper.training import objectives
from temper.training.config import read_config, resolve
from temper.training.crafter import Crafter
from temper.training.update import accumulate

sys.path.insert(0, str(Path(__file__).parents[1] / "epsilon_scheduling"))

BATCH, STEPS, EPS = 128, 7, 8 / 255


def seconds(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    action()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def textbook_step(model: nn.Module, optimiser: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    """Adversarial training as tutorials write it: float32, default layout, ``loss.backward()`` in the attack."""
    model.eval()
    moved = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(STEPS):
        moved.requires_grad_()
        functional.cross_entropy(model(moved), y).backward()
        assert moved.grad is not None
        step = moved.detach() + 2.5 * EPS / STEPS * moved.grad.sign()
        moved = torch.min(torch.max(step, x - EPS), x + EPS).clamp(0, 1)
    model.train()
    optimiser.zero_grad()
    functional.cross_entropy(model(moved), y).backward()
    optimiser.step()


def measure(precision: str, weights: str, rounds: int, threads: int) -> dict[str, float]:
    """Median seconds of our step, its parts and the textbook step, in one precision."""
    torch.set_num_threads(threads)
    config = resolve(read_config({"eps": EPS, "attack": {"name": "pgd", "steps": STEPS}, "precision": precision}))

    def network() -> models.Classifier:
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        return models.load("backbone:resnet20", num_classes=10, weights=weights, image_size=32, mean=mean, std=std)

    fabric = Fabric(accelerator="auto", devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true")
    x = torch.rand(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(fabric.device)
    y, ids = torch.arange(BATCH, device=fabric.device) % 10, torch.arange(BATCH, device=fabric.device)
    fast = x.contiguous(memory_format=torch.channels_last)

    classifier = network()
    fabric.to_device(classifier.to(memory_format=torch.channels_last))
    pairs = foldable(classifier, fast[:2])
    model, optimiser = fabric.setup(classifier, torch.optim.AdamW(classifier.parameters()))
    crafter = Crafter(classifier, pairs, config, fabric.autocast)
    objective = objectives.make("at", crafter.logits, beta=None, label_smoothing=0)

    def ours() -> None:
        classifier.train()
        accumulate(fabric, model, objective, crafter, (fast, y, ids), config.threats, 1, None)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def gradient() -> None:
        with crafting(classifier, pairs) as crafted, fabric.autocast():
            for _ in range(STEPS):
                input_gradient(crafted, fast, lambda logits: cross_entropy(logits, y))

    def update() -> None:
        classifier.train()
        fabric.backward(functional.cross_entropy(model(fast).float(), y))

    plain = fabric.to_device(network())
    plain_optimiser = torch.optim.AdamW(plain.parameters())
    actions: dict[str, Callable[[], object]] = {
        "step": ours,
        "seven input gradients": gradient,
        "forward and backward": update,
        "optimiser": optimiser.step,
        "textbook step": lambda: textbook_step(plain, plain_optimiser, x, y),
    }
    times: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(rounds + 2):
        for name, action in actions.items():
            taken = seconds(action)
            if turn >= 2:  # the first rounds warm up
                times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    parts = ("seven input gradients", "forward and backward", "optimiser")
    ratios = {
        "step / sum of its parts": [times["step"][i] / sum(times[part][i] for part in parts) for i in range(rounds)],
        "speed against textbook": [times["textbook step"][i] / times["step"][i] for i in range(rounds)],
    }
    return medians | {name: statistics.median(values) for name, values in ratios.items()}


def main() -> None:
    """Measure every precision that the hardware has, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="none")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = {}
    for precision in options.precisions:
        numbers = measure(precision, options.weights, options.rounds, options.threads)
        results[precision] = numbers
        print(
            f"\n{precision}, {options.threads} thread(s), ResNet-20, batch {BATCH}, PGD-{STEPS}, "
            f"medians of {options.rounds} rounds"
        )
        for name, value in numbers.items():
            unit = "" if "/" in name or "against" in name else " ms"
            print(f"  {name:28s} {value * (1000 if unit else 1):9.2f}{unit}")
        print(f"  images/s: ours {BATCH / numbers['step']:.0f}, textbook {BATCH / numbers['textbook step']:.0f}")
    if options.out:
        machine = {"torch": torch.__version__, "python": platform.python_version(), "threads": options.threads}
        options.out.write_text(json.dumps({"machine": machine, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
