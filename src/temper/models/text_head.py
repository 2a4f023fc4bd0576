"""Zero-shot heads: logits are a scale times the cosines of an image's embedding with those of texts, one per class.

The texts' embeddings come from a file; no text model is needed, and the head is never trained (Radford et al. 2021,
arXiv:2103.00020, section 3.1.2).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn
from torch.nn import functional

from temper.errors import ModelError
from temper.models.classifier import Classifier
from temper.models.weights import load_tensors

EMBEDDINGS, SCALE, CLASS_NAMES = "embeddings", "scale", "class_names"
CLIP_SCALE = 100.0  # at which CLIP's own models were clipped in training (arXiv:2103.00020, section 2.5)


@dataclass(frozen=True)
class Texts:
    """Embeddings of one text per class: float [K, D], their scale, and the classes' names."""

    embeddings: Tensor
    scale: float
    class_names: tuple[str, ...]


class TextHead(nn.Linear):
    """A linear layer without bias whose weight [K, D] is no parameter: nothing trains it."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        del self.weight
        self.register_buffer("weight", weight)


class ZeroShot(nn.Module):
    """An image tower, whose output [N, D] is normalised to length 1, and a head that takes it to logits [N, K]."""

    def __init__(self, tower: nn.Module, head: TextHead, class_names: Sequence[str] = ()) -> None:
        super().__init__()
        self.tower, self.head, self.class_names = tower, head, tuple(class_names)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K] of normalised float NCHW images."""
        return self.logits_from(self.tower(images))

    def logits_from(self, embeddings: Tensor) -> Tensor:
        """Logits [N, K] of embeddings [N, D] as the tower gives them."""
        logits: Tensor = self.head(functional.normalize(embeddings.float(), dim=1))
        return logits

    def set_input_size(self, img_size: int) -> None:
        """Make the tower take images of another height and width, where its size is built in (timm's method)."""
        change: Callable[..., object] | None = getattr(self.tower, "set_input_size", None)
        if change is not None:
            change(img_size=img_size)


class Tower(nn.Module):
    """The image tower of a zero-shot classifier by itself: from float NCHW images in [0, 1] to embeddings [N, D], which
    are not normalised."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [N, D]."""
        network = self.classifier.network
        assert isinstance(network, ZeroShot)
        embeddings: Tensor = network.tower((images - self.classifier.mean) / self.classifier.std)
        return embeddings


def read_texts(path: str | Path) -> Texts:
    """Text embeddings from a .safetensors file.

    It holds ``embeddings``, float [K, D], or one matrix under any name; where it is not 100, ``scale``, the factor on
    the cosines (not its logarithm); and ``class_names`` as a JSON list in its metadata. Where they are not there, they
    stand in a file of the same name with the ending .txt, one a line.

    Raises:
        ModelError: it is missing or damaged, or not laid out so.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ModelError(f"text embeddings {path}: give a .safetensors file")
    tensors = load_tensors(path)
    matrices = {name: tensor for name, tensor in tensors.items() if tensor.dim() == 2}
    embeddings = matrices.get(EMBEDDINGS, next(iter(matrices.values())) if len(matrices) == 1 else None)
    if embeddings is None or not embeddings.is_floating_point():
        found = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()) or "nothing"
        raise ModelError(f"text embeddings {path}: hold {found}; give {EMBEDDINGS}, float [classes, dimensions]")
    embeddings, scale = embeddings.float(), float(tensors.get(SCALE, torch.tensor(CLIP_SCALE)))
    if not embeddings.isfinite().all() or (embeddings.norm(dim=1) == 0).any() or not 0 < scale < float("inf"):
        raise ModelError(f"text embeddings {path}: rows must be finite and not 0, and {SCALE} above 0; make them again")
    names = _class_names(path)
    rows, known = len(embeddings), len(set(names))
    if len(names) != rows or known != rows:
        raise ModelError(f"text embeddings {path}: {rows} rows, but {known} different class names; name each row")
    return Texts(embeddings, scale, names)


def _class_names(path: Path) -> tuple[str, ...]:
    with safetensors.safe_open(path, "pt") as file:
        noted = (file.metadata() or {}).get(CLASS_NAMES)
    beside = path.with_suffix(".txt")
    if noted is None and beside.is_file():
        return tuple(line.strip() for line in beside.read_text(encoding="utf-8").splitlines() if line.strip())
    try:
        names = json.loads(noted) if noted is not None else None
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelError(
            f"text embeddings {path}: do not say which class each row is; put {CLASS_NAMES} into the metadata, a JSON"
            f" list of names, or write them into {beside}, one a line"
        )
    return tuple(names)


def text_head(texts: Texts) -> TextHead:
    """The head of text embeddings: its weight is the scale times rows of length 1."""
    return TextHead(texts.scale * functional.normalize(texts.embeddings, dim=1))


def choose_classes(classifier: Classifier, class_names: Sequence[str]) -> None:
    """Let a zero-shot classifier tell these classes apart, in this order, in place.

    Raises:
        ModelError: its texts do not name one of them.
    """
    network = classifier.network
    assert isinstance(network, ZeroShot)
    missing = [name for name in class_names if name not in network.class_names]
    if missing:
        known = ", ".join(network.class_names[:5])
        raise ModelError(
            f"{classifier.info.get('spec')}: has no text for the classes {', '.join(missing[:3])} (of {len(missing)});"
            f" the texts name {known} ...: embed a text for every class of the data, by its name"
        )
    rows = [network.class_names.index(name) for name in class_names]
    network.head = TextHead(network.head.weight[rows].clone())
    network.class_names, classifier.num_classes = tuple(class_names), len(class_names)
    classifier.info["class_names"] = list(class_names)
