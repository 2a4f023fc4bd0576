"""Pretrain the small timm networks on 20,000 images of CIFAR-10, without robustness; called by ``mini.py``."""

from pathlib import Path

import torch
from mini_backbones import fresh
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from temper import data
from temper.core.files import written
from temper.data import Pixels
from temper.training.batches import to_pixels

EPOCHS, BATCH, LR = 12, 128, 2e-3


def pretrain(name: str, images: Path, folder: Path) -> float:
    """Train, save, and return the accuracy on the first 2,000 CIFAR-10 test images."""
    torch.manual_seed(0)
    network = fresh(name)
    pixels = Pixels(data.load(str(images / "cifar10_train20k.npz")), augmentation="crop")
    optimiser = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=0.05)
    steps = EPOCHS * -(-len(pixels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=steps, pct_start=0.1)
    for epoch in range(EPOCHS):
        pixels.epoch = epoch
        for x, y, _ in DataLoader(pixels, BATCH, shuffle=True):
            loss = torch.nn.functional.cross_entropy(network(to_pixels(x, torch.device("cpu"))), y)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
    with written(folder / f"{name}.safetensors") as unfinished:
        save_file(network.state_dict(), unfinished)
    return accuracy(network.eval(), images)


@torch.no_grad()
def accuracy(network: torch.nn.Module, images: Path) -> float:
    test = Pixels(data.load(str(images / "cifar10_test.npz")).limit(2000, 0))
    correct = sum(
        int((network(to_pixels(x, torch.device("cpu"))).argmax(1) == y).sum()) for x, y, _ in DataLoader(test, 500)
    )
    return correct / len(test)
