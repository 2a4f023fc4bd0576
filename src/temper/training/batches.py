"""The batches of an epoch, the same whenever and by however many processes they are asked for."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from temper.core.orphans import serve_parent
from temper.data import Pixels
from temper.training.drawing import repeats
from temper.training.mixing import make_mix, mixed
from temper.training.session import Session, Task


def epoch_batches(task: Task, epoch: int) -> list[NDArray[np.int64]]:
    """Positions among ``task.images`` in each batch of an epoch; sizes differ by at most one sample."""
    return task.source.batches(task.steps_per_epoch, task.config.seed, epoch)


def batches(session: Session, epoch: int, done: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """This process's part of each batch of an epoch, from batch ``done`` on: images float NCHW, labels, ids.

    Images are mixed with their neighbours in the whole batch, which every process then loads, so that any number of
    them mixes the same ones.
    """
    fabric, config = session.fabric, session.task.config
    mix = make_mix(config.data, session.task.train.num_classes)
    mine = slice(fabric.global_rank, None, fabric.world_size)
    drawn = epoch_batches(session.task, epoch)
    uses = [
        list(zip(batch.tolist(), before.tolist(), strict=True))
        for batch, before in zip(drawn, repeats(drawn), strict=True)
    ]
    indices = [[(epoch, *use) for use in (batch if mix else batch[mine])] for batch in uses[done:]]
    loader = DataLoader(
        session.pixels, batch_sampler=indices, num_workers=config.data.workers, worker_init_fn=serve_parent
    )
    for index, (images, labels, ids) in enumerate(loader, start=done):
        x, y, ids = to_pixels(images, fabric.device), labels.to(fabric.device), ids.to(fabric.device)
        if mix:
            x, y = (each[mine] for each in mixed(mix, x, y, config.seed, epoch, index))
            ids = ids[mine]
        yield x, y, ids


def to_pixels(images: Tensor, device: torch.device) -> Tensor:
    """uint8 NCHW -> float32 NCHW in [0, 1], channels last, on ``device``."""
    return (images.to(device).float() / 255).contiguous(memory_format=torch.channels_last)


def example(pixels: Pixels, device: torch.device) -> Tensor:
    """Two of the images, as the model takes them: float32 NCHW in [0, 1]."""
    images = torch.stack([pixels[i][0] for i in range(min(2, len(pixels)))])
    return to_pixels(images, device)
