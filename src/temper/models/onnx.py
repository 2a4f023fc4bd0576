"""Networks from ONNX files, converted to torch so that they can be attacked: an optional extra."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt, prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from temper.errors import MissingExtraError, ModelError
from temper.text import first_line

if TYPE_CHECKING:
    from onnx import ModelProto

log = logging.getLogger(__name__)

OPSET = 18  # the newest whose operators the converter knows
CHECKED = 4  # images on which the converted graph is compared with onnxruntime


@dataclass(frozen=True)
class Layout:
    """How a graph takes images.

    Attributes:
        shape: of one input, without the batch.
        channels, height, width: of the image in it.
        channels_last: whether pixels lie as height, width, channels, as TensorFlow and Keras have them.
    """

    shape: tuple[int, ...]
    channels: int
    height: int
    width: int
    channels_last: bool = False

    def arranged(self, images: Tensor) -> Tensor:
        """Images float [N, C, H, W] as the graph takes them, [N, *shape]."""
        pixels = images.permute(0, 2, 3, 1) if self.channels_last else images
        return pixels.reshape(len(images), *self.shape)


class OnnxNetwork(nn.Module):
    """A converted graph behind images: it gets them in the layout that it was exported with.

    Args:
        graph: the converted graph.
        layout: of its input.
        output: which of its outputs are the logits; None where it has but one.
    """

    def __init__(self, graph: nn.Module, layout: Layout, output: int | None = None) -> None:
        super().__init__()
        self.graph, self.layout, self.output = graph, layout, output

    def forward(self, x: Tensor) -> Tensor:
        """What the graph makes of images float [N, C, H, W]."""
        made = self.graph(self.layout.arranged(x))
        logits: Tensor = made if self.output is None else made[self.output]
        return logits


def read_onnx(path: Path, example: Tensor | None = None) -> tuple[OnnxNetwork, tuple[int, int, int]]:
    """The network in an ONNX file, and the channels, height and width of its images.

    Where the channels of images lie is read from the shape of the graph's input. A graph that takes flat inputs is
    taken to want square images of 1 or 3 channels, channels first. Nothing in the file is executed but its graph; what
    it gives after the conversion must be what onnxruntime makes of the file.

    Args:
        path: of the file.
        example: images float [N, C, H, W] in [0, 1] to compare on, beside random ones.

    Raises:
        MissingExtraError: the converter or onnxruntime is not installed.
        ModelError: the file cannot be read or converted, its graph has one fixed batch size, gives classes and no
            logits, or computes something else once converted.
    """
    try:
        import onnx
        import onnx2torch
        import onnxruntime  # noqa: F401
    except ImportError:
        raise MissingExtraError("an ONNX model", "onnx") from None
    if not path.is_file():
        raise ModelError(f"onnx:{path}: no such file")
    try:
        content = onnx.load(str(path))
        layout, output = _layout(content, path), _logits_output(content, path)
        graph = _converted(content, onnx2torch.convert)
    except ModelError:
        raise
    except Exception as error:  # protobuf and the converter raise what they like
        reason = first_line(error)
        raise ModelError(
            f"onnx:{path}: cannot be converted ({type(error).__name__}: {reason}); export it anew, or load the network"
        ) from error
    network = OnnxNetwork(graph.eval(), layout, output)
    size = layout.channels, layout.height, layout.width
    images = _trial_images(size, example)
    _check_batches(network, images, path)
    _check_conversion(network, images, path, content.graph.output[output or 0].name)
    return network, size


def _converted(content: "ModelProto", convert: Callable[["ModelProto"], nn.Module]) -> nn.Module:
    """A graph in torch; what the converter does not know in its newest form is put into an older one."""
    try:
        return convert(content)
    except NotImplementedError as unknown:
        try:
            return convert(_older(content))
        except Exception as error:  # the first error says what is missing
            raise unknown from error


def _older(content: "ModelProto") -> "ModelProto":
    """A graph whose operators are those of an older version of ONNX."""
    from onnx import version_converter

    older = version_converter.convert_version(content, OPSET)
    for node in older.graph.node:
        if node.op_type == "Reshape":
            # It is about tensors without entries, which no image is.
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    return older


def _layout(content: "ModelProto", path: Path) -> Layout:
    weights = {tensor.name for tensor in content.graph.initializer}
    inputs = [each for each in content.graph.input if each.name not in weights]
    if len(inputs) != 1:
        raise ModelError(f"onnx:{path}: has {len(inputs)} inputs; a classifier has one, the images")
    kind = inputs[0].type.tensor_type
    if kind.elem_type != 1:  # onnx.TensorProto.FLOAT
        raise ModelError(
            f"onnx:{path}: takes inputs of type {_type_name(kind.elem_type)}; export it for float32 pixels in [0, 1]"
        )
    shape = tuple(dim.dim_value for dim in kind.shape.dim)[1:]
    if not shape or 0 in shape:
        raise ModelError(f"onnx:{path}: its input has no fixed size; export it with fixed channels, height and width")
    return layout_of(shape, f"onnx:{path}")


def layout_of(shape: tuple[int, ...], name: str) -> Layout:
    """How a graph called ``name`` takes images whose input has this shape, without the batch.

    Raises:
        ModelError: no image has it, or its channels may come first or last.
    """
    if len(shape) == 3:
        first, last = shape[0] in (1, 3), shape[2] in (1, 3)
        if first and last:
            raise ModelError(
                f"{name}: takes inputs of shape {shape}, whose channels may come first or last; export it with other"
                " image sizes, or load the network"
            )
        if first:
            return Layout(shape, *shape)
        if last:
            return Layout(shape, shape[2], shape[0], shape[1], channels_last=True)
    elif len(shape) < 3:
        for channels in (1, 3):
            size = isqrt(prod(shape) // channels)
            if channels * size**2 == prod(shape):
                if channels > 1:
                    log.warning("%s: takes flat inputs, read as channels, then height, then width", name)
                return Layout(shape, channels, size, size)
    raise ModelError(f"{name}: takes inputs of shape {shape}, which are no images of 1 or 3 channels")


def _logits_output(content: "ModelProto", path: Path) -> int | None:
    """Which output holds the logits; None where there is one output."""
    outputs = list(content.graph.output)
    floats = [place for place, each in enumerate(outputs) if each.type.tensor_type.elem_type == 1]
    if not floats:
        raise ModelError(
            f"onnx:{path}: ends in argmax or the like: it gives {_type_name(outputs[0].type.tensor_type.elem_type)},"
            " classes and no logits; export it without its last step"
        )
    if len(outputs) == 1:
        return None
    named = [place for place in floats if outputs[place].name == "logits"]
    if len(named or floats) > 1:
        names = ", ".join(outputs[place].name for place in floats)
        raise ModelError(
            f"onnx:{path}: has {len(outputs)} outputs, and {names} may be the logits; export that output alone, or call"
            " it logits"
        )
    return (named or floats)[0]


def _type_name(number: int) -> str:
    import onnx

    return str(onnx.TensorProto.DataType.Name(number)).lower()


def _trial_images(size: tuple[int, int, int], example: Tensor | None) -> Tensor:
    """Random images float [N, C, H, W] in [0, 1], and before them those of the example, brought to size."""
    noise = torch.rand(CHECKED, *size, generator=torch.Generator().manual_seed(0))
    if example is None:
        return noise
    real = nn.functional.interpolate(example[:CHECKED].float(), size[1:])
    return torch.cat([real if real.shape[1] == size[0] else real.mean(1, keepdim=True).expand(-1, *size), noise])


@torch.no_grad()
def _check_batches(network: nn.Module, images: Tensor, path: Path) -> None:
    """Many files are exported for one image; some of them compute with more all the same."""
    try:
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    except (RuntimeError, ValueError, IndexError) as error:
        reason = first_line(error)
        raise ModelError(f"onnx:{path}: does not take batches ({reason}); export it with a dynamic batch") from error
    if together.shape != alone.shape or not torch.allclose(together, alone, rtol=1e-3, atol=1e-4):
        raise ModelError(f"onnx:{path}: computes otherwise in batches; export it with a dynamic batch")


@torch.no_grad()
def _check_conversion(network: OnnxNetwork, images: Tensor, path: Path, output: str) -> None:
    """The converted graph must give what onnxruntime makes of the file, image by image."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        inputs = network.layout.arranged(images).contiguous().numpy()
        batch = session.get_inputs()[0].shape[0]
        count = batch if isinstance(batch, int) else 1
        fed = (np.repeat(inputs[k : k + 1], count, 0) for k in range(len(inputs)))
        made = np.concatenate([session.run([output], {name: each})[0][:1] for each in fed])
    except Exception as error:  # onnxruntime raises what it likes
        reason = first_line(error)
        raise ModelError(f"onnx:{path}: onnxruntime cannot run it ({reason}); export it anew") from error
    expected = torch.from_numpy(made)
    converted = network(images)
    gap = float((converted - expected).abs().max()) if converted.shape == expected.shape else float("inf")
    if not gap <= 1e-3 * max(float(expected.abs().max()), 1e-3):
        raise ModelError(
            f"onnx:{path}: converted to torch it gives other outputs than onnxruntime (they differ by {gap:.2g});"
            " export it anew with other options, or load the network"
        )
