"""Where networks come from: the bundled one, timm, and a user's own factory."""

import importlib
import inspect
import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from temper.core.precision import check_precision
from temper.errors import ArgumentError, ModelError
from temper.models import bundled
from temper.models.heads import (
    SHAPE_REFUSALS,
    check_one_by_one,
    configured_head,
    evaluating,
    find_head,
    output_of,
    outputs_of,
    takes,
)
from temper.models.hub import prompt_hub
from temper.models.onnx import read_onnx
from temper.models.outputs import Form, form_of, main_output
from temper.models.weights import load_weights
from temper.text import did_you_mean, nearest

# What image networks usually take: tried where nothing says what a factory's network takes.
_USUAL_SIZES = (32, 28, 64, 224, 96, 128, 160, 192, 240, 256, 288, 299, 320, 384, 448, 512)
_OTHER = 32  # a network that does not take images larger by so much has a size of its own
_USUAL_CHANNELS = (3, 1)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A network as its origin gives it, with the preprocessing it was made for."""

    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int | None
    head: tuple[str, ...]
    num_classes: int
    head_is_fresh: bool = False
    """Whether the head is random beside pretrained weights, which came without one."""
    form: Form = "logits"
    """How the network's output is to be read."""
    input_shape: tuple[int, int, int] | None = None
    """Channels, height and width that the network took, where it does not say itself what it takes."""

    def outputs(self, num_classes: int) -> int:
        """Outputs of a head for so many classes: one is enough for two where the network makes do with it."""
        return 1 if num_classes == 2 and self.form != "logits" else num_classes

    def with_head_counted(self) -> "Source":
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


def from_bundled(*, pretrained: bool) -> Source:
    """The network that comes with Temper, pretrained on CIFAR-10 (see its card) or with random weights."""
    network = bundled.BundledNetwork()
    if pretrained:
        load_weights(network, bundled.WEIGHTS, ("head",), bundled.NUM_CLASSES)
    return Source(network, bundled.MEAN, bundled.STD, bundled.IMAGE_SIZE, ("head",), bundled.NUM_CLASSES)


def from_timm(
    name: str,
    *,
    pretrained: bool,
    num_classes: int | None,
    image_size: int | None,
    model_args: Mapping[str, Any],
) -> Source:
    """A timm network with the normalisation, input size and class count of its own configuration.

    ``num_classes`` matters only where the pretrained weights come without a classifier, and ``image_size``
    only where the family's input size is fixed when it is built.

    Raises:
        ArgumentError: ``model_args`` say what has an argument of its own.
        ModelError: no such name or tag, no weights, no way to fetch them, or arguments that it does not take or with
            which it is no classifier.
    """
    for argument, instead in {"num_classes": "num_classes", "img_size": "image_size"}.items():
        if argument in model_args:
            raise ArgumentError("model_args", dict(model_args), f"give {instead} by itself, not in here")
    from timm import create_model

    config = timm_config(name)
    if pretrained and not config.has_weights:
        raise ModelError(f"timm:{name}: timm has no weights for it; use weights='none' or timm:{name}@FILE")
    arguments = dict(model_args)
    headless = config.num_classes == 0
    if headless:
        if num_classes is None:
            raise ModelError(f"timm:{name}: its weights come without a classifier; give num_classes")
        # timm takes weights strictly only into a network with as many classes as they have: the head comes after.
        arguments["num_classes"] = 0 if pretrained else num_classes

    def create(**more: Any) -> nn.Module:
        try:
            with prompt_hub() if pretrained else nullcontext():
                network: nn.Module = create_model(name, pretrained=pretrained, **arguments, **more)
        except OSError as error:  # what the hub's client raises without network and cache
            raise ModelError(_fetch_by_hand(name, config)) from error
        except TypeError as error:
            raise ModelError(f"timm:{name}: cannot be built with {arguments | more}: {error}") from error
        except RuntimeError as error:
            if not str(error).startswith("Error(s) in loading state_dict"):
                raise
            reason = " ".join(str(error).split())
            raise ModelError(f"timm:{name}: its weights do not fit with {arguments | more}: {reason[:300]}") from error
        if headless and pretrained:
            reset_classifier: Any = network.reset_classifier
            reset_classifier(num_classes)
        return network

    network = create()
    channels, *size = config.input_size
    changeable = not config.fixed_input_size or hasattr(network, "set_input_size")
    if image_size is not None and size != [image_size] * 2 and not changeable:
        network = create(img_size=image_size)
        size = [image_size] * 2
    head = configured_head(network)
    if not head:
        raise ModelError(f"timm:{name}: gives no logits (it is an encoder); choose a classifier")
    channels = arguments.get("in_chans", channels)
    if model_args:  # which may add outputs, such as those of an auxiliary head
        _read(f"timm:{name} with {dict(model_args)}", network, torch.zeros(2, channels, *size))
    return Source(
        network,
        for_channels(config.mean, channels),
        for_channels(config.std, channels),
        size[0] if size[0] == size[1] else None,
        head,
        outputs_of(network.get_submodule(head[0])),
        head_is_fresh=headless and pretrained,
    )


