"""Load a classifier from anywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from temper.errors import ArgumentError, ModelError
from temper.models.building import build, is_factory, no_model, seeded
from temper.models.catalogue import CATALOGUE, Backbone
from temper.models.classifier import Classifier
from temper.models.heads import is_plain, replace_head
from temper.models.saving import classifier_of, restore
from temper.models.sources import Source, find_factory, for_channels, resize, timm_config, working_directory_importable
from temper.models.weights import load_weights

# The normalisation that all robust checkpoints of the catalogue were trained with, also where timm's configuration of
# the same architecture says another.
LEAST_STD = 1e-6
_ROBUST_NORMALISATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@torch.inference_mode(False)
def load(
    spec: str | Path,
    *,
    num_classes: int | None = None,
    weights: str | Path | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    image_size: int | None = None,
    model_args: Mapping[str, Any] | None = None,
    seed: int = 0,
    example: Tensor | None = None,
) -> Classifier:
    """A classifier on float NCHW pixels in [0, 1], in eval mode, on the CPU.

    Args:
        spec: a run folder (``model.json`` and ``weights.safetensors``), ``bundled``,
            ``timm:NAME[@weights-file]`` or ``module:factory`` (importable, from the working directory too;
            the factory takes no argument, or ``num_classes``, and returns a module), ``onnx:FILE``, or
            ``NAME[@weights-file]`` of :data:`temper.models.catalogue.CATALOGUE` (a folder called so goes first).
        num_classes: size of the head; None keeps the head, another number than it has gives a fresh one.
        weights: "pretrained" (the default), "none" (random), or a .safetensors file or torch checkpoint, of
            which every tensor but the head's must fit. A factory decides itself, unless a file is given.
        mean: normalisation in [0, 1] pixel units, one number or one per channel; None: the model's own.
        std: as ``mean``.
        image_size: height and width in pixels; None: the model's own, for a factory's that of ``example``, else the
            only one that it takes, else images as they come.
        model_args: further arguments of ``timm.create_model``, such as ``{"pad_type": "same"}``.
        seed: of all random weights; torch's global random stream is left as it was.
        example: a few images of the data that the model is for, float [N, C, H, W] in [0, 1], all of their own size:
            they show what a factory's network takes and gives.

    ``info`` of the classifier says in ``head`` whether the head is "kept" or "fresh", and in ``loaded`` which share of
    its parameters came from weights: 1.0 less a fresh head, or 0.0 where weights are "none" (a factory says nothing).

    Raises:
        ArgumentError: an argument cannot work.
        ModelError: the model or its weights cannot be found, read or fitted together.
    """
    spec, weights = _split_weights(str(spec), weights)
    if num_classes is not None and num_classes < 2:
        raise ArgumentError("num_classes", num_classes, "a classifier needs at least 2 classes")
    if image_size is not None and image_size < 1:
        raise ArgumentError("image_size", image_size, "must be a positive number of pixels")
    channels = next((len(given) for given in (mean, std) if isinstance(given, Sequence)), None)
    with seeded(seed):
        if spec != "bundled" and Path(spec).is_dir():
            if weights != "pretrained" or model_args:
                raise ArgumentError("model", spec, "is a saved model: leave out weights and model arguments")
            source, info = restore(Path(spec))
        else:
            source, info = _first_built(spec, weights, num_classes, image_size, channels, model_args or {}, example)
        source = source.with_head_counted()
        if num_classes not in (None, source.num_classes):
            source = _with_fresh_head(source, info, num_classes)
        if info["head"] == "fresh" and info.get("loaded") == 1.0:
            info["loaded"] = _share_of_backbone(source)
        if image_size is not None and image_size != source.image_size:
            resize(source.network, image_size, len(source.mean))
    source = replace(
        source,
        mean=_statistic("mean", mean, source.mean),
        std=_statistic("std", std, source.std),
        image_size=image_size or source.image_size,
    )
    return classifier_of(source, info)


def refresh_head(classifier: Classifier, seed: int) -> None:
    """Give a classifier a fresh head for other classes, as many as it has, in place; random numbers from ``seed``.

    Raises:
        ModelError: it has no head that can be replaced, and no factory that builds another one.
    """
    source = Source(
        classifier.network, (), (), classifier.image_size, classifier.head_names, classifier.num_classes,
        form=classifier.form, input_shape=classifier.input_shape,
    )  # fmt: skip
    with seeded(seed):
        _with_fresh_head(source, classifier.info, classifier.num_classes)


def _with_fresh_head(source: Source, info: dict[str, Any], num_classes: int) -> Source:
    """The network with a new head: a plain one is replaced, any other built by the factory that built the network."""
    network, heads = source.network, [source.network.get_submodule(name) for name in source.head]
    if not heads or all(map(is_plain, heads)) or not is_factory(info.get("spec", "")):
        replace_head(network, source.head, source.outputs(num_classes))
    else:
        shape = source.input_shape
        size, channels = (source.image_size, None) if shape is None else (shape[1], shape[0])
        fresh = build(info["spec"], False, num_classes, size, channels, {})
        if fresh.head != source.head or fresh.num_classes != num_classes:
            raise ModelError(
                f"{info['spec']}: its head {type(heads[0]).__name__} is more than a linear layer's weight and bias, so"
                f" only the factory can build one for {num_classes} classes; let it take num_classes"
            )
        for name in source.head:
            network.set_submodule(name, fresh.network.get_submodule(name))
    info["head"] = "fresh"
    return source.with_head_counted()


def check(spec: str | Path, weights: str | Path | None = None) -> None:
    """Say what of a MODEL cannot be found, without building it: for those who start many.

    Raises:
        ArgumentError, ModelError: as :func:`load` would.
    """
    spec, weights = _split_weights(str(spec), weights)
    if spec == "bundled" or Path(spec).is_dir():
        return
    known = CATALOGUE.get(spec)
    if known and known.weights_file and weights == "pretrained":
        raise ModelError(_fetch_by_hand(known))
    if weights not in ("pretrained", "none") and not Path(weights).is_file():
        raise ModelError(f"weights file {weights}: not found; give the path of a .safetensors file or torch checkpoint")
    origin, _, name = (known.source if known else spec).partition(":")
    if origin == "timm" and name:
        timm_config(name)
    elif origin == "onnx" and name:
        if not Path(name).is_file():
            raise ModelError(f"{spec}: not found; give the path of an ONNX file")
    elif is_factory(spec if not known else known.source):
        with working_directory_importable():
            find_factory(spec)
    else:
        raise no_model(spec)


def _first_built(
    spec: str,
    weights: str | Path,
    num_classes: int | None,
    image_size: int | None,
    channels: int | None,
    model_args: Mapping[str, Any],
    example: Tensor | None,
) -> tuple[Source, dict[str, Any]]:
    """A network that is no saved run's, with its weights, and what says how to build it again."""
    known = CATALOGUE.get(spec)
    pretrained = weights == "pretrained"
    if known and known.weights_file and pretrained:
        raise ModelError(_fetch_by_hand(known))
    spec = known.source if known else spec
    source = build(spec, pretrained, num_classes, image_size, channels, model_args, example)
    info: dict[str, Any] = {
        "spec": spec,
        "model_args": dict(model_args),
        "weights": str(weights),
        "head": "fresh" if source.head_is_fresh else "kept",
    }
    if known:
        info["catalogue"] = known.name
    normalisation = _ROBUST_NORMALISATION if known and known.weights_file else None
    if normalisation:
        mean, std = (for_channels(values, len(source.mean)) for values in normalisation)
        source = replace(source, mean=mean, std=std)
    if weights not in ("pretrained", "none"):
        outputs = None if num_classes is None else source.outputs(num_classes)
        info |= load_weights(source.network, weights, source.head, outputs, normalisation)
    elif spec == "bundled" or spec.startswith("timm:"):
        info["loaded"] = 1.0 if pretrained else 0.0
    return source, info


