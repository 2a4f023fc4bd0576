"""Networks that a user's own function returns: ``module:factory``."""

import importlib
import inspect
import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from temper.core.precision import check_precision
from temper.errors import ModelError
from temper.models.built import Built, classifier_form
from temper.models.heads import SHAPE_REFUSALS, check_one_by_one, find_head, output_of, takes
from temper.models.outputs import Form
from temper.models.preprocessing import Preprocessing
from temper.models.sources.source import ModelSource, Request
from temper.text import did_you_mean, first_line, nearest

# What image networks usually take: tried where nothing says what a factory's network takes.
_USUAL_SIZES = (32, 28, 64, 224, 96, 128, 160, 192, 240, 256, 288, 299, 320, 384, 448, 512)
_LARGER_BY = 32  # a network that does not take images larger by so much has a size of its own
_USUAL_CHANNELS = (3, 1)
log = logging.getLogger(__name__)


class FactorySource(ModelSource):
    """What the factory returns, found from the working directory too.

    The factory takes no argument, or ``num_classes``. Its normalisation is taken to be its own affair (mean 0, std 1
    here). A forward pass checks the output and finds the head: at ``image_size`` where that is given, else on
    ``example``, images float [N, C, H, W] of the data in question, else at the first usual size that the network
    accepts. Square images of the data give the network its size, and so does its refusal of all others.
    """

    form = "module:factory"
    builds_heads = True

    @classmethod
    def names(cls, text: str) -> bool:
        """See :meth:`ModelSource.names`."""
        module, _, name = text.partition(":")
        return all(part.isidentifier() for part in (*module.split("."), *name.split(".")))

    def check(self) -> None:
        """See :meth:`ModelSource.check`."""
        with _working_directory_importable():
            _find_factory(self.text)

    def build(self, request: Request) -> Built:
        """See :meth:`ModelSource.build`; it cannot where what is returned is no network, or gives no [N, K], either."""
        with _working_directory_importable():
            network = _called(self.text, _find_factory(self.text), request.num_classes)
        if not isinstance(network, nn.Module):
            raise ModelError(f"{self.text}: returned {type(network).__name__}; it must return a torch.nn.Module")
        network = uncompiled(network)
        check_precision(network, self.text)
        images, form = _accepted(self.text, network, request)
        channels, height, width = images.shape[1:]
        preprocessing = Preprocessing.none(channels, _image_size(self.text, network, images, request))
        classes = max(output_of(network, images)[0].numel(), 2)
        return Built(
            network, preprocessing, find_head(network, images), classes, form, input_shape=(channels, height, width)
        )


def uncompiled(network: nn.Module) -> nn.Module:
    """The network that ``torch.compile`` was given: hooks do not see into compiled code, and names differ in it."""
    for module in network.modules():
        module._compiled_call_impl = None
        for name, child in module.named_children():
            setattr(module, name, getattr(child, "_orig_mod", child))
    whole: nn.Module = getattr(network, "_orig_mod", network)
    return whole


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    """Inside, modules of the working directory can be imported."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


def _find_factory(text: str) -> Callable[..., object]:
    """What ``module:factory`` names; a ModelError where it names nothing that can be called."""
    module_name, _, attribute = text.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the user's module was found; something that it imports was not
        raise ModelError(
            f"{text}: no module {error.name!r}; run from the folder that holds {error.name}.py or install it"
        ) from error
    try:
        factory: object = getattr(module, attribute)
    except AttributeError as error:
        near = [f"{module_name}:{name}" for name in nearest(attribute, dir(module))]
        hint = did_you_mean(near, "name a function that returns a network")
        raise ModelError(f"{text}: module {module_name!r} has no {attribute!r}; {hint}") from error
    if isinstance(factory, nn.Module) or not callable(factory):
        raise ModelError(f"{text}: is a {type(factory).__name__}; name a function that returns a network")
    return factory


def _called(text: str, factory: Callable[..., object], num_classes: int | None) -> object:
    signature = inspect.signature(factory)
    takes_classes = num_classes is not None and "num_classes" in signature.parameters
    arguments = {"num_classes": num_classes} if takes_classes else {}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ModelError(
            f"{text}: takes {signature}; it may take num_classes (then give it) and nothing else"
        ) from error
    return factory(**arguments)


def _accepted(text: str, network: nn.Module, request: Request) -> tuple[Tensor, Form]:
    """Two images [2, C, H, W] that the network takes, and how its output is to be read."""
    refusal = ""
    options = list(_options(request))
    for images in options:
        try:
            form = classifier_form(text, network, images)
        except ModelError:  # what it gives is no classifier's, at any size
            raise
        except SHAPE_REFUSALS as error:
            refusal = refusal or first_line(error)
            if takes(network, images[:1]):
                raise ModelError(
                    f"{text}: takes one image at a time ({first_line(error)}); make it for batches of any size"
                ) from error
        else:
            check_one_by_one(network, images, form, text)
            return images, form
    tried = ", ".join("x".join(map(str, images.shape[1:])) for images in options[:4])
    raise ModelError(
        f"{text}: does not take images of {tried}{' and so on' if len(options) > 4 else ''} ({refusal}); give"
        " image_size, mean and std for C, or make it for batches of any size"
    )


def _options(request: Request) -> Iterator[Tensor]:
    """Two images or more of each shape to try, the likeliest first."""
    image_size, channels, example = request.image_size, request.channels, request.example
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


def _image_size(text: str, network: nn.Module, accepted: Tensor, request: Request) -> int | None:
    """The network's image size: the one asked for, that of the data, or the only one that it takes; None for any."""
    if request.image_size is not None:
        return request.image_size
    height, width = accepted.shape[2:]
    example = request.example
    as_the_data = example is not None and accepted.shape[2:] == example.shape[2:]
    if example is not None and not as_the_data:
        own = "x".join(map(str, example.shape[1:]))
        log.warning("%s: takes no images of %s, as the data has; they are brought to %dx%d", text, own, height, width)
    if height == width and (as_the_data or not _takes_larger(network, accepted)):
        return height
    return None


def _takes_larger(network: nn.Module, images: Tensor) -> bool:
    """Whether a network that takes these images takes larger ones too, so that it has no size of its own."""
    side = images.shape[-1] + _LARGER_BY
    return takes(network, torch.zeros(2, images.shape[1], side, side))
