"""Save a classifier so that it loads bit-exactly, and prove that it does before anything depends on it."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from temper.core.files import JsonObject, read_json, write_json, written
from temper.core.precision import full_precision
from temper.errors import DamagedError, ModelError
from temper.models.built import Built, seeded
from temper.models.classifier import Classifier
from temper.models.heads import evaluating
from temper.models.model_text import source_of
from temper.models.preprocessing import Preprocessing
from temper.models.sources import Request
from temper.models.weights import fit_weights, load_tensors
from temper.text import did_you_mean

DESCRIPTION = "model.json"
WEIGHTS = "weights.safetensors"
FORMAT = 1
TOLERANCE = 1e-3  # of the largest logit; the same weights in another memory layout differ by a hundredth of this
_OTHER_SEED = 1_234_567  # whatever a network draws when it is built and does not save shows by another seed


def save(classifier: Classifier, folder: str | Path, *, extra: Mapping[str, object] | None = None) -> None:
    """Write ``model.json`` and ``weights.safetensors``; ``load(folder)`` restores the classifier bit-exactly.

    The weights are the network's own state dict, so other programs can read them too. Each file appears whole
    or not at all, and ``model.json`` has the weights' SHA-256.

    Args:
        classifier: one that came from ``load`` (it knows how its network is built).
        folder: made if need be; files of the same names in it are replaced.
        extra: JSON-able facts to keep, such as class names; ``load`` puts them into ``info``.

    Raises:
        ModelError: the classifier was built by hand.
    """
    folder = Path(folder)
    description, tensors = _description(classifier, extra or {}), _tensors(classifier)
    content = safetensors.torch.save(tensors)
    with written(folder / WEIGHTS) as unfinished:
        # Through Python's own files, so that a full disk is an OSError that says so.
        unfinished.write_bytes(content)
    write_json(folder / DESCRIPTION, description | {"sha256": hashlib.sha256(content).hexdigest()})


def restore(folder: Path) -> tuple[Built, JsonObject]:
    """What :func:`save` wrote, and its ``info``.

    Raises:
        ModelError: the folder holds no saved model, or its weights are not those of the network that is built now.
    """
    path = folder / DESCRIPTION
    try:
        description = read_json(path)
    except FileNotFoundError as error:
        raise ModelError(
            f"{folder}: no {DESCRIPTION} in it, so not a run that has saved its model; "
            + did_you_mean([f"hf:{folder}"] if (folder / "config.json").is_file() else [], "name one that has ended")
        ) from error
    except DamagedError as error:
        raise ModelError(f"{error}; restore it, or save the model again") from error
    if description.get("format") != FORMAT:
        raise ModelError(f"{path}: format {description.get('format')}, not {FORMAT}; use the Temper that wrote it")
    tensors = load_tensors(folder / WEIGHTS)
    _check_unchanged(folder / WEIGHTS, description.get("sha256"))
    return _rebuilt(description, tensors, folder / WEIGHTS), description["info"]


def _check_unchanged(weights: Path, digest: str | None) -> None:
    """Refuse weights that are not those that were saved; of a folder without a digest of them, nothing is known."""
    with weights.open("rb") as file:
        if digest is not None and hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise ModelError(
                f"{weights}: damaged (its SHA-256 is not that in {DESCRIPTION}); restore it, or if it was changed on"
                " purpose take sha256 out of there"
            )


def check_restores(classifier: Classifier, images: Tensor) -> None:
    """Prove that what :func:`save` would write gives this very classifier back.

    The network is built anew, as it would be for a load, gets the weights, and must give the same logits.

    Args:
        classifier: on the CPU, where networks are built.
        images: a few, float [N, C, H, W] in [0, 1].

    Raises:
        ModelError: its logits are not finite, the weights do not fit the network that is built anew, or logits differ.
    """
    spec = classifier.info.get("spec")
    description, tensors = _description(classifier, {}), _tensors(classifier)
    try:
        with seeded(_OTHER_SEED):
            twin = classifier_of(_rebuilt(description, tensors, "a saved copy"), {})
    except ModelError as error:
        raise ModelError(
            f"{spec}: once saved it could not be loaded again ({error}); the factory must build the same layers each"
            " time, for num_classes where it takes that"
        ) from error
    own, again, theirs = (_logits(each, images) for each in (classifier, classifier, twin))
    if not own.isfinite().all():
        raise ModelError(f"{spec}: its logits on training images are not finite before training; mend its weights")
    noise, gap = float((own - again).abs().max()), float((own - theirs).abs().max())
    if not gap <= max(TOLERANCE * float(own.abs().max()), 2 * noise):
        raise ModelError(
            f"{spec}: once saved and loaded again its logits differ by {gap:.2g}: it computes with something that is"
            " not among its saved weights; register that as a parameter or a persistent buffer, and draw nothing at"
            " random that is not one"
        )


def classifier_of(built: Built, info: JsonObject) -> Classifier:
    """A network with its preprocessing, in eval mode."""
    return Classifier(
        built.network, built.preprocessing, head=built.head, num_classes=built.num_classes,
        form=built.form, input_shape=built.input_shape, info=info,
    ).eval()  # fmt: skip


@torch.no_grad()
def _logits(classifier: Classifier, images: Tensor) -> Tensor:
    """Logits in eval mode; torch's random numbers are the same in every call."""
    with seeded(0), evaluating(classifier), full_precision(images.device):
        logits: Tensor = classifier(images)
    return logits


def _description(classifier: Classifier, extra: Mapping[str, object]) -> JsonObject:
    """What says how to build the classifier again."""
    if "spec" not in classifier.info:
        raise ModelError(
            f"{type(classifier.network).__name__}: nothing says how to build this network again;"
            " make a factory of it and load it as module:factory"
        )
    return {
        "format": FORMAT,
        "num_classes": classifier.num_classes,
        "mean": classifier.mean.flatten().tolist(),
        "std": classifier.std.flatten().tolist(),
        "image_size": classifier.image_size,
        "input_shape": classifier.input_shape,
        "head": list(classifier.head_names),
        "form": classifier.form,
        "info": classifier.info | dict(extra),
    }


def _tensors(classifier: Classifier) -> dict[str, Tensor]:
    """The network's state; a clone each: safetensors refuses tensors that share memory or are not contiguous."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in classifier.network.state_dict().items()
    }


def _rebuilt(description: JsonObject, tensors: dict[str, Tensor], origin: str | Path) -> Built:
    """The network that a description says how to build, with these weights, strictly."""
    info, size, classes = description["info"], description["image_size"], description["num_classes"]
    mean, std, head = (tuple(description[key]) for key in ("mean", "std", "head"))
    shape = description.get("input_shape")
    blank = None if shape is None else torch.zeros(2, *shape)
    request = Request(False, classes, None if shape else size, len(mean), info["model_args"], blank, restores=True)
    network = source_of(info["spec"]).build(request).resized(size).network
    built = Built(
        network, Preprocessing(mean, std, size), head, classes,
        form=description.get("form", "logits"), input_shape=shape and tuple(shape),
    )  # fmt: skip
    missing = [name for name in head if name not in dict(network.named_modules())]
    if missing:
        raise ModelError(f"{origin}: has the head {missing[0]}, which the network that is built now has not")
    if fit_weights(network, tensors, origin, head, built.outputs(classes))["head"] != "kept":
        raise ModelError(f"{origin}: its head {', '.join(head)} is not that of the network that is built now")
    return built
