"""Pictures to corrupt, how much that changes them, and a model that tells dark from bright."""

import numpy as np
import torch
from torch import nn

from temper.corruptions import (
    EXTRA,
    IMAGENET_C,
    corrupt,
)
from temper.data import ArrayImages, Dataset
from temper.data.augment import resize

ALL = IMAGENET_C + EXTRA


def photo(height, width, channels=3, seed=0):
    """Something like a photograph: smooth shades, edges and some texture."""
    rng = np.random.default_rng(seed)
    coarse = resize(rng.integers(0, 256, (channels, 5, 5), dtype=np.uint8), (height, width)).transpose(1, 2, 0)
    blocks = rng.integers(-60, 60, (8, 8, channels)).repeat(-(-height // 8), 0).repeat(-(-width // 8), 1)
    texture = rng.integers(-12, 13, (height, width, channels))
    return np.clip(coarse.astype(int) + blocks[:height, :width] + texture, 0, 255).astype(np.uint8)


def damage(image, name, severity, samples=3):
    return np.mean([np.abs(corrupt(image, name, severity, 0, i).astype(int) - image).mean() for i in range(samples)])


def dataset(samples=6, size=16, channels=3):
    array = np.stack([photo(size, size, channels, seed) for seed in range(samples)])
    ids = np.arange(samples)
    return Dataset(ArrayImages(array), ids % 2, ("a", "b"), ids + 100, "photos")


class Bright(nn.Module):
    """Class 1 where an image's mean is above one half."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        mean = self.dropout(x).mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1)
