"""Networks and schedules that tests name as ``tiny:...``."""

import signal

import torch
from torch import Tensor, nn


class Tiny(nn.Module):
    """A convolution, optionally a batch norm, and a linear head, on 8x8 images."""

    def __init__(self, num_classes: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.dropout = nn.Dropout(0.1 if norm else 0.0)
        self.head = nn.Linear(8 * 16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(torch.relu(self.norm(self.conv(x))).flatten(1)))


def network(num_classes: int = 10) -> Tiny:
    """With batch norm and dropout."""
    return Tiny(num_classes, norm=True)


def plain(num_classes: int = 10) -> Tiny:
    """Nothing random, nothing that depends on the batch."""
    return Tiny(num_classes, norm=False)


class Steady(nn.BatchNorm2d):
    """A batch norm that takes its running statistics in training, too."""

    def train(self, mode: bool = True) -> "Steady":
        return super().train(False)


def steady(num_classes: int = 10) -> Tiny:
    """A batch norm, but nothing random and nothing that depends on the batch."""
    network = plain(num_classes)
    network.norm = Steady(8)
    return network


def interrupting(epoch: float, epochs: int) -> float:
    """A schedule during which somebody presses Ctrl-C in the second epoch."""
    if 1.3 < epoch < 1.7:
        signal.raise_signal(signal.SIGINT)
    return 1.0


def constant(epoch: float, epochs: int) -> float:
    """The same without the Ctrl-C."""
    return 1.0
