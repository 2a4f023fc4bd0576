"""One update of the weights: the gradient of a batch, and what the processes share of it."""

from collections.abc import Sequence
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from temper.attacks.losses import predicted
from temper.models import Classifier
from temper.threat import Threat
from temper.training.crafter import Crafter
from temper.training.objectives.objective import Craft, Objective, largest
from temper.training.processes import summed


def accumulate(
    fabric: Fabric,
    model: Any,
    objective: Objective,
    crafter: "Crafter",
    batch: tuple[Tensor, Tensor, Tensor],
    threats: Sequence[Threat],
    epoch: int,
    micro_batch: int | None,
) -> Tensor:
    """Add up the gradient of one batch, ``micro_batch`` samples at a time; of several attacks their mean.

    Returns:
        Number of samples, number correct, and summed loss over all processes: float64 [3].
    """
    x, y, ids = batch
    total = summed(fabric, torch.tensor(float(len(y)))).item()
    sums = torch.zeros(3, dtype=torch.float64)
    # Parts of equal size but for one sample, so that no rest is too small for batch norm.
    parts = list(torch.arange(len(y), device=y.device).tensor_split(-(-len(y) // (micro_batch or len(y)))))
    for part in parts:
        samples = len(part)
        xs, ys = (x, y) if len(parts) == 1 else (x[part], y[part])
        attacks: list[Craft | None] = [*crafter.attacks(threats, epoch, ids[part])] or [None]
        for attack in attacks:
            last = part is parts[-1] and attack is attacks[-1]
            with fabric.no_backward_sync(model, enabled=not last):
                result = objective(model, xs, ys, attack)
                # DDP averages over processes; what is wanted is the mean over the samples of all of them.
                fabric.backward(result.loss * (samples * fabric.world_size / total / len(attacks)))
            correct = (predicted(result.logits.detach()) == largest(ys)).sum().item()
            mine = torch.tensor([samples, correct, result.loss.item() * samples], dtype=torch.float64)
            sums += mine / len(attacks)
    return summed(fabric, sums)


def share_statistics(fabric: Fabric, classifier: Classifier) -> None:
    """Average batch-norm statistics over the processes, so that all craft, validate and resume with the same."""
    if fabric.world_size > 1:
        for statistic in classifier.buffers():
            if statistic.is_floating_point():
                statistic.copy_(summed(fabric, statistic) / fabric.world_size)
