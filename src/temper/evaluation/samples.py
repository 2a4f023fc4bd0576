"""Samples to measure: images with a label and an id each, and the batches of them that a model sees."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from temper.attacks.crafting import crafting
from temper.core.orphans import serve_parent
from temper.data import Dataset, Pixels
from temper.data.dataset import channels_first
from temper.errors import ArgumentError
from temper.models import Classifier

Batch = tuple[Tensor, Tensor, Tensor]

#: How far outside [0, 1] float pixels may lie: a few float32 roundings, far below the 1/255 of a grey level.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Samples:
    """Samples to measure.

    Attributes:
        items: (image, label, id); images uint8, or float in [0, 1], [C, H, W], all of one size.
        ids: int64 [N], the items' ids.
        fingerprint: what tells these samples from others.
        workers: processes that load them.
    """

    items: TorchDataset[Any]
    ids: NDArray[np.int64]
    fingerprint: str
    workers: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.items[0][0].shape
        return channels, height, width

    def batches(self, size: int) -> Iterator[Batch]:
        """Images [B, C, H, W], labels and ids int64 [B], in order."""
        # A generator of its own: the loader would draw a seed for its workers from torch's global one.
        return iter(
            DataLoader(
                self.items, size, num_workers=self.workers, generator=torch.Generator(), worker_init_fn=serve_parent
            )
        )

    def few(self, count: int = 4) -> Tensor:
        """The first images, float [N, C, H, W] in [0, 1]."""
        images, _, _ = next(self.batches(count))
        return images if images.is_floating_point() else images.float() / 255

    def take(self, ids: Sequence[int]) -> "Samples":
        """Those of these ids."""
        places = np.flatnonzero(np.isin(self.ids, ids))
        return Samples(Subset(self.items, places.tolist()), self.ids[places], self.fingerprint, self.workers)


def from_arrays(images: NDArray[np.uint8] | Tensor, labels: NDArray[np.int64] | Tensor | Sequence[int]) -> Samples:
    """Arrays as samples to measure, with ids 0, 1, ...

    Args:
        images: uint8 NHWC array, or float NCHW tensor in [0, 1]. Of a shape that could be either, such as
            [N, 3, 8, 3], arrays are read with channels last and tensors with channels first. Values that lie outside
            by rounding alone (:data:`ROUNDING`) are brought back.
        labels: integers [N].

    Raises:
        ArgumentError: not uint8 NHWC or float NCHW in [0, 1], or not one label per image.
    """
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4:
        if channels_first(images.shape):
            raise ArgumentError("images", images.shape, "array channels come last; transpose(0, 2, 3, 1) mends it")
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    elif isinstance(images, Tensor) and images.is_floating_point() and images.dim() == 4:
        _, first, height, last = images.shape
        if min(first, height) > 4 and last in (3, 4):  # a single channel lies the same way in memory either way
            raise ArgumentError(
                "images", tuple(images.shape), "tensor channels come first; permute(0, 3, 1, 2) mends it"
            )
        pixels = _in_range(images.detach().float().cpu().contiguous())
    else:
        what = f"{type(images).__name__} {getattr(images, 'dtype', '')} {tuple(getattr(images, 'shape', ()))}"
        raise ArgumentError("images", what, "give a uint8 NHWC array or a float NCHW tensor in [0, 1]")
    if not pixels.numel():
        raise ArgumentError("images", tuple(images.shape), "give at least one image")
    targets = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if targets.shape != (len(pixels),) or targets.dtype.kind not in "iu":
        what = f"{targets.dtype} {targets.shape}"
        raise ArgumentError("labels", what, f"give one integer for each of {len(pixels)} images")
    targets = targets.astype(np.int64)
    digest = hashlib.sha256(f"{pixels.dtype} {tuple(pixels.shape)}".encode())
    digest.update(pixels.numpy().tobytes())
    digest.update(targets.tobytes())
    ids = np.arange(len(pixels))
    items = TensorDataset(pixels, torch.from_numpy(targets), torch.from_numpy(ids))
    return Samples(items, ids, digest.hexdigest())


def _in_range(pixels: Tensor) -> Tensor:
    """Float pixels without what rounding added outside [0, 1]; refuses what lies further out, and NaN."""
    if not pixels.numel():
        return pixels
    least, most = float(pixels.min()), float(pixels.max())
    if not (least >= -ROUNDING and most <= 1 + ROUNDING):
        raise ArgumentError(
            "images", f"{least:.9g} to {most:.9g}", "must lie in [0, 1]; normalisation belongs inside the model"
        )
    return pixels if least >= 0 and most <= 1 else pixels.clamp(0, 1)


def from_dataset(dataset: Dataset, classifier: Classifier, workers: int = 0) -> Samples:
    """A data set as samples to measure, brought to the classifier's size and channels."""
    pixels = Pixels(dataset, classifier.image_size, classifier.channels)
    return Samples(pixels, dataset.ids, dataset.fingerprint(), workers)


def few_images(dataset: Dataset, count: int = 4) -> Tensor | None:
    """A few images of a data set, spread over it, float [N, C, H, W] in [0, 1]; None where they differ in shape."""
    places = np.unique(np.linspace(0, len(dataset) - 1, count).round().astype(int)).tolist()
    images = [np.array(dataset.images[place]) for place in places]
    if len({image.shape for image in images}) > 1:
        return None
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def device_of(model: nn.Module) -> torch.device:
    """Where a model's first tensor lies; the CPU for one that has none."""
    return next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))


def on_device(model: nn.Module, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Batches as the model takes them: float images in [0, 1], in its layout, on its device."""
    device, layout = device_of(model), None
    for images, labels, ids in batches:
        x = images.to(device)
        x = x if x.is_floating_point() else x.float() / 255
        layout = _layout(model, x[:1]) if layout is None else layout
        yield x.contiguous(memory_format=layout), labels.to(device), ids.to(device)


@torch.no_grad()
def _layout(model: nn.Module, x: Tensor) -> torch.memory_format:
    """Channels-last computes faster, but a model that reshapes with ``view`` refuses it."""
    try:
        with crafting(model):
            model(x.contiguous(memory_format=torch.channels_last))
    except RuntimeError:  # if something else is wrong with the model, the next pass will say so
        return torch.contiguous_format
    return torch.channels_last
