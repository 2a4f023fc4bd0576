"""How many samples fit: batch sizes from image size and memory."""

import numpy as np
import torch
from torch import Tensor, nn

from temper.attacks.attack import input_gradient
from temper.attacks.crafting import crafting

SHARE = 0.6  # of the GPU's free memory that a batch may take; attacks keep some images of their own
PROBE = 8


def fitting_batch(model: nn.Module, x: Tensor) -> int:
    """Samples to attack at once.

    On a GPU what its memory holds, from the peak of a pass and input gradient of a few; on the CPU by image size, as
    larger batches are no faster there.

    Args:
        model: float [N, C, H, W] in [0, 1] to logits.
        x: one such image, on the model's device.
    """
    if not x.is_cuda:
        return int(np.clip(64 * 64**2 // x.shape[-2:].numel(), 16, 128))
    few = x.repeat(PROBE, 1, 1, 1)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with crafting(model):
        input_gradient(model, few, lambda logits: logits.sum(1))
    each = max(torch.cuda.max_memory_allocated() - before, 1) / PROBE + 12 * few[0].numel() * 4
    free = torch.cuda.mem_get_info()[0]
    return int(2 ** np.floor(np.log2(np.clip(SHARE * free / each, 1, 2048))))
