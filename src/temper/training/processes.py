"""What several processes tell each other; with one, nothing."""

import torch
from lightning_fabric import Fabric
from torch import Tensor


def summed(fabric: Fabric, mine: Tensor) -> Tensor:
    """The sum of every process's tensor, on the CPU."""
    if fabric.world_size == 1:
        return mine.cpu()
    total = fabric.all_reduce(fabric.to_device(mine), reduce_op="sum")
    assert isinstance(total, Tensor)
    return total.cpu()


def anyone(fabric: Fabric, mine: bool) -> bool:
    """Whether any process says yes; all hear the same answer, so that all save at the same step."""
    return summed(fabric, torch.tensor(float(mine))).item() > 0
