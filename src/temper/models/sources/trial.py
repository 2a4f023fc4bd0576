"""What a network takes, found out by trying: for sources that do not say."""

import itertools
import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from temper.errors import ModelError
from temper.models.built import Built, classifier_form
from temper.models.heads import SHAPE_REFUSALS, check_one_by_one, find_head, output_of, takes
from temper.models.outputs import Form
from temper.models.preprocessing import Preprocessing
from temper.models.sources.source import Request
from temper.text import first_line

# What image networks usually take: tried where nothing says what a factory's network takes.
_USUAL_SIZES = (32, 28, 64, 224, 96, 128, 160, 192, 240, 256, 288, 299, 320, 384, 448, 512)
_LARGER_BY = 32  # a network that does not take images larger by so much has a size of its own
_USUAL_CHANNELS = (3, 1)
log = logging.getLogger(__name__)


def built_as_it_takes(text: str, network: nn.Module, request: Request) -> Built:
    """A network that normalises by itself, for images of a shape that it takes and, where it may, of the data's.

    A forward pass checks the output and finds the head.

    Args:
        text: the MODEL that names it.
        network: from float [N, C, H, W] in [0, 1] to its output.
        request: what is asked for.

    Raises:
        ModelError: it takes no images, or gives no logits for them.
    """
    images, form = _accepted(text, network, request)
    channels, height, width = images.shape[1:]
    preprocessing = Preprocessing.none(channels, _image_size(text, network, images, request))
    classes = max(output_of(network, images)[0].numel(), 2)
    return Built(
        network, preprocessing, find_head(network, images), classes, form, input_shape=(channels, height, width)
    )


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
