"""The task that every tool is given: a folder of images, one folder a class, and a network of one's own.

``python task.py FOLDER`` fills the folder with ``photos/`` (200 of scikit-learn's digits, PNG), ``weights.pt`` (a
small network, trained on the others without attacks) and ``net.py`` (this network's code, whose ``net()`` returns it).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

SIZE, TEST, EPOCHS = 32, 200, 15
NET = '''"""A network of one's own: float images [N, 3, 32, 32] in [0, 1] to logits [N, 10]."""

from pathlib import Path

import torch
from torch import nn


def layers() -> nn.Sequential:
    """At random weights."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2048, 10)
    )


def net() -> nn.Module:
    """With the weights beside this file."""
    model = layers()
    model.load_state_dict(torch.load(Path(__file__).with_name("weights.pt"), weights_only=True))
    return model.eval()
'''


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(NET)
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    grey = (digits.images[order] / 16 * 255).astype(np.uint8)
    labels = digits.target[order]
    images = [Image.fromarray(each).resize((SIZE, SIZE), Image.Resampling.BILINEAR).convert("RGB") for each in grey]
    for place in range(TEST):
        path = folder / "photos" / str(labels[place]) / f"{place:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        images[place].save(path)
    x = torch.from_numpy(np.stack([np.asarray(each) for each in images[TEST:]])).permute(0, 3, 1, 2) / 255
    y = torch.from_numpy(labels[TEST:].astype(np.int64))
    torch.manual_seed(0)
    sys.path.insert(0, str(folder))
    from net import layers

    model = train(layers(), x, y)
    torch.save(model.state_dict(), folder / "weights.pt")


def train(model: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> nn.Sequential:
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(y)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimiser.step()
    return model


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    main(parser.parse_args().folder)
