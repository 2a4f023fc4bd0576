"""Measuring a model: from images and threats to an evidence table, stoppable and resumable at any moment."""

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from temper import models
from temper.attacks.crafting import Pair, crafting, foldable
from temper.attacks.losses import cross_entropy
from temper.attacks.pgd import input_gradient
from temper.attacks.search import Found, full_precision, search
from temper.attacks.suites import Suite, get_suite
from temper.data import Dataset, Pixels
from temper.errors import ArgumentError, EvidenceError, ModelError, TemperWarning
from temper.interrupt import Stop
from temper.margins.table import EvidenceTable, Provenance, untouched
from temper.models import Classifier
from temper.progress import progress_bar
from temper.threat import Norm, Threat, parse_threats

TABLE = "margins.parquet"
SAVE_SECONDS = 10.0

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Samples:
    """Samples to measure.

    Attributes:
        items: (image, label, id); images uint8, or float in [0, 1], [C, H, W], all of one size.
        ids: int64 [N], the items' ids.
        fingerprint: what tells these samples from others.
        workers: processes that load them.
    """

    items: TorchDataset[Any]
    ids: NDArray[np.int64]
    fingerprint: str
    workers: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def batches(self, size: int) -> Iterator[Batch]:
        """Images [B, C, H, W], labels and ids int64 [B], in order."""
        # A generator of its own: the loader would draw a seed for its workers from torch's global one.
        return iter(DataLoader(self.items, size, num_workers=self.workers, generator=torch.Generator()))

    def take(self, ids: Sequence[int]) -> "Samples":
        """Those of these ids."""
        places = np.flatnonzero(np.isin(self.ids, ids))
        return Samples(Subset(self.items, places.tolist()), self.ids[places], self.fingerprint)


@dataclass(frozen=True)
class Evaluation:
    """What came out of a measurement.

    Attributes:
        table: the evidence.
        complete: whether every sample was searched at every radius.
        seconds: time spent, in this call.
    """

    table: EvidenceTable
    complete: bool
    seconds: float


def evaluate(
    model: nn.Module | str | Path,
    images: NDArray[np.uint8] | Tensor,
    labels: NDArray[np.int64] | Tensor | Sequence[int],
    threats: str | Sequence[str],
    suite: str = "apgd",
    seed: int = 0,
    *,
    batch_size: int | None = None,
) -> EvidenceTable:
    """Search for evidence on a model's margins.

    Args:
        model: a module from float NCHW images in [0, 1] to logits, or what :func:`temper.models.load` reads.
        images: uint8 NHWC array, or float NCHW tensor in [0, 1].
        labels: int64 [N].
        threats: such as ``"Linf:2/255,4/255"``, or a list of such texts.
        suite: which attacks; see :data:`temper.attacks.suites.SUITES`.
        seed: of the random starts; the same seed gives the same table.
        batch_size: samples attacked at once, chosen by image size by default; it does not change what is found.

    Raises:
        ArgumentError: images, labels, threats or suite cannot be used.
        ModelError: the model cannot be loaded or gives no usable logits.
    """
    network = model if isinstance(model, nn.Module) else load_classifier(model)
    samples = from_arrays(images, labels)
    if isinstance(network, Classifier):
        _check_size(network, tuple(samples.items[0][0].shape))
    done = measure(network, samples, parse_threats(threats), suite, seed, batch_size=batch_size)
    if not done.complete:  # nothing but Ctrl-C stops it, and the caller is to hear of that
        raise KeyboardInterrupt
    return done.table


def load_classifier(model: str | Path) -> Classifier:
    """What :func:`temper.models.load` reads, on the GPU where there is one."""
    return models.load(model).to("cuda" if torch.cuda.is_available() else "cpu")