def resize(network: nn.Module, image_size: int, channels: int) -> None:
    """Make a network that is built for one input size take another; a forward pass checks that it does.

    Raises:
        ModelError: the size does not fit, for instance is no multiple of the patch size.
    """
    set_input_size: Any = getattr(network, "set_input_size", None)  # timm's, where size is built in
    try:
        if set_input_size is not None:
            set_input_size(img_size=image_size)
        output_of(network, torch.zeros(1, channels, image_size, image_size))
    except SHAPE_REFUSALS as error:
        raise ModelError(
            f"image_size = {image_size}: {type(network).__name__} does not take it ({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def timm_config(name: str) -> Any:
    """timm's configuration of a network; a ModelError that names the nearest where there is none."""
    import timm  # seconds, which no other network need wait for

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = timm.list_models()
        hint = did_you_mean(nearest(architecture, known, 3, 0.5), "timm.list_models() lists the names")
        raise ModelError(f"timm:{name}: timm {timm.__version__} has no model {architecture!r}; {hint}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ModelError(f"timm:{name}: no weights tagged {tag!r}; known: {', '.join(tags) or 'none'}")
    return timm.get_pretrained_cfg(name)


def _fetch_by_hand(name: str, config: Any) -> str:
    if config.hf_hub_id:
        what = f"{config.hf_hub_filename or 'model.safetensors'} of {config.hf_hub_id} on the Hugging Face hub"
    else:
        what = str(config.url)
    architecture = name.partition(".")[0]
    return (
        f"timm:{name}: its weights are not in the cache and could not be fetched (no network?); copy {what}"
        f" to this machine as {architecture}.safetensors and use timm:{name}@{architecture}.safetensors"
    )


def for_channels(statistic: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Means or standard deviations of RGB for another number of channels."""
    # A network rebuilt for other channels sums or repeats its RGB filters: each channel gets the average.
    if len(statistic) == channels:
        return tuple(statistic)
    return (sum(statistic) / len(statistic),) * channels


def from_factory(
    spec: str,
    *,
    num_classes: int | None,
    image_size: int | None,
    channels: int | None,
    example: Tensor | None = None,
) -> Source:
    """The network that a user's ``module:factory`` returns, found from the working directory too.

    The factory takes no argument, or ``num_classes``. Its normalisation is taken to be its own affair (mean
    0, std 1 here). A forward pass checks the output and finds the head: at ``image_size`` where that is given, else on
    ``example``, images float [N, C, H, W] of the data in question, else at the first usual size that the network
    accepts. Square images of the data give the network its size, and so does its refusal of all others.

    Raises:
        ModelError: no such module or attribute, not a factory, no network, or an output that is not [N, K].
    """
    with working_directory_importable():
        factory = find_factory(spec)
        network = _call(spec, factory, num_classes)
    if not isinstance(network, nn.Module):
        raise ModelError(f"{spec}: returned {type(network).__name__}; it must return a torch.nn.Module")
    network = uncompiled(network)
    check_precision(network, spec)
    images, form = _accepted(spec, network, image_size, channels, example)
    count, height, width = images.shape[1:]
    if example is not None and image_size is None and not _same_size(images, example):
        own = "x".join(map(str, example.shape[1:]))
        log.warning("%s: takes no images of %s, as the data has; they are brought to %dx%d", spec, own, height, width)
    if image_size is None and height == width and (_same_size(images, example) or not _takes_larger(network, images)):
        image_size = height
    identity = (0.0,) * count, (1.0,) * count
    classes = max(output_of(network, images)[0].numel(), 2)
    return Source(
        network, *identity, image_size, find_head(network, images), classes,
        form=form, input_shape=(count, height, width),
    )  # fmt: skip


def uncompiled(network: nn.Module) -> nn.Module:
    """The network that ``torch.compile`` was given: hooks do not see into compiled code, and names differ in it."""
    for module in network.modules():
        module._compiled_call_impl = None
        for name, child in module.named_children():
            setattr(module, name, getattr(child, "_orig_mod", child))
    whole: nn.Module = getattr(network, "_orig_mod", network)
    return whole


def from_onnx(path: Path, images: Tensor | None = None) -> Source:
    """The network in an ONNX file, on pixels in [0, 1]: an exported classifier has its normalisation inside.

    Raises:
        MissingExtraError, ModelError: see :func:`temper.models.onnx.read_onnx`.
    """
    network, (channels, height, width) = read_onnx(path, images)
    example = torch.zeros(2, channels, height, width)
    identity = (0.0,) * channels, (1.0,) * channels
    size = height if height == width else None
    form = _read(f"onnx:{path}", network, example)
    classes = max(output_of(network, example)[0].numel(), 2)
    return Source(network, *identity, size, find_head(network, example), classes, form=form)


@contextmanager
def working_directory_importable() -> Iterator[None]:
    """Inside, modules of the working directory can be imported."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


def find_factory(spec: str) -> Callable[..., Any]:
    """What ``module:factory`` names; a ModelError where it names nothing that can be called."""
    module_name, _, attribute = spec.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the user's module was found; something that it imports was not
        raise ModelError(
            f"{spec}: no module {error.name!r}; run from the folder that holds {error.name}.py or install it"
        ) from error
    try:
        factory = getattr(module, attribute)
    except AttributeError as error:
        near = [f"{module_name}:{name}" for name in nearest(attribute, dir(module))]
        hint = did_you_mean(near, "name a function that returns a network")
        raise ModelError(f"{spec}: module {module_name!r} has no {attribute!r}; {hint}") from error
    if isinstance(factory, nn.Module) or not callable(factory):
        raise ModelError(f"{spec}: is a {type(factory).__name__}; name a function that returns a network")
    return factory


def _call(spec: str, factory: Callable[..., Any], num_classes: int | None) -> Any:
    signature = inspect.signature(factory)
    takes_classes = num_classes is not None and "num_classes" in signature.parameters
    arguments = {"num_classes": num_classes} if takes_classes else {}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ModelError(
            f"{spec}: takes {signature}; it may take num_classes (then give it) and nothing else"
        ) from error
    return factory(**arguments)


def _accepted(
    spec: str, network: nn.Module, image_size: int | None, channels: int | None, example: Tensor | None
) -> tuple[Tensor, Form]:
    """Two images [2, C, H, W] that the network takes, and how its output is to be read."""
    refusal = ""
    options = list(_options(image_size, channels, example))
    for images in options:
        try:
            form = _read(spec, network, images)
        except ModelError:  # what it gives is no classifier's, at any size
            raise
        except SHAPE_REFUSALS as error:
            refusal = refusal or _first_line(error)
            if takes(network, images[:1]):
                raise ModelError(
                    f"{spec}: takes one image at a time ({_first_line(error)}); make it for batches of any size"
                ) from error
        else:
            check_one_by_one(network, images, form, spec)
            return images, form
    tried = ", ".join("x".join(map(str, images.shape[1:])) for images in options[:4]) + " and so on" * (
        len(options) > 4
    )
    raise ModelError(
        f"{spec}: does not take images of {tried} ({refusal}); give image_size, mean and std for C, or make it for"
        " batches of any size"
    )


def _options(image_size: int | None, channels: int | None, example: Tensor | None) -> Iterator[Tensor]:
    """Two images or more of each shape to try, the likeliest first."""
    sizes = [(size, size) for size in (_USUAL_SIZES if image_size is None else (image_size,))]
    counts: Sequence[int] = _USUAL_CHANNELS if channels is None else (channels,)
    if example is not None:
        sizes = [(example.shape[2], example.shape[3]), *sizes] if image_size is None else sizes
        counts = [example.shape[1], *counts] if channels is None else counts
    for count, size in itertools.product(dict.fromkeys(counts), dict.fromkeys(sizes)):
        if example is not None and tuple(example.shape[1:]) == (count, *size):
            yield example if len(example) > 1 else example.repeat(2, 1, 1, 1)
        else:
            yield torch.zeros(2, count, *size)


def _same_size(images: Tensor, example: Tensor | None) -> bool:
    return example is not None and images.shape[2:] == example.shape[2:]


def _takes_larger(network: nn.Module, images: Tensor) -> bool:
    """Whether a network that takes these images takes larger ones too, so that it has no size of its own."""
    side = images.shape[-1] + _OTHER
    return takes(network, torch.zeros(2, images.shape[1], side, side))


def _read(spec: str, network: nn.Module, images: Tensor) -> Form:
    """How the network's output for two images is to be read; a ModelError where it is no classifier's."""
    with evaluating(network), torch.enable_grad():
        # A product, for the network may write into what it is given.
        output = main_output(network(images.clone().requires_grad_() * 1), training=False)
    found: Any = type(output).__name__
    if isinstance(output, tuple | list):
        found = f"{found} of {len(output)} outputs"
    if isinstance(output, Tensor):
        found = list(output.shape) if output.is_floating_point() else f"{output.dtype} {list(output.shape)}"
        form = form_of(output) if len(output) == len(images) and output.dim() else None
        if form is not None:
            return form
    raise ModelError(
        f"{spec}: gives {found} for a batch of {len(images)}; it must give logits [{len(images)}, classes]"
    )
