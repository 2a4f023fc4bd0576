"""Linear classifiers inside the box of images, and their exact margins."""

import numpy as np
import torch
from torch import Tensor, nn


def distances_to_planes(weights: np.ndarray, gaps: np.ndarray, room: np.ndarray, norm: str) -> np.ndarray:
    """Exact distance to each half space {delta: weights_k . delta >= gaps_k} inside the box: [K, D], [K] -> [K].

    Each coordinate can move by ``room`` at most. L1: greedy, the largest weights first. Linf and L2: the optimal
    perturbation is min(t, room) or min(t |w|, room) with the smallest t that closes the gap, found by bisection.
    """
    size = np.abs(weights)
    if norm == "L1":
        order = np.argsort(-size, 1)
        size, room = np.take_along_axis(size, order, 1), np.take_along_axis(room, order, 1)
        before = np.cumsum(size * room, 1) - size * room
        moves = np.clip((gaps[:, None] - before) / np.maximum(size, 1e-300), 0, room)
        reached, lengths = (moves * size).sum(1), moves.sum(1)
    else:
        slope = np.ones_like(size) if norm == "Linf" else size
        low, high = np.zeros(len(gaps)), np.full(len(gaps), 1e3)
        for _ in range(70):
            middle = (low + high) / 2
            enough = (size * np.minimum(middle[:, None] * slope, room)).sum(1) >= gaps
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        moves = np.minimum(high[:, None] * slope, room)
        reached = (moves * size).sum(1)
        lengths = moves.max(1) if norm == "Linf" else np.sqrt((moves**2).sum(1))
    return np.where(reached >= gaps * (1 - 1e-9), lengths, np.inf)


DUAL = {"Linf": 1, "L2": 2, "L1": np.inf}


class Linear(nn.Module):
    """A random linear classifier whose planes go through the middle of the box, and the exact margins of images.

    The first two classes lead the others by ``lead``: with many classes close to each other, gradient ascent may
    well climb towards another one than the nearest.
    """

    def __init__(self, classes: int, pixels: int, lead: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(classes)
        self.weight = nn.Parameter(torch.randn(classes, pixels, generator=generator) / pixels**0.5)
        self.bias = nn.Parameter(lead * (torch.arange(classes) < 2) - self.weight.detach().sum(1) / 2)
        self.double()  # exact margins need exact gaps

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias

    def margins(self, x: Tensor, y: Tensor, norm: str) -> Tensor:
        weight, bias = self.weight.detach().double().numpy(), self.bias.detach().double().numpy()
        margins = []
        for image, label in zip(x.flatten(1).double().numpy(), y.tolist(), strict=True):
            rivals = np.arange(len(bias)) != label
            weights = weight[rivals] - weight[label]
            gaps = -(weights @ image + bias[rivals] - bias[label])
            # Without the box every plane is at least as near, which leaves few rivals to look at closely.
            lower_bounds = gaps / np.linalg.norm(weights, DUAL[norm], axis=1)
            first = np.argsort(lower_bounds)[:20]
            room = np.where(weights > 0, 1 - image, image)
            margins.append(distances_to_planes(weights[first], gaps[first], room[first], norm).min())
            assert len(gaps) <= 20 or margins[-1] <= np.sort(lower_bounds)[20]
        return torch.tensor(margins, dtype=x.dtype)


def linear_case(classes: int, box: str, lead: float = 20.0) -> tuple[Linear, Tensor, Tensor]:
    """Images in the middle of the box or in its corners, with the classes that the model gives them."""
    model = Linear(classes, 3 * 12 * 12, lead)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(12, 3, 12, 12, generator=generator, dtype=torch.float64)
    x = (
        0.47 + 0.06 * x
        if box == "far"
        else 0.97 * x.round() + 0.03 * torch.rand(x.shape, generator=generator, dtype=x.dtype)
    )
    return model, x, model(x).argmax(1)
