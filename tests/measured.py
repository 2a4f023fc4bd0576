"""Small models and images to measure, and the margins of the linear one."""

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from temper.margins import EvidenceTable


class Linear(nn.Module):
    """Three planes through the middle of the box of 3x4x4 images."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(3, 48, generator=generator))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


class Net(nn.Module):
    """Convolution, batch norm and dropout; reshapes with view, as much user code does."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.norm.running_mean.normal_()
            self.head = nn.Linear(6 * 16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.dropout(functional.relu(self.norm(self.conv(x))), training=self.training)
        return self.head(x.view(len(x), -1))


def pictures(count: int = 24, seed: int = 0) -> torch.Tensor:
    """Images [N, 3, 4, 4] of which some pixels lie at the faces of the box, all multiples of 1/255."""
    raw = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 1.4 - 0.2
    return (raw.clamp(0, 1) * 255).round() / 255


def predictions(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(images).argmax(1)


def exact_margins(model: Linear, images: torch.Tensor, norm: str) -> np.ndarray:
    """Distance to the nearest of the other classes' half spaces inside the box, by definition of the norm.

    The best perturbation moves each coordinate by min(t, room) (Linf), min(t |w|, room) (L2), or the coordinates of
    the largest |w| first, as far as they go (L1).
    """
    weight, x = model.weight.detach().double().numpy(), images.double().flatten(1).numpy()
    margins = []
    for image in x:
        logits = weight @ (image - 0.5)
        own, reach = int(logits.argmax()), []
        for other in set(range(len(weight))) - {own}:
            slope, gap = weight[other] - weight[own], logits[own] - logits[other]
            room, size = np.where(slope > 0, 1 - image, image), np.abs(slope)
            if norm == "L1":
                order = np.argsort(-size)
                gains = np.concatenate([[0], np.cumsum((size * room)[order])])
                lengths = np.concatenate([[0], np.cumsum(room[order])])
                reach.append(np.interp(gap, gains, lengths, right=np.inf))
                continue
            low, high = 0.0, 1e3
            for _ in range(100):
                t = (low + high) / 2
                move = np.minimum(t if norm == "Linf" else t * size, room)
                low, high = (t, high) if move @ size < gap else (low, t)
            move = np.minimum(high if norm == "Linf" else high * size, room)
            length = move.max() if norm == "Linf" else np.sqrt((move**2).sum())
            reach.append(length if move @ size >= gap * (1 - 1e-9) else np.inf)
        margins.append(min(reach))
    return np.array(margins)


def of(table: EvidenceTable, norm: str) -> pd.DataFrame:
    return table.frame[table.frame["norm"] == norm].sort_values("sample")
