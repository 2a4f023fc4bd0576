"""A classifier as the rest of Temper sees it: pixels in, logits out, its normalisation inside."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from temper.core.files import JsonObject
from temper.errors import ModelError
from temper.models.heads import outputs_of, set_training
from temper.models.outputs import Form, as_logits
from temper.models.preprocessing import Preprocessing


class Classifier(nn.Module):
    """A network together with the preprocessing that it was made for.

    The input is float NCHW in [0, 1] at ``image_size``, the output logits [N, ``num_classes``]. Normalisation
    happens inside, so that epsilon keeps its meaning (pixel units) for every backbone.

    Args:
        network: module from normalised float NCHW images to logits [N, K].
        preprocessing: its normalisation, and the size of its images.
        head: dotted name, inside ``network``, of the last linear layer; several names where their outputs are
            averaged (distilled transformers); empty where the network does not end in a linear layer.
        num_classes: K; read from the head unless given.
        form: how the network's output is to be read: "logits" [N, K], or one "logit" or "probability" of class 1 per
            image, of which two logits are made.
        input_shape: channels, height and width of an image that the network is known to take, where neither it nor
            its preprocessing says so.
        info: JSON-able facts about where the network came from; ``save`` needs those of ``load``.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        *,
        head: str | Sequence[str],
        num_classes: int | None = None,
        form: Form = "logits",
        input_shape: tuple[int, int, int] | None = None,
        info: JsonObject | None = None,
    ) -> None:
        super().__init__()
        self.network, self.form, self.input_shape = network, form, input_shape
        # Configuration, not weights: outside the state dict, whose names then are the network's own.
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1), persistent=False)
        self.channels = preprocessing.channels
        self.image_size = preprocessing.image_size
        self.head_names = (head,) if isinstance(head, str) else tuple(head)
        self.num_classes = outputs_of(self.head) if num_classes is None else num_classes
        self.info = dict(info or {})

    @property
    def preprocessing(self) -> Preprocessing:
        """Its normalisation, and the size of its images."""
        mean, std = (tuple(statistic.flatten().tolist()) for statistic in (self.mean, self.std))
        return Preprocessing(mean, std, self.image_size)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K] of float NCHW images in [0, 1]."""
        return self.logits_from(self.network((images - self.mean) / self.std))

    def logits_from(self, output: object) -> Tensor:
        """Logits [N, K] of what the network, or the head that ends it, gave."""
        logits: Tensor = as_logits(output, self.form, training=self.training)
        return logits

    def train(self, mode: bool = True) -> Self:
        """See :class:`torch.nn.Module`; the network may be an exported graph, which has one mode."""
        self.training = mode
        set_training(self.network, mode)
        return self

    @property
    def head_name(self) -> str:
        """Dotted name inside ``network`` of the last linear layer (the first of them, see ``head_names``)."""
        if not self.head_names:
            raise ModelError(
                f"{type(self.network).__name__}: does not end in a linear layer, so it has no head;"
                " let it end in nn.Linear"
            )
        return self.head_names[0]

    @property
    def head(self) -> nn.Module:
        """The last linear layer (the first of them, see ``head_names``)."""
        return self.network.get_submodule(self.head_name)

    def head_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """(name, parameter) of the last linear layer(s); names as in ``named_parameters()``."""
        return [(name, parameter) for name, parameter in self.named_parameters() if self._in_head(name)]

    def backbone_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """(name, parameter) of everything but the head; names as in ``named_parameters()``."""
        return [(name, parameter) for name, parameter in self.named_parameters() if not self._in_head(name)]

    def _in_head(self, parameter_name: str) -> bool:
        return parameter_name.startswith(tuple(f"network.{head}." for head in self.head_names))


def weights_fingerprint(network: nn.Module) -> str:
    """SHA-256 (hex) of a module's state dict, and of the constants that compiled graphs keep their weights in; the
    same on every device and in every memory layout."""
    digest = hashlib.sha256()
    for name, value in sorted([*network.state_dict().items(), *_constants(network)], key=lambda pair: pair[0]):
        _digest(digest, name, value)
    return digest.hexdigest()


def _digest(digest: "hashlib._Hash", name: str, value: object) -> None:
    """Take in one entry of a state dict; those of quantised layers hold tuples and names beside tensors."""
    if isinstance(value, tuple):
        for place, each in enumerate(value):
            _digest(digest, f"{name}.{place}", each)
    elif isinstance(value, Tensor):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        plain = value.detach().dequantize() if value.is_quantized else value.detach()
        digest.update(plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    else:
        digest.update(f"{name} {value}\n".encode())


def _constants(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors inside frozen TorchScript, which has no parameters."""
    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule) and not module.state_dict():
            graph: Any = module.inlined_graph
            for place, node in enumerate(graph.findAllNodes("prim::Constant")):
                if node.hasAttribute("value") and node.kindOf("value") == "t":
                    yield f"{name}.constant{place:05d}", node.t("value")


def fingerprint(classifier: Classifier) -> dict[str, str]:
    """SHA-256 (hex) that tell two classifiers apart: of the weights, and of mean, std and image size."""
    mean, std = classifier.mean.flatten().tolist(), classifier.std.flatten().tolist()
    preprocessing = f"mean {mean} std {std} image_size {classifier.image_size}"
    return {
        "weights": weights_fingerprint(classifier),
        "preprocessing": hashlib.sha256(preprocessing.encode()).hexdigest(),
    }
