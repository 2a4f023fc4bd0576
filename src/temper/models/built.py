"""A network as it was built, before it is a classifier: what it takes, how its output is to be read, and its head."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from temper.errors import ModelError
from temper.models.heads import SHAPE_REFUSALS, check_takes_images_alone, evaluating, output_of, outputs_of
from temper.models.outputs import Form, form_of, main_output
from temper.models.preprocessing import Preprocessing
from temper.text import first_line, listed


@dataclass(frozen=True)
class Built:
    """A network as its source gives it, with the preprocessing it was made for.

    Attributes:
        network: on the CPU.
        preprocessing: its own.
        head: dotted names of the linear layers that give its output; see :class:`temper.models.Classifier`.
        num_classes: of its output.
        form: how its output is to be read.
        input_shape: channels, height and width that the network took, where it does not say itself what it takes.
        head_is_fresh: whether the head is random beside pretrained weights, which came without one.
    """

    network: nn.Module
    preprocessing: Preprocessing
    head: tuple[str, ...]
    num_classes: int
    form: Form = "logits"
    input_shape: tuple[int, int, int] | None = None
    head_is_fresh: bool = False

    def outputs(self, num_classes: int) -> int:
        """Outputs of a head for so many classes: one is enough for two where the network makes do with it."""
        return 1 if num_classes == 2 and self.form != "logits" else num_classes

    def with_head_counted(self) -> "Built":
        """The same with as many classes as its head has now."""
        if not self.head:
            return self
        outputs = outputs_of(self.network.get_submodule(self.head[0]))
        if outputs == 1:
            return replace(self, num_classes=2)
        if self.form == "probability":
            raise ModelError(
                f"{type(self.network).__name__}: ends in a sigmoid over one output, which {outputs} classes cannot"
                " share; let it return logits"
            )
        return replace(self, num_classes=outputs, form="logits")

    def backbone_share(self) -> float:
        """Share of the network's parameters that are not in its head."""
        in_head = tuple(f"{layer}." for layer in self.head)
        sizes = {name: parameter.numel() for name, parameter in self.network.named_parameters()}
        return 1 - sum(size for name, size in sizes.items() if name.startswith(in_head)) / sum(sizes.values())

    def resized(self, image_size: int | None) -> "Built":
        """The same for images of this height and width; None: of its own."""
        if image_size in (None, self.preprocessing.image_size):
            return self
        resize(self.network, image_size, self.preprocessing.channels)
        return replace(self, preprocessing=replace(self.preprocessing, image_size=image_size))


def resize(network: nn.Module, image_size: int, channels: int) -> None:
    """Make a network that is built for one input size take another; a forward pass checks that it does.

    Raises:
        ModelError: the size does not fit, for instance is no multiple of the patch size.
    """
    # timm's, where size is built in
    set_input_size: Callable[..., object] | None = getattr(network, "set_input_size", None)
    try:
        if set_input_size is not None:
            set_input_size(img_size=image_size)
        output_of(network, torch.zeros(1, channels, image_size, image_size))
    except SHAPE_REFUSALS as error:
        raise ModelError(
            f"image_size = {image_size}: {type(network).__name__} does not take it ({first_line(error)})"
        ) from error


def classifier_form(text: str, network: nn.Module, images: Tensor) -> Form:
    """How the output of the network that ``text`` names is to be read, from what it gives for two images.

    Raises:
        ModelError: it is no classifier's.
    """
    check_takes_images_alone(network, text)
    with evaluating(network), torch.enable_grad():
        # A product, for the network may write into what it is given.
        output = main_output(network(images.clone().requires_grad_() * 1), training=False)
    if isinstance(output, Tensor) and output.dim() and len(output) == len(images):
        form = form_of(output)
        if form is not None:
            return form
    raise ModelError(
        f"{text}: gives {_kind_of(output)} for a batch of {len(images)}; it must give logits [{len(images)}, classes]"
        f"{_several_heads(output)}"
    )


def _several_heads(output: object) -> str:
    """What to do about several outputs, none of which is the logits for sure."""
    if not isinstance(output, tuple | list | Mapping):
        return ""
    return "; several heads or tasks are out of scope: return the logits that are meant, alone or named logits"


def _kind_of(output: object) -> str:
    """What a network gave, in words."""
    if isinstance(output, tuple | list):
        return f"{type(output).__name__} of {len(output)} outputs ({', '.join(map(_kind_of, output[:3]))})"
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with {listed([str(name) for name in output])}"
    if isinstance(output, Tensor):
        shape = list(output.shape)
        return str(shape) if output.is_floating_point() else f"{output.dtype} {shape}"
    return type(output).__name__


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a stream of our own; networks are built on the CPU, so no other stream is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
