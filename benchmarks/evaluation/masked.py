"""Small networks whose gradients are masked on purpose, and a few that are not, trained in a minute or so each.

    python benchmarks/evaluation/masked.py --data ../shared/data [--only NAME ...]

Weights go to ``runs/masked`` and are taken from there the next time; masking.py trains what it misses. Each recipe has
its seed; other hardware or another torch gives weights that differ a little.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

CACHE = Path("runs/masked")


class Quantised(nn.Module):
    """ReLU whose values are rounded to so many levels of [0, 4]. Exact rounding has no gradient: all vanish."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...]; while it learns, the gradient passes straight through."""
        x = x.clamp(0, 4)
        rounded = (x * self.levels / 4).round() * 4 / self.levels
        return x + (rounded - x).detach() if self.training else rounded


class Winners(nn.Module):
    """k-winners-take-all (Xiao et al. 2020, arXiv:1905.10510): a sample's largest activations stay, others are 0."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """[N, ...]."""
        flat = x.flatten(1)
        least = flat.topk(max(int(self.share * flat.shape[1]), 1), 1).values[:, -1:]
        return (flat * (flat >= least)).view_as(x)


class Rounded(nn.Module):
    """Pixels rounded to so many levels: no gradient."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W]."""
        rounded = (x * (self.levels - 1)).round() / (self.levels - 1)
        return x + (rounded - x).detach() if self.training else rounded


class Jpeg(nn.Module):
    """What JPEG does to each channel: 8 x 8 cosine transforms, rounded to multiples that grow with the frequency."""

    basis: Tensor
    steps: Tensor

    def __init__(self, coarse: float) -> None:
        super().__init__()
        k = torch.arange(8.0)
        basis = torch.cos(torch.pi * (2 * k[None, :] + 1) * k[:, None] / 16) / 2
        basis[0] /= 2**0.5
        self.register_buffer("basis", basis)
        self.register_buffer("steps", coarse * (1 + k[:, None] + k[None, :]))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], sides multiples of 8."""
        n, c, h, w = x.shape
        blocks = x.view(n, c, h // 8, 8, w // 8, 8).transpose(3, 4)
        waves = self.basis @ blocks @ self.basis.T
        back = self.basis.T @ ((waves / self.steps).round() * self.steps) @ self.basis
        done = back.transpose(3, 4).reshape(n, c, h, w).clamp(0, 1)
        return x + (done - x).detach() if self.training else done


class Scaled(nn.Module):
    """Logits times a constant: cross-entropy saturates, in float32 to exactly 0."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """[N, K]."""
        return x if self.training else x * self.factor


def strided(
    shape: tuple[int, int, int], classes: int, width: int, activation: Callable[[], nn.Module]
) -> nn.Sequential:
    """Two strided convolutions and two linear layers."""
    body = nn.Sequential(
        nn.Conv2d(shape[0], width, 5, 2, 2),
        activation(),
        nn.Conv2d(width, 2 * width, 3, 2, 1),
        activation(),
        nn.Flatten(),
    )
    size = body(torch.zeros(1, *shape)).shape[1]
    return nn.Sequential(*body, nn.Linear(size, 64), activation(), nn.Linear(64, classes))


def pooled(shape: tuple[int, int, int], classes: int, width: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Three convolutions with pooling between, and a linear layer."""
    body = nn.Sequential(
        nn.Conv2d(shape[0], width, 3, 1, 1), activation(), nn.MaxPool2d(2), nn.Conv2d(width, 2 * width, 3, 1, 1),
        activation(), nn.MaxPool2d(2), nn.Conv2d(2 * width, 2 * width, 3, 1, 1), activation(), nn.AvgPool2d(2),
        nn.Flatten(),
    )  # fmt: skip
    size = body(torch.zeros(1, *shape)).shape[1]
    return nn.Sequential(*body, nn.Linear(size, classes))


@dataclass(frozen=True)
class Recipe:
    """How a network comes about.

    Attributes:
        source: training images; the test images of the same name are what it is measured on.
        body: architecture, of its width.
        activation: between layers.
        front, behind: what is put before and after it.
        shape: channels, height and width; smaller than the images' size crops them.
        classes: 2 asks whether the label is odd.
        radius, step: of adversarial training in Linf; 0 trains on clean images. One step as long as the radius from the
            image itself is FGSM, after which gradients often mislead.
        norm: of adversarial training.
        ramp: let the radius grow from 0 over the first half of the training; at full length from the start, large ones
            are never learned.
        epochs, seed: of training; no epochs leave the random weights.
    """

    source: str
    body: Callable[..., nn.Sequential] = strided
    width: int = 16
    activation: Callable[[], nn.Module] = nn.ReLU
    front: Callable[[], nn.Module] = nn.Identity
    behind: Callable[[], nn.Module] = nn.Identity
    shape: tuple[int, int, int] = (1, 28, 28)
    classes: int = 10
    radius: float = 0.0
    steps: int = 1
    norm: str = "Linf"
    ramp: bool = False
    epochs: int = 4
    seed: int = 0


