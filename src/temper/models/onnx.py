"""Networks from ONNX files, converted to torch so that they can be attacked: an optional extra."""

from math import isqrt, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from temper.errors import MissingExtraError, ModelError


class OnnxNetwork(nn.Module):
    """A converted graph behind images: it gets them in the shape that it was exported with.

    Args:
        graph: the converted graph.
        shape: of one input of it, without the batch.
    """

    def __init__(self, graph: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.graph, self.shape = graph, shape

    def forward(self, x: Tensor) -> Tensor:
        """What the graph makes of images float [N, C, H, W]."""
        logits: Tensor = self.graph(x.reshape(len(x), *self.shape))
        return logits


def read_onnx(path: Path) -> tuple[OnnxNetwork, tuple[int, int, int]]:
    """The network in an ONNX file, and the channels, height and width of its images.

    A graph that takes flat inputs is taken to want square images of 1 or 3 channels. Nothing in the file is executed
    but its graph.

    Raises:
        MissingExtraError: the converter is not installed.
        ModelError: the file cannot be read or converted, or its graph has one fixed batch size.
    """
    try:
        import onnx
        import onnx2torch
    except ImportError:
        raise MissingExtraError("an ONNX model", "onnx") from None
    if not path.is_file():
        raise ModelError(f"onnx:{path}: no such file")
    try:
        content = onnx.load(str(path))
        graph: nn.Module = onnx2torch.convert(content)
    except Exception as error:  # protobuf and the converter raise what they like
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"onnx:{path}: cannot be converted ({type(error).__name__}: {reason}); export it anew, or load the network"
        ) from error
    shape = _input_shape(content, path)
    network = OnnxNetwork(graph.eval(), shape)
    size = _image(shape, path)
    _check_batches(network, size, path)
    return network, size


def _input_shape(content: Any, path: Path) -> tuple[int, ...]:
    weights = {tensor.name for tensor in content.graph.initializer}
    inputs = [each for each in content.graph.input if each.name not in weights]
    if len(inputs) != 1:
        raise ModelError(f"onnx:{path}: has {len(inputs)} inputs; a classifier has one, the images")
    shape = tuple(dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim)[1:]
    if not shape or 0 in shape:
        raise ModelError(f"onnx:{path}: its input has no fixed size; export it with fixed channels, height and width")
    return shape


def _image(shape: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    if len(shape) == 3 and shape[0] in (1, 3):
        return shape[0], shape[1], shape[2]
    for channels in (1, 3):
        size = isqrt(prod(shape) // channels)
        if channels * size**2 == prod(shape):
            return channels, size, size
    raise ModelError(f"onnx:{path}: takes inputs of shape {shape}, which are no images of 1 or 3 channels")


@torch.no_grad()
def _check_batches(network: nn.Module, size: tuple[int, int, int], path: Path) -> None:
    """Many files are exported for one image; some of them compute with more all the same."""
    images = torch.rand(3, *size, generator=torch.Generator().manual_seed(0))
    try:
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"onnx:{path}: does not take batches ({reason}); export it with a dynamic batch") from error
    if together.shape != alone.shape or not torch.allclose(together, alone, rtol=1e-3, atol=1e-4):
        raise ModelError(f"onnx:{path}: computes otherwise in batches; export it with a dynamic batch")
