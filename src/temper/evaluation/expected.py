"""A model that may be random, made ready to be measured in expectation."""

import logging

import torch
from torch import Tensor, nn

from temper.attacks.crafting import crafting
from temper.core import randomness
from temper.core.streams import Streams, library_numbers
from temper.errors import ArgumentError, ModelError
from temper.evaluation.fitness import CONSTANT
from temper.evaluation.samples import device_of
from temper.models.expectation import Expectation, Habits, once

log = logging.getLogger(__name__)

SIZES = (17, 19)  # of two batches whose axes are told from others by their lengths
LOOKS = 3  # draws that are looked at: a model may take its turns by chance


@torch.no_grad()
def in_expectation(model: nn.Module, draws: int, seed: int, images: Tensor) -> nn.Module:
    """The model with every answer taken over several passes, if it is random; see :mod:`temper.models.expectation`.

    One that draws no random numbers is given back as it is, with a line that says so.

    Args:
        model: from float NCHW images in [0, 1] to logits [N, K].
        draws: passes for an answer.
        seed: of the random streams.
        images: a few, float [N, C, H, W] in [0, 1].

    Raises:
        ArgumentError: less than one pass.
        ModelError: it draws numbers that cannot be given to each image from a stream of its own.
    """
    if draws < 1:
        raise ArgumentError("eot", draws, "must be at least 1 pass for an answer")
    x = images.to(device_of(model))
    with crafting(model):
        random, habits = _looked_at(model, x)
        expected = Expectation(model, draws, seed, habits) if random else model
        one, other = once(expected)(x), once(expected)(x)
    if not isinstance(one, Tensor):
        return model  # no classifier, which is refused where its outputs are read
    if (one - other).abs().max() > CONSTANT * one.abs().max():
        raise ModelError(
            "the model draws random numbers that eot does not reach, as from a NumPy generator of its own: let it draw"
            " them by torch, or from the global generators of Python or NumPy"
        )
    if not random:
        log.info("eot: the model draws no random numbers; it is measured as it is, with one pass for an answer")
    return expected


def _looked_at(model: nn.Module, x: Tensor) -> tuple[bool, Habits]:
    """Whether a model draws random numbers, and how."""
    random, shared, fixed = False, False, set[int]()
    for size in SIZES:
        batch = x[torch.arange(size, device=x.device) % len(x)]
        keys = randomness.content_keys(batch)
        for look in range(LOOKS):
            streams = Streams(keys + look, keys[:1] * 0 + look)
            with streams, library_numbers(look) as taken:
                model(batch)
                shared |= taken() or streams.shared
            random |= shared or streams.drawn > 0
            fixed |= streams.fixed
    return random, Habits(frozenset(fixed), shared)
