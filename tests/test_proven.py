"""Networks whose robustness is proven, or disproven, by complete verifiers: no attack may break what is proven, and
the strong suites must break what is known to break."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from temper import models
from temper.attacks.crafting import foldable
from temper.attacks.engine import Engine, Work
from temper.attacks.search import Findings, search
from temper.attacks.suites import SUITES, Suite

INSTANCES = [
    "cifar10_resnet21__resnet_4b",
    "oval21__cifar_base_kw",
    "oval22__cifar_base_kw",
    "vit23__pgd_2_3_16",
    "mnistfc21__mnist-net_256x2",
]


def network(shared_data: Path, instances: str) -> nn.Module:
    name = json.loads((shared_data / "proven" / "networks.json").read_text())[instances]
    if name == "onnx":
        pytest.importorskip("onnx2torch", reason="needs the extra temper[onnx]")
        return models.load(f"onnx:{shared_data / 'proven' / instances}.onnx")
    spec = importlib.util.spec_from_file_location("networks", shared_data / "networks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(name)


def instances_of(shared_data: Path, name: str, verdict: str) -> tuple[Tensor, Tensor, np.ndarray]:
    with np.load(shared_data / "proven" / f"{name}.npz") as arrays:
        chosen = arrays["verdict"] == verdict
        x, y = torch.from_numpy(arrays["x"][chosen]), torch.from_numpy(arrays["label"][chosen])
        return x, y, arrays["eps"][chosen].astype(np.float64)


def attacked(model: nn.Module, x: Tensor, y: Tensor, eps: np.ndarray, suite: Suite, *, bf16: bool) -> Findings:
    """Every instance searched at its own radius."""
    with torch.no_grad():
        ranked = model(x).argsort(1, descending=True)
    assert torch.equal(ranked[:, 0], y)
    work = Work(x, y, torch.arange(len(x)), ranked[:, 1:])
    engine = Engine(model, foldable(model, x[:2]), 64, bf16=bf16)
    found = Findings(suite, np.arange(len(x)))
    for radius in np.unique(eps):
        some = torch.from_numpy(np.flatnonzero(eps == radius))
        for _ in search(engine, work.take(some), "Linf", [float(radius)], found, seed=0):
            pass
    return found


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("suite", ["fast", "margin", "apgd", "pgd"])
@pytest.mark.parametrize("instances", INSTANCES)
def test_no_attack_breaks_what_is_proven(shared_data, instances, suite, bf16):
    """In bf16 too, emulated where the hardware has none; the full standard suite is for benchmarks/evaluation."""
    if bf16 and not any(stage.bf16 for stage in SUITES[suite].stages):
        pytest.skip(f"{suite} searches at full precision only")
    x, y, eps = instances_of(shared_data, instances, "robust")
    assert len(x) >= 5
    inside = eps * (1 - 1e-4)  # the boxes are known to about 1e-7
    found = attacked(network(shared_data, instances), x, y, inside, SUITES[suite], bf16=bf16)
    assert (found.upper > inside).all()
    if suite != "margin":
        assert (found.survived() >= inside).all()


@pytest.mark.parametrize("instances", ["oval21__cifar_base_kw", "mnistfc21__mnist-net_256x2"])
def test_fast_breaks_what_is_known_to_break(shared_data, instances):
    x, y, eps = instances_of(shared_data, instances, "broken")
    assert len(x) >= 2
    radius = eps * (1 + 1e-4)
    found = attacked(network(shared_data, instances), x, y, radius, SUITES["fast"], bf16=False)
    assert (found.upper <= radius).all()
