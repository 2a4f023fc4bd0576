"""Load a classifier from anywhere, and save one so that it loads bit-exactly."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from temper.errors import ArgumentError, ModelError
from temper.files import write_json, written
from temper.models.catalogue import CATALOGUE, Backbone, nearest
from temper.models.classifier import Classifier
from temper.models.heads import outputs_of, replace_head
from temper.models.sources import (
    Source,
    find_factory,
    for_channels,
    from_bundled,
    from_factory,
    from_onnx,
    from_timm,
    resize,
    timm_config,
    working_directory_importable,
)
from temper.models.weights import load_weights

_DESCRIPTION = "model.json"
_WEIGHTS = "weights.safetensors"
_FORMAT = 1
# The normalisation that all robust checkpoints of the catalogue were trained with, also where timm's configuration of
# the same architecture says another.
_ROBUST_NORMALISATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


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
        image_size: height and width in pixels; None: the model's own (images as they come for a factory's).
        model_args: further arguments of ``timm.create_model``, such as ``{"pad_type": "same"}``.
        seed: of all random weights; torch's global random stream is left as it was.

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
    with _seeded(seed):
        if spec != "bundled" and Path(spec).is_dir():
            if weights != "pretrained" or model_args:
                raise ArgumentError("model", spec, "is a saved model: leave out weights and model arguments")
            source, info = _restore(Path(spec))
        else:
            source, info = _first_built(spec, weights, num_classes, image_size, channels, model_args or {})
        if num_classes not in (None, _num_classes(source)):
            replace_head(source.network, source.head, num_classes)
            info["head"] = "fresh"
        if info["head"] == "fresh" and info.get("loaded") == 1.0:
            info["loaded"] = _share_of_backbone(source)
        if image_size is not None and image_size != source.image_size:
            resize(source.network, image_size, len(source.mean))
    return Classifier(
        source.network,
        mean=_statistic("mean", mean, source.mean),
        std=_statistic("std", std, source.std),
        image_size=image_size or source.image_size,
        head=source.head,
        num_classes=_num_classes(source),
        info=info,
    ).eval()


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
    elif _is_factory(origin, name):
        with working_directory_importable():
            find_factory(spec)
    else:
        raise _no_model(spec)


def save(classifier: Classifier, folder: str | Path, *, extra: Mapping[str, Any] | None = None) -> None:
    """Write ``model.json`` and ``weights.safetensors``; ``load(folder)`` restores the classifier bit-exactly.

    The weights are the network's own state dict, so other programs can read them too. Each file appears whole
    or not at all.

    Args:
        classifier: one that came from ``load`` (it knows how its network is built).
        folder: made if need be; files of the same names in it are replaced.
        extra: JSON-able facts to keep, such as class names; ``load`` puts them into ``info``.

    Raises:
        ModelError: the classifier was built by hand.
    """
    if "spec" not in classifier.info:
        raise ModelError(
            f"{type(classifier.network).__name__}: nothing says how to build this network again;"
            " make a factory of it and load it as module:factory"
        )
    folder = Path(folder)
    description = {
        "format": _FORMAT,
        "num_classes": classifier.num_classes,
        "mean": classifier.mean.flatten().tolist(),
        "std": classifier.std.flatten().tolist(),
        "image_size": classifier.image_size,
        "head": list(classifier.head_names),
        "info": classifier.info | dict(extra or {}),
    }
    tensors = {
        # A clone each: safetensors refuses tensors that share memory or are not contiguous.
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in classifier.network.state_dict().items()
    }
    with written(folder / _WEIGHTS) as unfinished:
        # Through Python's own files, so that a full disk is an OSError that says so.
        unfinished.write_bytes(safetensors.torch.save(tensors))
    write_json(folder / _DESCRIPTION, description)


def _first_built(
    spec: str,
    weights: str | Path,
    num_classes: int | None,
    image_size: int | None,
    channels: int | None,
    model_args: Mapping[str, Any],
) -> tuple[Source, dict[str, Any]]:
    """A network that is no saved run's, with its weights, and what says how to build it again."""
    known = CATALOGUE.get(spec)
    pretrained = weights == "pretrained"
    if known and known.weights_file and pretrained:
        raise ModelError(_fetch_by_hand(known))
    spec = known.source if known else spec
    source = _build(spec, pretrained, num_classes, image_size, channels, model_args)
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
        info |= load_weights(source.network, weights, source.head, num_classes, normalisation)
    elif spec == "bundled" or spec.startswith("timm:"):
        info["loaded"] = 1.0 if pretrained else 0.0
    return source, info


def _restore(folder: Path) -> tuple[Source, dict[str, Any]]:
    path = folder / _DESCRIPTION
    try:
        description = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ModelError(f"{folder}: no {_DESCRIPTION} in it, so not a run that has saved its model") from error
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}: damaged ({error}); save the model again") from error
    if description.get("format") != _FORMAT:
        raise ModelError(f"{path}: format {description.get('format')}, not {_FORMAT}; use the Temper that wrote it")
    info, size, classes = description["info"], description["image_size"], description["num_classes"]
    mean, std, head = (tuple(description[key]) for key in ("mean", "std", "head"))
    source = _build(info["spec"], False, classes, size, len(mean), info["model_args"])
    if size is not None and size != source.image_size:
        resize(source.network, size, len(mean))
    load_weights(source.network, folder / _WEIGHTS, head, classes)
    return Source(source.network, mean, std, size, head, classes), info


def _build(
    spec: str,
    pretrained: bool,
    num_classes: int | None,
    image_size: int | None,
    channels: int | None,
    model_args: Mapping[str, Any],
) -> Source:
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
        return from_onnx(Path(name))
    if _is_factory(origin, name):
        return from_factory(spec, num_classes=num_classes, image_size=image_size, channels=channels)
    raise _no_model(spec)


def _is_factory(module: str, name: str) -> bool:
    return all(part.isidentifier() for part in (*module.split("."), *name.split(".")))


def _no_model(spec: str) -> ArgumentError:
    near = nearest(spec.partition("@")[0])
    return ArgumentError(
        "model",
        spec,
        "must be a run folder that exists, bundled, timm:NAME[@weights-file], module:factory, onnx:FILE or"
        " NAME[@weights-file] of temper.models.catalogue" + (f"; did you mean {', '.join(near)}?" if near else ""),
    )


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


def _num_classes(source: Source) -> int:
    return outputs_of(source.network.get_submodule(source.head[0])) if source.head else source.num_classes


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
    return values


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a stream of our own; networks are built on the CPU, so no other stream is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