def from_arrays(images: NDArray[np.uint8] | Tensor, labels: NDArray[np.int64] | Tensor | Sequence[int]) -> Samples:
    """Arrays as samples to measure, with ids 0, 1, ...

    Raises:
        ArgumentError: not uint8 NHWC or float NCHW in [0, 1], or not one label per image.
    """
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4:
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    elif isinstance(images, Tensor) and images.is_floating_point() and images.dim() == 4:
        pixels = images.detach().float().cpu().contiguous()
        if pixels.numel() and not (float(pixels.min()) >= 0 and float(pixels.max()) <= 1):
            span = f"{float(pixels.min()):.3g} to {float(pixels.max()):.3g}"
            raise ArgumentError("images", span, "must lie in [0, 1]; normalisation belongs inside the model")
    else:
        what = f"{type(images).__name__} {getattr(images, 'dtype', '')} {tuple(getattr(images, 'shape', ()))}"
        raise ArgumentError("images", what, "give a uint8 NHWC array or a float NCHW tensor in [0, 1]")
    if not pixels.numel():
        raise ArgumentError("images", tuple(images.shape), "give at least one image")
    targets = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if targets.shape != (len(pixels),) or targets.dtype.kind not in "iu":
        what = f"{targets.dtype} {targets.shape}"
        raise ArgumentError("labels", what, f"give one integer for each of {len(pixels)} images")
    targets = targets.astype(np.int64)
    digest = hashlib.sha256(f"{pixels.dtype} {tuple(pixels.shape)}".encode())
    digest.update(pixels.numpy().tobytes())
    digest.update(targets.tobytes())
    ids = np.arange(len(pixels))
    items = TensorDataset(pixels, torch.from_numpy(targets), torch.from_numpy(ids))
    return Samples(items, ids, digest.hexdigest())


def from_dataset(dataset: Dataset, classifier: Classifier, workers: int = 0) -> Samples:
    """A data set as samples to measure, brought to the classifier's size and channels."""
    pixels = Pixels(dataset, classifier.image_size, classifier.channels)
    return Samples(pixels, dataset.ids, dataset.fingerprint(), workers)


def measure(
    model: nn.Module,
    samples: Samples,
    threats: Sequence[Threat],
    suite: str,
    seed: int,
    *,
    batch_size: int | None = None,
    known: EvidenceTable | None = None,
    save: Callable[[EvidenceTable], None] | None = None,
    time_budget: float = float("inf"),
) -> Evaluation:
    """Search every sample at every radius that ``known`` evidence has not settled.

    One clean pass over all samples comes first, always. Then it stops early, with what was found so far, at Ctrl-C
    or when ``time_budget`` seconds are spent. ``save`` is called with the table every few seconds and at the end.
    ``batch_size`` samples are attacked at once; by default that goes by their size.

    Raises:
        EvidenceError: ``known`` is of another model, data, seed or suite of that name.
        ModelError: the model gives no logits, or non-finite ones, or computes in less than full precision.
        ArgumentError: no such suite, or labels that the model has no class for.
    """
    started = last_save = time.monotonic()
    chosen = get_suite(suite)
    radii = {norm: sorted(t.eps for t in threats if t.norm == norm) for norm in dict.fromkeys(t.norm for t in threats)}
    identity = {"model": _model_identity(model), "data": samples.fingerprint}
    provenance = Provenance(
        suites={suite: chosen.describe()},
        radii={suite: {str(norm): eps for norm, eps in radii.items()}},
        seeds=[seed],
        versions=[metadata.version("temper")],
    )
    size = _batch_size(samples) if batch_size is None else batch_size
    if size < 1:
        raise ArgumentError("batch_size", size, "must be at least 1")
    if known is not None and seed not in known.provenance.seeds:
        raise EvidenceError(f"the evidence was found with seed {known.provenance.seeds[0]}, not {seed}")
    clean = _clean_rows(model, samples, size)
    begun = EvidenceTable(
        pd.concat([untouched(**clean, norm=norm, suite=suite) for norm in radii]), identity, provenance
    )
    if known is not None:
        begun = begun.merge(known)
    rows = begun.frame.set_index(["norm", "suite", "sample"])
    searched: list[pd.DataFrame] = []

    def table() -> EvidenceTable:
        if not searched:
            return begun
        return begun.merge(EvidenceTable(pd.concat(searched).reset_index(), identity, begun.provenance))

    complete = True
    pairs: list[Pair] | None = None
    work = ((norm, batch) for norm in radii for batch in _on_device(model, samples.batches(size)))
    with progress_bar(f"attacking ({suite})", len(radii) * len(samples)) as bar, Stop() as stop:
        for norm, (x, y, ids) in work:
            if stop.requested or time.monotonic() - started > time_budget:
                complete = False
                break
            own = rows.loc[[(norm, suite, sample) for sample in ids.tolist()]]
            unsettled = _unsettled(own, radii[norm])
            if unsettled.any():
                pairs = foldable(model, x[:2]) if pairs is None else pairs
                own, some = own[unsettled], torch.from_numpy(unsettled).to(x.device)
                evidence = _tensor(own["upper"], x), _tensor(own["survived"], x)
                found = search(
                    model, x[some], y[some], ids[some], norm, radii[norm], chosen, seed, known=evidence, pairs=pairs
                )
                searched.append(_sharpened(own, found, chosen))
            bar.advance(by=len(x))
            if save and time.monotonic() - last_save > SAVE_SECONDS:
                save(table())
                last_save = time.monotonic()
        if save:
            save(table())
    return Evaluation(table(), complete, time.monotonic() - started)