def _split_weights(spec: str, weights: str | Path | None) -> tuple[str, str | Path]:
    """The spec without its @weights-file, and what weights to use."""
    name, _, file = spec.partition("@")
    takes_file = (name.startswith("timm:") or name in CATALOGUE) and not Path(spec).is_dir()
    if not file or not takes_file:
        return spec, "pretrained" if weights is None else weights
    spec = name
    if weights is not None:
        raise ArgumentError("weights", str(weights), f"the model already names its weights file, {file}")
    return spec, file


def _share_of_backbone(source: Source) -> float:
    """Share of the network's parameters that are not in its head."""
    in_head = tuple(f"{layer}." for layer in source.head)
    sizes = {name: parameter.numel() for name, parameter in source.network.named_parameters()}
    return 1 - sum(size for name, size in sizes.items() if name.startswith(in_head)) / sum(sizes.values())


def _fetch_by_hand(known: Backbone) -> str:
    return (
        f"{known.name}: its weights are not fetched for you: get {known.weights_file} from {known.weights_from} and use"
        f" {known.name}@{known.weights_file}, or weights='none' for random ones"
    )


def _statistic(argument: str, given: float | Sequence[float] | None, own: tuple[float, ...]) -> tuple[float, ...]:
    """Mean or standard deviation per channel: the given one, else the model's own."""
    if given is None:
        return own
    values = tuple(given) if isinstance(given, Sequence) else (given,) * len(own)
    if len(values) != len(own):
        raise ArgumentError(argument, given, f"the network has {len(own)} channels: give one number or {len(own)}")
    if not all(0 <= value <= 1 for value in values) or (argument == "std" and 0 in values):
        raise ArgumentError(argument, given, "is in units of [0, 1] pixels; divide 0..255 values by 255")
    if argument == "std" and min(values) < LEAST_STD:
        raise ArgumentError(argument, given, f"pixels are divided by it; give at least {LEAST_STD:g}")
    return values
