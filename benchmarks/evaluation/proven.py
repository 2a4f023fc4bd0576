"""Instances of the VNN competitions, with verdicts from complete verifiers, searched each at its own radius."""

import json
from pathlib import Path

import numpy as np
import torch
from cases import named_network
from numpy.typing import NDArray
from torch import Tensor, nn

from temper import models
from temper.attacks.crafting import foldable
from temper.attacks.engine import AttackEngine
from temper.attacks.suites import Suite
from temper.attacks.work import Work
from temper.evaluation.search import Findings, search

INSTANCES = [
    "cifar10_resnet21__resnet_4b",
    "oval21__cifar_base_kw",
    "oval22__cifar_base_kw",
    "vit23__pgd_2_3_16",
    "mnistfc21__mnist-net_256x2",
]


def network(data: Path, instances: str) -> nn.Module:
    """The network that a set of instances is about."""
    name = json.loads((data / "proven" / "networks.json").read_text())[instances]
    if name == "onnx":
        return models.load(f"onnx:{data / 'proven' / instances}.onnx")
    return named_network(name, data)


def instances_of(data: Path, name: str, verdict: str) -> tuple[Tensor, Tensor, NDArray[np.float64]]:
    """Images, labels and radii of the instances with this verdict."""
    with np.load(data / "proven" / f"{name}.npz") as arrays:
        chosen = arrays["verdict"] == verdict
        x, y = torch.from_numpy(arrays["x"][chosen]), torch.from_numpy(arrays["label"][chosen])
        return x, y, arrays["eps"][chosen].astype(np.float64)


def attacked(
    model: nn.Module, x: Tensor, y: Tensor, eps: NDArray[np.float64], suite: Suite, *, half: torch.dtype | None
) -> Findings:
    """Every instance searched at its own radius."""
    with torch.no_grad():
        logits, ranked = model(x).double().sort(1, descending=True)
    assert torch.equal(ranked[:, 0], y)
    work = Work(x, y, torch.arange(len(x)), ranked[:, 1:])
    engine = AttackEngine(model, foldable(model, x[:2]), 64, half=half)
    gaps = (logits[:, :1] - logits[:, 1:]).numpy()
    found = Findings(suite.in_norm("Linf"), np.arange(len(x)), gaps)
    for radius in np.unique(eps):
        some = torch.from_numpy(np.flatnonzero(eps == radius))
        for _ in search(engine, work.take(some), "Linf", [float(radius)], found, seed=0):
            pass
    return found