def _batch_size(samples: Samples) -> int:
    """A few dozen at ImageNet's size, more for smaller images."""
    height, width = samples.items[0][0].shape[-2:]
    return int(np.clip(256 * 64**2 // (height * width), 16, 256))


def _on_device(model: nn.Module, batches: Iterator[Batch]) -> Iterator[Batch]:
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    layout: torch.memory_format | None = None
    for images, labels, ids in batches:
        x = images.to(device)
        x = x if x.is_floating_point() else x.float() / 255
        layout = _layout(model, x[:1]) if layout is None else layout
        yield x.contiguous(memory_format=layout), labels.to(device), ids.to(device)


@torch.no_grad()
def _layout(model: nn.Module, x: Tensor) -> torch.memory_format:
    """Channels-last computes faster, but a model that reshapes with ``view`` refuses it."""
    try:
        with crafting(model):
            model(x.contiguous(memory_format=torch.channels_last))
    except RuntimeError:  # if something else is wrong with the model, the next pass will say so
        return torch.contiguous_format
    return torch.channels_last


def _tensor(column: "pd.Series[float]", like: Tensor) -> Tensor:
    return torch.tensor(column.to_numpy(np.float64), device=like.device)


def _unsettled(own: pd.DataFrame, radii: Sequence[float]) -> NDArray[np.bool_]:
    """Samples (bool [N]) that are correct and whose state at some radius is not known."""
    correct = own["label"] == own["prediction"]
    settled = [(own["upper"] <= eps) | (own["survived"] >= eps) for eps in radii]
    return np.array(correct & ~np.logical_and.reduce(settled), dtype=np.bool_)


def _sharpened(own: pd.DataFrame, found: Found, suite: Suite) -> pd.DataFrame:
    """Rows of evidence after a search that went on from them."""
    names = np.array([attack.name for attack in suite.attacks], dtype=object)
    attack = found.attack.cpu().numpy()
    return own.assign(
        upper=found.upper.cpu().numpy(),
        survived=found.survived.cpu().numpy(),
        attack=np.where(attack < 0, own["attack"].to_numpy(object), names[attack]),
        forward=own["forward"] + found.forward.cpu().numpy(),
        backward=own["backward"] + found.backward.cpu().numpy(),
    )


# --- the clean pass, and what makes a model unfit for evidence ------------------------------------


@torch.no_grad()
def _clean_rows(model: nn.Module, samples: Samples, batch_size: int) -> dict[str, NDArray[Any]]:
    """Ids, labels, predictions (int64 [N]) and logit margins (float64 [N]) of all samples, before any attack."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ModelError(f"the model's {name} is {parameter.dtype}; evidence needs full precision: model.float()")
    names = ("samples", "labels", "predictions", "logit_margins")
    parts: list[tuple[NDArray[Any], ...]] = []
    for x, y, ids in _on_device(model, samples.batches(batch_size)):
        with crafting(model), full_precision(x.device):
            logits = model(x)
            _check_logits(logits, y, ids)
            if not parts:
                _warn_if_unfit(model, x, y, logits)
        top = logits.double().topk(2, 1).values
        columns = (ids, y, logits.argmax(1), top[:, 0] - top[:, 1])
        parts.append(tuple(column.cpu().numpy() for column in columns))
    return {name: np.concatenate(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}


def _check_logits(logits: Tensor, y: Tensor, ids: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        what = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"the model returned {what} for {len(y)} images; it must return logits [N, K] with K >= 2")
    infinite = ~torch.isfinite(logits).all(1)
    if infinite.any():
        raise ModelError(
            f"the model's logits are not finite on samples {ids[infinite].tolist()[:5]}; no attack can be trusted there"
        )
    outside = (y < 0) | (y >= logits.shape[1])
    if outside.any():
        fix = f"of sample {ids[outside][0]}: the model has classes 0 to {logits.shape[1] - 1}"
        raise ArgumentError("label", int(y[outside][0]), fix)


def _warn_if_unfit(model: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> None:
    """Warn of what makes gradient attacks look weaker than they are; one batch shows it."""
    if (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-4):
        _warn(
            "the model's outputs are probabilities: attacks lose their gradient there; return logits, without softmax"
        )
    change = float((model(x) - logits).abs().max())
    if change > 1e-3 * float(logits.abs().max()):
        _warn(f"the model is random: its logits change by {change:.2g} from pass to pass; switch its randomness off")
    flat = (input_gradient(model, x, y, cross_entropy)[2] == 0).flatten(1).all(1)
    if flat.any():
        _warn(
            f"the loss has no gradient on {int(flat.sum())} of the first {len(x)} samples: attacks that climb it find "
            "nothing there; look for rounding, detach, saturation or a softmax inside the model"
        )


def _warn(problem: str) -> None:
    warnings.warn(f"{problem}; robustness will look higher than it is", TemperWarning, stacklevel=2)


def _check_size(classifier: Classifier, shape: tuple[int, ...]) -> None:
    size = classifier.image_size
    takes = (classifier.channels, *((size, size) if size else shape[1:]))
    if shape != takes:
        raise ArgumentError("images", shape, f"the model takes {takes} (channels, height, width): resize them first")


def _model_identity(model: nn.Module) -> dict[str, str]:
    if isinstance(model, Classifier):
        return models.fingerprint(model)
    return {"weights": models.weights_fingerprint(model), "preprocessing": "inside the model"}


# --- pictures for the report ----------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A sample beside its nearest flip found: pictures for a report.

    Attributes:
        image, adversarial: float32 [C, H, W] in [0, 1].
        label, prediction, adversarial_prediction: class indices.
        distance: between the two, in ``norm``.
    """

    image: Tensor
    adversarial: Tensor
    label: int
    prediction: int
    adversarial_prediction: int
    distance: float
    norm: Norm


def examples(
    model: nn.Module, samples: Samples, table: EvidenceTable, norm: Norm, suite: str, seed: int, count: int = 6
) -> list[Example]:
    """Samples spread evenly over the margins found, each searched again for its nearest flip, nearest first.

    The search draws the same random numbers as before, so the flips are those of a table that was made in one go;
    one that grew radius by radius may know slightly nearer ones.
    """
    own = table.frame[(table.frame["norm"] == norm) & (table.frame["suite"] == suite)]
    flips = own[np.isfinite(own["upper"]) & (own["label"] == own["prediction"])].sort_values(["upper", "sample"])
    if flips.empty:
        return []
    places = np.unique(np.linspace(0, len(flips) - 1, count).round().astype(int))
    chosen = samples.take(flips["sample"].iloc[places].tolist())
    picked: list[Example] = []
    for x, y, ids in _on_device(model, chosen.batches(len(chosen))):
        radii, pairs = table.provenance.radii[suite][norm], foldable(model, x[:2])
        found = search(model, x, y, ids, norm, radii, get_suite(suite), seed, pairs=pairs)
        with torch.no_grad(), crafting(model):
            becomes = model(found.nearest).argmax(1)
        picked += [
            Example(
                x[i].cpu(), found.nearest[i].cpu(), int(y[i]), int(y[i]), int(becomes[i]), float(found.upper[i]), norm
            )
            for i in range(len(x))
            if found.upper[i].isfinite()
        ]
    return sorted(picked, key=lambda example: example.distance)
