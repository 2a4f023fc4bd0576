"""What the tests of attacks have in common: norms, radii, random streams, images and a network that bends."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from temper.attacks.attack import Attack
from temper.attacks.funnel import Funnel
from temper.core import randomness
from temper.threat import NORMS

EVERY_NORM = pytest.mark.parametrize("norm", NORMS)
EPS = {"Linf": 0.02, "L2": 0.15, "L1": 1.0}  # break some of the bent case's samples, not all


def keys_of(count: int, seed: int = 0) -> Tensor:
    return randomness.sample_keys(seed, torch.arange(count), "attack")


def shorter(attack: Attack, steps: int, runs: int | None = None) -> Attack:
    """The attack with so many steps and runs at most; a funnel's are those of its parts."""
    if not isinstance(attack, Funnel):
        return replace(attack, steps=min(attack.steps, steps), runs=min(attack.runs, runs or attack.runs))
    few = max(steps // 2, 2)
    scouts, strays = (tuple(shorter(each, few) for each in kinds) for kinds in (attack.scouts, attack.strays))
    finishes = tuple(shorter(each, steps) for each in attack.finishes[:2])
    return replace(attack, classes=2, scouts=scouts, strays=strays, finishes=finishes)


def images_of(file: Path, count: int) -> tuple[Tensor, Tensor]:
    with np.load(file) as arrays:
        x = torch.from_numpy(arrays["images"][:count]).permute(0, 3, 1, 2).float() / 255
        return x, torch.from_numpy(arrays["labels"][:count]).long()


def bent_case() -> tuple[nn.Module, Tensor, Tensor]:
    """A random conv net that bends a lot, float64 so that a batch's size does not move gradient signs."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(128, 5)
        ).double()
        for layer in (model[0], model[2], model[5]):
            layer.weight.data *= 3
        x = torch.rand(12, 3, 8, 8, dtype=torch.float64)
    model.requires_grad_(False)
    return model, x, model(x).argmax(1)
