"""A finished classifier as one file that runs without Temper: ONNX, or torch.export, checked before it is kept."""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from temper import distribution, models
from temper.core.files import not_there, written
from temper.deployment.prediction import Deployed, load_detector, names_of
from temper.errors import ArgumentError, MissingExtraError, ModelError, TemperError, naming
from temper.evaluation.samples import from_dataset
from temper.margins.detector import BrittlenessDetector
from temper.models import Classifier
from temper.models.model_text import run_folder
from temper.runs.evaluate import check_out
from temper.runs.run import CONFIG, Run
from temper.text import first_line
from temper.training.splits import splits_of

if TYPE_CHECKING:
    from onnx import FunctionProto, GraphProto

Format = Literal["onnx", "torch"]
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
FACTS = "temper.json"  # the file inside a .pt2 that holds what an ONNX file has as metadata
CHECKED = 8
TOLERANCE = 1e-3
OPSET = 18  # of ONNX: the one the exporter thinks in; newer ones it translates to, and fewer programs read them

Runner = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Exported:
    """What was written, and how it was checked.

    Attributes:
        path: of the file.
        shape: channels, height and width of its images.
        outputs: their names.
        checked_on: the images that file and model were compared on, in words.
        difference: the largest between logits of the file and of the model.
        relative: the same over the model's largest logit.
    """

    path: Path
    shape: tuple[int, int, int]
    outputs: tuple[str, ...]
    checked_on: str
    difference: float
    relative: float


def export(spec: str, kind: Format, out: Path, detector: Path | None = None, image_size: int | None = None) -> Exported:
    """Write a model as one file: input ``images`` float [N, C, H, W] in [0, 1], its normalisation inside; outputs
    ``logits`` float [N, K], ``margin`` float [N] and, with a detector, ``brittle`` bool [N].

    The file is run beside the model before it takes its place.

    Args:
        spec: a MODEL, best a run folder.
        kind: onnx, or torch for torch.export.
        out: the file; ends as its kind does.
        detector: a detector's file; by default the one in the run folder, if there is one.
        image_size: height and width of the file's images; None: the model's.

    Raises:
        ArgumentError: ``out`` cannot be written, or the model does not say what size its images have.
        MissingExtraError: ONNX is not installed.
        ModelError: the model cannot be exported, or the file computes something else; none is left then.
        EvidenceError: the detector cannot be read, or was fitted for another model.
    """
    if out.suffix.lower() != ENDINGS[kind]:
        raise ArgumentError("out", str(out), f"a file of format {kind} ends in {ENDINGS[kind]}")
    if out.is_dir():
        raise ArgumentError("out", str(out), "is a folder; name a file in it")
    check_out(out.parent)
    if detector and not detector.is_file():
        raise ArgumentError("detector", str(detector), not_there(detector, "temper margins writes one"))
    if kind == "onnx":
        _need_onnx()
    with naming({"model": "run"}):
        classifier = models.load(spec, image_size=image_size)
    if detector is None:
        fitted = load_detector(spec, classifier)
    else:
        fitted = BrittlenessDetector.load(detector, models.fingerprint(classifier))
    images, checked_on = _trial_images(spec, classifier)
    deployed = Deployed(classifier, fitted.threshold if fitted else None).eval().requires_grad_(False)
    outputs = ("logits", "margin", "brittle") if fitted else ("logits", "margin")
    write, read = (_to_onnx, _from_onnx) if kind == "onnx" else (_to_torch, _from_torch)
    content = write(deployed, images[:1].repeat(2, 1, 1, 1), outputs, _facts(classifier, fitted))
    with written(out) as unfinished:
        unfinished.write_bytes(content)
        difference, relative = compare(deployed, read(unfinished.read_bytes()), images)
    shape = images.shape[1], images.shape[2], images.shape[3]
    return Exported(out, shape, outputs, checked_on, difference, relative)


@torch.no_grad()
def compare(deployed: Deployed, exported: Runner, images: Tensor) -> tuple[float, float]:
    """The largest difference between logits of a model and of its export, absolute and over the largest logit.

    Args:
        deployed: the model.
        exported: float [N, C, H, W] to its outputs.
        images: float [N, C, H, W] in [0, 1]; they are compared in batches of several sizes.

    Raises:
        ModelError: the export does not compute what the model does.
    """
    absolute = relative = 0.0
    for size in sorted({1, min(3, len(images)), len(images)}):
        own, theirs = deployed(images[:size]), exported(images[:size])
        if [output.shape for output in own] != [output.shape for output in theirs]:
            raise ModelError(f"the exported file takes no batch of {size}: its outputs have other shapes; not kept")
        scale = float(own[0].abs().max().clamp_min(torch.finfo(torch.float32).tiny))
        gaps = [float((mine - their).abs().max()) for mine, their in zip(own[:2], theirs[:2], strict=True)]
        if not max(gaps) <= TOLERANCE * scale:  # also where one is NaN
            raise ModelError(
                f"the exported file differs from the model by {max(gaps):.3g} in batches of {size}, where logits go up"
                f" to {scale:.3g}; not kept: look for NaN or randomness in the model, or try the other format"
            )
        if deployed.threshold is not None and not torch.equal(theirs[2], ~(theirs[1] > deployed.threshold)):
            raise ModelError("the exported file flags other decisions than its margins say; not kept")
        absolute, relative = max(absolute, gaps[0]), max(relative, gaps[0] / scale)
    return absolute, relative


