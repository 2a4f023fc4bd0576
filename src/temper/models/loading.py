"""Load a classifier from anywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from temper.core.files import JsonObject
from temper.errors import ArgumentError, ModelError
from temper.models.built import Built, seeded
from temper.models.catalogue import Backbone
from temper.models.classifier import Classifier
from temper.models.heads import is_plain, replace_head
from temper.models.known import OUTPUT_NAMES
from temper.models.model_text import ModelText, parse_model
from temper.models.preprocessing import for_channels, given_or_own
from temper.models.saving import classifier_of, restore
from temper.models.sources import Request, find_source
from temper.models.text_head import ZeroShot
from temper.models.weights import Normalisation, load_weights

PRETRAINED, RANDOM = "pretrained", "none"
# The normalisation that all robust checkpoints of the catalogue were trained with, also where timm's configuration of
# the same architecture says another.
ROBUST_NORMALISATION: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@torch.inference_mode(False)
def load(
    spec: str | Path,
    *,
    num_classes: int | None = None,
    weights: str | Path | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    image_size: int | None = None,
    model_args: Mapping[str, object] | None = None,
    seed: int = 0,
    example: Tensor | None = None,
) -> Classifier:
    """A classifier on float NCHW pixels in [0, 1], in eval mode, on the CPU.

    Args:
        spec: a run folder (``model.json`` and ``weights.safetensors``), ``bundled``,
            ``timm:NAME[@weights-file]``, ``torchvision:NAME[@weights-file]``, ``hf:FOLDER`` (what transformers'
            ``save_pretrained`` writes) or ``hf:ORG/NAME``, ``module:factory`` (importable, from the working directory
            too; the factory takes no argument, or ``num_classes``, and returns a module), ``onnx:FILE``, ``torch:FILE``
            (TorchScript or torch.export), or
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
    model = parse_model(str(spec))
    weights = _weights(model, weights)
    _check_counts(num_classes, image_size)
    channels = next((len(given) for given in (mean, std) if isinstance(given, Sequence)), None)
    request = Request(weights == PRETRAINED, num_classes, image_size, channels, model_args or {}, example)
    with seeded(seed):
        built, info = _first_built(model, weights, request)
        built = _fitted(built, info, request)
    own = built.preprocessing
    preprocessing = replace(own, mean=given_or_own("mean", mean, own.mean), std=given_or_own("std", std, own.std))
    return classifier_of(replace(built, preprocessing=preprocessing), info)


def refresh_head(classifier: Classifier, seed: int) -> None:
    """Give a classifier a fresh head for other classes, as many as it has, in place; random numbers from ``seed``.

    Raises:
        ModelError: it has no head that can be replaced, and no factory that builds another one.
    """
    built = Built(
        classifier.network, classifier.preprocessing, classifier.head_names, classifier.num_classes,
        classifier.form, classifier.input_shape,
    )  # fmt: skip
    with seeded(seed):
        _with_fresh_head(built, classifier.info, classifier.num_classes)


def check(spec: str | Path, weights: str | Path | None = None) -> None:
    """Say what of a MODEL cannot be found, without building it: for those who start many.

    Raises:
        ArgumentError, ModelError: as :func:`load` would.
    """
    model = parse_model(str(spec))
    weights = _weights(model, weights)
    if isinstance(model.origin, Path):
        return
    _check_fetched(model.known, weights)
    if weights not in (PRETRAINED, RANDOM) and not Path(weights).is_file():
        raise ModelError(f"weights file {weights}: not found; give the path of a .safetensors file or torch checkpoint")
    model.origin.check()


def _check_counts(num_classes: int | None, image_size: int | None) -> None:
    if num_classes is not None and num_classes < 2:
        raise ArgumentError("num_classes", num_classes, "a classifier needs at least 2 classes")
    if image_size is not None and image_size < 1:
        raise ArgumentError("image_size", image_size, "must be a positive number of pixels")