CIFAR = (3, 32, 32)
RECIPES = {
    # Those of the first group.
    "mnist_fgsm": Recipe("mnist", radius=0.3, epochs=8),
    "mnist_quantised": Recipe("mnist", activation=lambda: Quantised(8)),
    "mnist_winners": Recipe("mnist", activation=lambda: Winners(0.15)),
    "mnist_scaled": Recipe("mnist", behind=lambda: Scaled(1e4)),
    "mnist_rounded": Recipe("mnist", front=lambda: Rounded(6)),
    # Those of the second: other architectures, widths, data, sizes, classes and seeds.
    "cifar_fgsm": Recipe("cifar", pooled, 24, shape=CIFAR, radius=16 / 255, epochs=8, seed=11),
    "mnist_fgsm_pooled": Recipe("mnist", pooled, 16, radius=0.2, epochs=10, seed=12),
    "parity_quantised": Recipe("mnist", pooled, 12, lambda: Quantised(16), classes=2, seed=13),
    "cifar_winners": Recipe("cifar", strided, 24, lambda: Winners(0.1), shape=CIFAR, epochs=4, seed=14),
    "odd_scaled": Recipe("mnist", pooled, 8, behind=lambda: Scaled(1e3), shape=(1, 27, 21), seed=15),
    "cifar_jpeg": Recipe("cifar", strided, 24, front=lambda: Jpeg(0.06), shape=CIFAR, epochs=6, seed=16),
    "cifar_random": Recipe("cifar", pooled, 16, shape=CIFAR, epochs=0, seed=17),
    "mnist_l2": Recipe("mnist", pooled, 12, radius=2.0, steps=5, norm="L2", epochs=6, seed=18),
    "mnist_pgd": Recipe("mnist", strided, 32, radius=0.3, steps=8, epochs=12, seed=19, ramp=True),
    "mnist_pgd_pooled": Recipe("mnist", pooled, 24, radius=0.25, steps=8, epochs=8, seed=20, ramp=True),
}


def images(recipe: Recipe, data: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images float NCHW in [0, 1] of a recipe's shape, and labels int64."""
    files = {"mnist": ("mnist_train10k", "mnist_test"), "cifar": ("cifar10_train20k", "cifar10_test")}[recipe.source]
    with np.load(data / "images" / f"{files[part == 'test']}.npz") as arrays:
        x, y = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2), torch.from_numpy(arrays["labels"]).long()
    top, left = ((size - wanted) // 2 for size, wanted in zip(x.shape[2:], recipe.shape[1:], strict=True))
    x = x[:, :, top : top + recipe.shape[1], left : left + recipe.shape[2]]
    return x.float().contiguous() / 255, y % 2 if recipe.classes == 2 else y


def moved(network: nn.Module, x: Tensor, y: Tensor, recipe: Recipe, share: float = 1.0) -> Tensor:
    """Adversarial training images: steps of the gradient, as long as the radius when there is one alone."""
    at, radius = x, share * recipe.radius
    length = radius if recipe.steps == 1 else 2 * radius / recipe.steps
    for _ in range(recipe.steps if radius else 0):
        at = at.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(network(at), y), at)
        if recipe.norm == "Linf":
            delta = (at + length * gradient.sign() - x).clamp(-radius, radius)
        else:
            unit = gradient / gradient.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            delta = at + length * unit - x
            delta = delta * (radius / delta.flatten(1).norm(dim=1).clamp_min(1e-12)).clamp_max(1).view(-1, 1, 1, 1)
        at = (x + delta).clamp(0, 1)
    return at.detach()


def masked(name: str, data: Path, cache: Path = CACHE) -> nn.Module:
    """A recipe's network in eval mode, trained unless its weights are in ``cache``."""
    recipe = RECIPES[name]
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        body = recipe.body(recipe.shape, recipe.classes, recipe.width, recipe.activation)
        network = nn.Sequential(recipe.front(), body, recipe.behind())
        path = cache / f"{name}.safetensors"
        if path.exists():
            network.load_state_dict(load_file(path))
            return network.eval()
        train(network, recipe, *images(recipe, data, "train"))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.state_dict(), path)
    return network.eval()


def train(network: nn.Module, recipe: Recipe, x: Tensor, y: Tensor) -> None:
    """Adam with a step size that falls to 0, batches of 100."""
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    total = max(recipe.epochs * (len(x) // 100), 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total)
    for _ in range(recipe.epochs):
        for batch in torch.randperm(len(x))[: len(x) // 100 * 100].split(100):
            share = min(2 * schedule.last_epoch / total, 1.0) if recipe.ramp else 1.0
            loss = functional.cross_entropy(network(moved(network, x[batch], y[batch], recipe, share)), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def main() -> None:
    """Train what is asked for and say how accurate it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    options = parser.parse_args()
    for name in options.only:
        network = masked(name, options.data)
        x, y = images(RECIPES[name], options.data, "test")
        with torch.no_grad():
            right = torch.cat([network(part).argmax(1) for part in x[:2000].split(256)]) == y[:2000]
        print(f"{name}: {float(right.float().mean()):.3f} clean", flush=True)


if __name__ == "__main__":
    main()
