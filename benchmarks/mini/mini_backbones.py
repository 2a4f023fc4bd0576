"""The four backbones, each as a factory that Temper loads as ``mini_backbones:NAME``; pixels in [0, 1] in, logits out.

Three were trained by others, two of them with robustness (see ``networks.json`` of the data), a small timm network is
pretrained by ``pretrain.py``. The folder of the data and that of the pretrained weights come from the environment:
worker processes inherit them.
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

DATA, WEIGHTS = "MINI_DATA", "MINI_WEIGHTS"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "convnext_small": ("convnext_atto", {"dims": (24, 48, 96, 192), "depths": (2, 2, 4, 2), "patch_size": 2}),
}


class Normalised(nn.Module):
    """A timm network on pixels."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network((x - self.mean) / self.std)
        return logits


def fresh(name: str) -> Normalised:
    """One of the small timm networks, at random weights, for CIFAR-10."""
    architecture, arguments = SMALL[name]
    return Normalised(timm.create_model(architecture, num_classes=10, **arguments))


def convnext_small() -> nn.Module:
    return _pretrained("convnext_small")


def resnet4b_robust() -> nn.Module:
    return _by_others("cifar_resnet4b")


def cnn_small() -> nn.Module:
    return _by_others("cifar_marabou_small")


def vit_robust() -> nn.Module:
    return _by_others("cifar_vit_pgd_2_3_16")


def _pretrained(name: str) -> nn.Module:
    network = fresh(name)
    network.load_state_dict(load_file(Path(os.environ[WEIGHTS]) / f"{name}.safetensors"))
    return network


def _by_others(name: str) -> nn.Module:
    path = Path(os.environ[DATA]) / "networks.py"
    spec = importlib.util.spec_from_file_location("networks", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: nn.Module = module.load(name)
    return network
