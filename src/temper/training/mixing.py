"""Images that are mixtures of two, with labels that say how much of each class is in them."""

from collections.abc import Callable

import torch
from torch import Tensor

from temper.core import randomness
from temper.models.built import seeded
from temper.training.sections.images import DataConfig

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def make_mix(config: DataConfig, classes: int) -> Mix | None:
    """torchvision's MixUp or CutMix as configured; None where images stay as they are.

    It takes images float [N, C, H, W] and labels int64 [N] of a whole batch and mixes each with its neighbour, all in
    one proportion drawn from Beta(alpha, alpha); of labels it makes shares of the classes, float [N, ``classes``].
    """
    if config.mix == "none":
        return None
    from torchvision.transforms import v2  # a second, which trainings without it need not wait

    kind = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[config.mix]
    mix: Mix = kind(alpha=config.mix_alpha, num_classes=classes)
    return mix


def mixed(mix: Mix, images: Tensor, labels: Tensor, seed: int, epoch: int, batch: int) -> tuple[Tensor, Tensor]:
    """A batch as ``mix`` makes it, by random numbers that belong to this batch of the epoch."""
    with seeded(randomness.number(seed, "mix", epoch, batch)):
        images, labels = mix(images, labels)
    return images.contiguous(memory_format=torch.channels_last), labels
