"""What is compared: networks, images and radii. The robust ones at a radius where about 40 % withstand, and one that
breaks at once."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from temper import models
from temper.threat import Norm


@dataclass(frozen=True)
class Case:
    """A network (a name, or the folder of a run), so many of its test images, every so-manieth, and the ball."""

    network: str
    images: str
    norm: Norm
    eps: float
    count: int
    every: int = 1

    @property
    def name(self) -> str:
        """As files and tables call it."""
        return f"{Path(self.network).name}-{self.norm}-{self.eps:.4g}"


CASES = (
    Case("resnet20", "cifar10_test", "Linf", 2 / 255, 256),
    Case("cifar_cnn_a_adv", "cifar10_test", "Linf", 3 / 255, 256),
    Case("cifar_cnn_a_adv", "cifar10_test", "L2", 0.4, 256),
    Case("cifar_resnet4b", "cifar10_test", "Linf", 4 / 255, 256),
    Case("cifar_resnet4b", "cifar10_test", "L2", 0.5, 256),
    Case("mnist_smallcnn_standard", "mnist_test", "Linf", 0.1, 256),
    Case("cifar_resnet4b", "cifar10_test", "L1", 12.0, 256),
)


def named_network(name: str, data: Path) -> nn.Module:
    """One of the trained networks in the data folder, on float NCHW images in [0, 1]."""
    spec = importlib.util.spec_from_file_location("networks", data / "networks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network: nn.Module = module.load(name)
    return network


def load(case: Case, data: Path) -> tuple[nn.Module, NDArray[np.uint8], NDArray[np.int64]]:
    """The network, and images uint8 NHWC with labels."""
    with np.load(data / "images" / f"{case.images}.npz") as arrays:
        images, labels = (arrays[name][:: case.every][: case.count] for name in ("images", "labels"))
    run = Path(case.network).is_dir()
    network = models.load(case.network) if run else named_network(case.network, data)
    return network, images, labels.astype(np.int64)


def pixels(images: NDArray[np.uint8]) -> torch.Tensor:
    """Float NCHW in [0, 1]."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255
