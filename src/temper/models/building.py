"""A network by its MODEL, wherever it comes from, with random numbers from a stream of its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from temper.core.files import near
from temper.errors import ArgumentError
from temper.models.catalogue import nearest_backbones
from temper.models.sources import Source, from_bundled, from_factory, from_onnx, from_timm
from temper.text import did_you_mean


def build(
    spec: str,
    pretrained: bool,
    num_classes: int | None,
    image_size: int | None,
    channels: int | None,
    model_args: Mapping[str, Any],
    example: Tensor | None = None,
) -> Source:
    """The network that a MODEL other than a saved one names; see :func:`temper.models.load` for the arguments.

    Raises:
        ArgumentError, ModelError: there is no such model, or it cannot be built so.
    """
    origin, _, name = spec.partition(":")
    if model_args and origin != "timm":
        raise ArgumentError("model_args", dict(model_args), f"are for timm models, not for {spec}")
    if spec == "bundled":
        return from_bundled(pretrained=pretrained)
    if origin == "timm" and name:
        return from_timm(
            name, pretrained=pretrained, num_classes=num_classes, image_size=image_size, model_args=model_args
        )
    if origin == "onnx" and name:
        return from_onnx(Path(name), example)
    if is_factory(spec):
        return from_factory(spec, num_classes=num_classes, image_size=image_size, channels=channels, example=example)
    raise no_model(spec)


def is_factory(spec: str) -> bool:
    """Whether a MODEL is written ``module:factory``."""
    module, _, name = spec.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), *name.split("."))) and module not in (
        "timm",
        "onnx",
    )


def no_model(spec: str) -> ArgumentError:
    """What to say of a MODEL that names nothing."""
    hint = did_you_mean([*map(str, near(Path(spec))), *nearest_backbones(spec.partition("@")[0])])
    return ArgumentError(
        "model",
        spec,
        "must be a run folder that exists, bundled, timm:NAME[@weights-file], module:factory, onnx:FILE or"
        f" NAME[@weights-file] of temper.models.catalogue{hint and f'; {hint}'}",
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a stream of our own; networks are built on the CPU, so no other stream is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
