"""The batches of an epoch, the same whenever and by however many processes they are asked for."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from temper.core.orphans import serve_parent
from temper.data import Pixels
from temper.training.session import Session, Task


def epoch_batches(task: Task, epoch: int) -> list[NDArray[np.int64]]:
    """Positions of the training samples in each batch of an epoch; sizes differ by at most one sample."""
    order = np.random.default_rng((task.config.seed, epoch)).permutation(len(task.train))
    return np.array_split(order, task.steps_per_epoch)


def batches(session: Session, epoch: int, done: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """This process's part of each batch of an epoch, from batch ``done`` on: images float NCHW, labels, ids."""
    fabric, config = session.fabric, session.task.config
    batches = epoch_batches(session.task, epoch)[done:]
    indices = [[(epoch, int(i)) for i in batch[fabric.global_rank :: fabric.world_size]] for batch in batches]
    loader = DataLoader(
        session.pixels, batch_sampler=indices, num_workers=config.data.workers, worker_init_fn=serve_parent
    )
    for images, labels, ids in loader:
        yield to_pixels(images, fabric.device), labels.to(fabric.device), ids.to(fabric.device)


def to_pixels(images: Tensor, device: torch.device) -> Tensor:
    """uint8 NCHW -> float32 NCHW in [0, 1], channels last, on ``device``."""
    return (images.to(device).float() / 255).contiguous(memory_format=torch.channels_last)


def example(pixels: Pixels, device: torch.device) -> Tensor:
    """Two of the images, as the model takes them: float32 NCHW in [0, 1]."""
    images = torch.stack([pixels[i][0] for i in range(min(2, len(pixels)))])
    return to_pixels(images, device)