def _facts(classifier: Classifier, detector: BrittlenessDetector | None) -> dict[str, str]:
    """What a file says of itself."""
    facts = {
        "class_names": json.dumps(names_of(classifier)),
        "weights": models.fingerprint(classifier)["weights"],
        "temper_version": distribution.version(),
    }
    if detector is None:
        return facts
    return facts | {
        "threat": str(detector.threat),
        "alpha": repr(detector.alpha),
        "threshold": repr(detector.threshold),
    }


def _trial_images(spec: str, classifier: Classifier) -> tuple[Tensor, str]:
    """Images float [N, C, H, W] in [0, 1] to compare on, and what they are."""
    folder, why = run_folder(spec), ""
    if folder is not None and (folder / CONFIG).exists():
        try:
            config = Run(folder).config
            test = splits_of(config).test.limit(CHECKED, 0)
            images = next(from_dataset(test, classifier).batches(len(test)))[0]
        except (TemperError, OSError) as error:
            why = f" (the run's test data cannot be loaded: {error})"
        else:
            return images.float() / 255, f"{len(test)} test images of {test.name}"
    size = classifier.image_size
    if size is None:
        raise ArgumentError("run", spec, f"the model does not say what size its images have; give --image-size{why}")
    noise = torch.rand(CHECKED, classifier.channels, size, size, generator=torch.Generator().manual_seed(0))
    return noise, f"{CHECKED} images of random pixels{why}"


# --- ONNX -----------------------------------------------------------------------------------------


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingExtraError("export to ONNX", "onnx") from None


def _to_onnx(deployed: Deployed, example: Tensor, outputs: tuple[str, ...], facts: dict[str, str]) -> bytes:
    """The bytes of an ONNX file."""
    import onnx

    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                deployed, (example,), None, dynamo=True, verbose=False, external_data=False,
                input_names=["images"], output_names=outputs, dynamic_shapes=_any_batch(), opset_version=OPSET,
            )  # fmt: skip
        assert program is not None
        model = program.model_proto
        _forget_sources(model.graph)
        for function in model.functions:
            _forget_sources(function)
        onnx.helper.set_model_props(model, facts)
        onnx.checker.check_model(model)
        content: bytes = model.SerializeToString()
    except Exception as error:  # exporter, checker and protobuf raise what they like
        raise _not_exported("ONNX", error) from error
    return content


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Inside, the exporter logs and warns of nothing, such as a line for each node that it leaves as it is."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            logger.setLevel(logging.ERROR)
            yield
        finally:
            logger.setLevel(level)


def _forget_sources(graph: "GraphProto | FunctionProto") -> None:
    """Drop where each node comes from: paths and lines of the code on this machine."""
    for node in graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        for attribute in node.attribute:
            _forget_sources(attribute.g)


def _from_onnx(content: bytes) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(output) for output in session.run(None, {"images": images.numpy()})]


# --- torch.export ---------------------------------------------------------------------------------


def _to_torch(deployed: Deployed, example: Tensor, outputs: tuple[str, ...], facts: dict[str, str]) -> bytes:
    """The bytes of a .pt2 file."""
    content = io.BytesIO()
    try:
        program = torch.export.export(deployed, (example,), dynamic_shapes=_any_batch())
        torch.export.save(program, content, extra_files={FACTS: json.dumps({"outputs": outputs, **facts})})
    except Exception as error:  # the exporter raises what it likes
        raise _not_exported("torch.export", error) from error
    return content.getvalue()


def _from_torch(content: bytes) -> Runner:
    program = torch.export.load(io.BytesIO(content)).module()
    return lambda images: list(program(images))


def _any_batch() -> tuple[dict[int, object]]:
    return ({0: torch.export.Dim("batch", min=1)},)


def _not_exported(kind: str, error: Exception) -> ModelError:
    cause = error.__cause__ or error
    reason = first_line(cause)
    return ModelError(
        f"the model cannot be exported to {kind} ({type(cause).__name__}: {reason}); its forward pass must not"
        " depend on the values or the number of its images (a TorchScript or ONNX file is deployed as it is)"
    )
