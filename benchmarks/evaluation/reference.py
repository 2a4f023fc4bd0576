"""The reference: AutoAttack in its standard version, as the package pyautoattack drives it. A module of compare.py."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

STANDARD = ("apgd-ce", "apgd-t", "fab-t", "square")


@dataclass(frozen=True)
class Reference:
    """What AutoAttack found: which samples are wrong or broken, bool [N], seconds per attack, and passes."""

    broken: NDArray[np.bool_]
    seconds: dict[str, float]
    forward: int
    backward: int


class Passes(nn.Module):
    """Counts passes, a row each; every forward pass on images that need a gradient is followed by a backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forward_rows, self.backward_rows = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        self.forward_rows += len(x)
        self.backward_rows += len(x) * x.requires_grad
        # Gradients come back in the plain layout, the only one that the package takes.
        logits: Tensor = self.model(x.flatten(1).view(x.shape))
        return logits


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: str,
    eps: float,
    batch_size: int,
    attacks: Sequence[str] = STANDARD,
    seed: int = 0,
) -> Reference:
    """Run the attacks one after another on what the ones before left standing, as AutoAttack does."""
    from pyautoattack import AutoAttack

    counted = Passes(model)
    logits = torch.cat([model(part) for part in x.split(batch_size)])
    standing = logits.argmax(1) == y
    targets = min(9, logits.shape[1] - 1)  # the package asks for 9 of however few
    seconds = {}
    for attack in attacks:
        adversary = AutoAttack(counted, norm=norm, eps=eps, version="custom", attacks=[attack], seed=seed, device="cpu")
        adversary.verbose = False
        # The budgets of the standard version.
        adversary.apgd.n_restarts = 1
        adversary.apgd_targeted.n_restarts, adversary.apgd_targeted.n_target_classes = 1, targets
        adversary.fab.n_restarts, adversary.fab.n_target_classes = 1, targets
        adversary.square.n_queries = 5000
        if norm == "L1":
            adversary.apgd.use_largereps = adversary.apgd_targeted.use_largereps = True
        started = time.perf_counter()
        left = torch.nonzero(standing).flatten()
        if len(left):
            moved = adversary.run_standard_evaluation(x[left], y[left], batch_size=batch_size)
            moved = moved[0] if isinstance(moved, tuple) else moved
            flips = torch.cat([model(part).argmax(1) for part in moved.split(batch_size)]) != y[left]
            standing[left[flips]] = False
        seconds[attack] = time.perf_counter() - started
    return Reference((~standing).numpy(), seconds, counted.forward_rows, counted.backward_rows)