def _fitted(built: Built, info: JsonObject, request: Request) -> Built:
    """The network with a head for the classes that are asked for, and for images of the size that is."""
    built = built.with_head_counted()
    if (
        isinstance(built.network, ZeroShot)
        and built.network.class_names
        and request.num_classes not in (None, built.num_classes)
    ):
        fix = f"the texts name {built.num_classes} classes; leave it out, and choose among them by name"
        raise ArgumentError("num_classes", request.num_classes, fix)
    if request.num_classes not in (None, built.num_classes):
        built = _with_fresh_head(built, info, request.num_classes)
    if info["head"] == "fresh" and info.get("loaded") == 1.0:
        info["loaded"] = built.backbone_share()
    return built.resized(request.image_size)


def _with_fresh_head(built: Built, info: JsonObject, num_classes: int) -> Built:
    """The network with a new head: a plain one is replaced, any other built by the source that built the network."""
    network, heads = built.network, [built.network.get_submodule(name) for name in built.head]
    source = find_source(info.get("spec", ""))
    if not heads or all(map(is_plain, heads)) or source is None or not source.builds_heads:
        replace_head(network, built.head, built.outputs(num_classes))
    else:
        shape = built.input_shape
        size, channels = (built.preprocessing.image_size, None) if shape is None else (shape[1], shape[0])
        fresh = source.build(Request(False, num_classes, size, channels))
        if fresh.head != built.head or fresh.num_classes != num_classes:
            raise ModelError(
                f"{source.text}: its head {type(heads[0]).__name__} is more than a linear layer's weight and bias, so"
                f" only the factory can build one for {num_classes} classes; let it take num_classes"
            )
        for name in built.head:
            network.set_submodule(name, fresh.network.get_submodule(name))
    info["head"] = "fresh"
    info.pop(OUTPUT_NAMES, None)
    return built.with_head_counted()


def _first_built(model: ModelText, weights: str | Path, request: Request) -> tuple[Built, JsonObject]:
    """The network that a MODEL names, with its weights, and what says how to build it again."""
    if isinstance(model.origin, Path):
        if not request.pretrained or request.model_args:
            raise ArgumentError("model", model.text, "is a saved model: leave out weights and model arguments")
        return restore(model.origin)
    source = model.origin
    _check_fetched(model.known, weights)
    if request.model_args and not source.takes_arguments:
        given = dict(request.model_args)
        raise ArgumentError("model_args", given, f"are for timm models, not for {source.text}")
    built = source.build(request)
    info: JsonObject = {
        "spec": source.rebuilt_as,
        "model_args": source.rebuilt_with(built, request),
        "weights": str(weights),
        "head": "fresh" if built.head_is_fresh else "kept",
    }
    names = source.output_names(built) if weights == PRETRAINED and not built.head_is_fresh else []
    if len(names) == built.num_classes:
        info[OUTPUT_NAMES] = names
    tower = built.network
    if isinstance(tower, ZeroShot):
        info["class_names"], tower = list(tower.class_names), tower.tower
    if model.known:
        info["catalogue"] = model.known.name
    normalisation = ROBUST_NORMALISATION if model.known and model.known.weights.file else None
    if normalisation:
        built = _normalised(built, normalisation)
    if weights not in (PRETRAINED, RANDOM):
        outputs = None if request.num_classes is None else built.outputs(request.num_classes)
        head = built.head if tower is built.network else ()  # all of a tower's weights are its own
        info |= load_weights(tower, weights, head, outputs, normalisation)
    elif source.weights_are_optional:
        info["loaded"] = 1.0 if request.pretrained else 0.0
    return built, info


def _normalised(built: Built, normalisation: Normalisation) -> Built:
    own = built.preprocessing
    mean, std = (for_channels(values, own.channels) for values in normalisation)
    return replace(built, preprocessing=replace(own, mean=mean, std=std))


def _weights(model: ModelText, given: str | Path | None) -> str | Path:
    """What weights to use: those that the text names, or that are given beside it."""
    if model.weights_file is None:
        return PRETRAINED if given is None else given
    if given is not None:
        raise ArgumentError("weights", str(given), f"the model already names its weights file, {model.weights_file}")
    return model.weights_file


def _check_fetched(known: Backbone | None, weights: str | Path) -> None:
    """Refuse a backbone's own weights where only a person can fetch them."""
    if known and known.weights.file and weights == PRETRAINED:
        file = known.weights.file
        raise ModelError(
            f"{known.name}: its weights are not fetched for you: get {file} from {known.weights.published_at} and use"
            f" {known.name}@{file}, or weights='none' for random ones"
        )
