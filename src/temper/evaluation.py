"""Measuring a model: from images and threats to an evidence table, stoppable and resumable at any moment."""

import hashlib
import logging
import time
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
from torch.utils.data import DataLoader, TensorDataset

from temper import models
from temper.attacks.crafting import Pair, crafting, foldable
from temper.attacks.search import Found, search
from temper.attacks.suites import Suite, get_suite
from temper.data import Dataset, Pixels
from temper.errors import ArgumentError, EvidenceError, ModelError
from temper.interrupt import Stop
from temper.margins.table import EvidenceTable, rows
from temper.models import Classifier
from temper.progress import progress_bar
from temper.threat import Norm, Threat, parse_threats

log = logging.getLogger(__name__)

TABLE = "margins.parquet"
SAVE_SECONDS = 10.0


@dataclass(frozen=True)
class Images:
    """Samples to measure: (images uint8 or float NCHW, labels, ids) in batches, with what identifies them."""

    count: int
    fingerprint: str
    batches: Callable[[int], Iterator[tuple[Tensor, Tensor, Tensor]]]


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
    batch_size: int = 256,
    device: str | torch.device | None = None,
) -> EvidenceTable:
    """Search for evidence on a model's margins.

    Args:
        model: a module from float NCHW images in [0, 1] to logits, or what :func:`temper.models.load` reads.
        images: uint8 NHWC array, or float NCHW tensor in [0, 1].
        labels: int64 [N].
        threats: such as ``"Linf:2/255,4/255"``, or a list of such texts.
        suite: which attacks; see :data:`temper.attacks.suites.SUITES`.
        seed: of the random starts; the same seed gives the same table.
        batch_size: samples attacked at once; it does not change the result.
        device: where to compute; the model's own device by default.

    Raises:
        ArgumentError: images, labels, threats or suite cannot be used. ModelError: the model gives no logits.
    """
    network = model if isinstance(model, nn.Module) else models.load(model)
    if device is not None:
        network = network.to(device)
    source = from_arrays(images, labels)
    return measure(network, source, parse_threats(threats), suite, seed, batch_size=batch_size).table


def from_arrays(
    images: NDArray[np.uint8] | Tensor, labels: NDArray[np.int64] | Tensor | Sequence[int]
) -> Images:
    """Arrays as samples to measure, with ids 0, 1, ...

    Raises:
        ArgumentError: not uint8 NHWC or float NCHW in [0, 1], or not one label per image.
    """
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.ndim == 4:
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    elif isinstance(images, Tensor) and images.is_floating_point() and images.dim() == 4:
        pixels = images.detach().float().cpu()
        if len(pixels) and not (0 <= float(pixels.min()) and float(pixels.max()) <= 1):
            span = f"{float(pixels.min()):.3g} to {float(pixels.max()):.3g}"
            raise ArgumentError("images", span, "must lie in [0, 1]; normalisation belongs inside the model")
    else:
        what = f"{type(images).__name__} {getattr(images, 'dtype', '')} {tuple(getattr(images, 'shape', ()))}"
        raise ArgumentError("images", what, "give a uint8 NHWC array or a float NCHW tensor in [0, 1]")
    targets = torch.as_tensor(np.asarray(labels))
    if targets.shape != (len(pixels),) or targets.is_floating_point() or not len(pixels):
        raise ArgumentError("labels", tuple(targets.shape), f"give one integer for each of {len(pixels)} images")
    digest = hashlib.sha256(pixels.numpy().tobytes())
    digest.update(targets.to(torch.int64).numpy().tobytes())
    whole = TensorDataset(pixels, targets.to(torch.int64), torch.arange(len(pixels)))
    return Images(len(pixels), digest.hexdigest(), lambda size: iter(DataLoader(whole, batch_size=size)))


def from_dataset(dataset: Dataset, classifier: Classifier, workers: int = 0) -> Images:
    """A data set as samples to measure, brought to the classifier's size and channels."""
    pixels = Pixels(dataset, classifier.image_size, classifier.channels)
    return Images(
        len(dataset),
        dataset.fingerprint(),
        lambda size: iter(DataLoader(pixels, batch_size=size, num_workers=workers)),
    )


def batch_size_for(image_size: int | None) -> int:
    """Samples attacked at once by default: a few dozen at ImageNet's size, more for smaller images."""
    return max(min(256 * 64**2 // (image_size or 224) ** 2, 256), 16)


def measure(
    model: nn.Module,
    images: Images,
    threats: Sequence[Threat],
    suite: str,
    seed: int,
    *,
    batch_size: int = 256,
    known: EvidenceTable | None = None,
    save: Callable[[EvidenceTable], None] | None = None,
    time_budget: float = float("inf"),
) -> Evaluation:
    """Search every sample at every radius that ``known`` evidence has not settled.

    Stops early, with what was found so far, at Ctrl-C or when ``time_budget`` seconds are spent; ``save`` is called
    with the table at least every few seconds and at the end.

    Raises:
        EvidenceError: ``known`` is of another model or data. ModelError: the model gives no logits or non-finite ones.
    """
    started = last_save = time.monotonic()
    chosen = get_suite(suite)
    identity = {"model": _model_identity(model), "data": images.fingerprint}
    if known is not None:
        _check_continues(known, identity, seed)
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    radii = {norm: sorted(t.eps for t in threats if t.norm == norm) for norm in dict.fromkeys(t.norm for t in threats)}
    untouched = _clean_rows(model, images, device, list(radii), suite, batch_size)
    begun = EvidenceTable(untouched, identity, _notes(chosen, seed, radii))
    if known is not None:
        begun = begun.merge(known)
    frame = begun.frame.set_index(["norm", "suite", "sample"]).sort_index()

    def table() -> EvidenceTable:
        return EvidenceTable(frame.reset_index(), identity, begun.provenance)

    complete = True
    pairs: list[Pair] | None = None
    with progress_bar(f"attacking ({suite})", len(radii) * images.count) as bar, Stop() as stop:
        for norm, wanted in radii.items():
            for x, y, ids in _on_device(images.batches(batch_size), device):
                if stop.requested or time.monotonic() - started > time_budget:
                    complete = False
                    break
                pairs = foldable(model, x[:2]) if pairs is None else pairs
                own = frame.loc[[(norm, suite, int(i)) for i in ids]]
                open_ = torch.from_numpy(_unsettled(own, wanted)).to(device)
                if open_.any():
                    found = search(model, x[open_], y[open_], ids[open_], norm, wanted, chosen, seed, pairs)
                    _record(frame, norm, suite, ids[open_], found, chosen)
                bar.advance(by=len(x))
                if save and time.monotonic() - last_save > SAVE_SECONDS:
                    save(table())
                    last_save = time.monotonic()
    if save:
        save(table())
    return Evaluation(table(), complete, time.monotonic() - started)


def _on_device(
    batches: Iterator[tuple[Tensor, Tensor, Tensor]], device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for images, labels, ids in batches:
        x = images.to(device)
        x = x if x.is_floating_point() else x.float() / 255
        yield x.contiguous(memory_format=torch.channels_last), labels.to(device), ids.to(device)


@torch.no_grad()
def _clean_rows(
    model: nn.Module, images: Images, device: torch.device, norms: list[str], suite: str, batch_size: int
) -> pd.DataFrame:
    """Rows of all samples with prediction and logit margin, before any attack."""
    columns: dict[str, list[NDArray[Any]]] = {"samples": [], "labels": [], "predictions": [], "logit_margins": []}
    with crafting(model):
        for x, y, ids in _on_device(images.batches(batch_size), device):
            logits = model(x)
            _check_logits(logits, y, ids)
            top = logits.double().topk(2, 1).values
            for name, values in zip(columns, (ids, y, logits.argmax(1), top[:, 0] - top[:, 1]), strict=True):
                columns[name].append(values.cpu().numpy())
    whole = {name: np.concatenate(parts) for name, parts in columns.items()}
    return pd.concat([rows(**whole, norm=norm, suite=suite) for norm in norms], ignore_index=True)


def _check_logits(logits: Tensor, y: Tensor, ids: Tensor) -> None:
    if logits.dim() != 2 or logits.shape[0] != len(y) or logits.shape[1] < 2:
        raise ModelError(f"the model returned shape {tuple(logits.shape)}; it must return logits [N, K] with K >= 2")
    if not torch.isfinite(logits).all():
        bad = ids[~torch.isfinite(logits).all(1)].tolist()
        raise ModelError(f"the model's logits are not finite on samples {bad[:5]}; no attack can be trusted there")
    if int(y.max()) >= logits.shape[1] or int(y.min()) < 0:
        raise ArgumentError("labels", int(y.max()), f"the model has {logits.shape[1]} classes, 0 to {logits.shape[1] - 1}")


def _unsettled(own: pd.DataFrame, radii: Sequence[float]) -> NDArray[np.bool_]:
    """Samples (bool [N]) that are correct and whose state at some radius is not known."""
    correct = own["label"] == own["prediction"]
    settled = [(own["upper"] <= eps) | (own["survived"] >= eps) for eps in radii]
    return np.array(correct & ~np.logical_and.reduce(settled), dtype=np.bool_)


def _record(frame: pd.DataFrame, norm: str, suite: str, ids: Tensor, found: Found, chosen: Suite) -> None:
    """Enter what a search found; earlier evidence on a sample can only be sharpened by it."""
    names = [attack.name for attack in chosen.attacks]
    new = zip(
        ids.tolist(), found.upper.tolist(), found.survived.tolist(), found.attack.tolist(),
        found.forward.tolist(), found.backward.tolist(), strict=True,
    )  # fmt: skip
    for sample, upper, survived, attack, forward, backward in new:
        key = (norm, suite, sample)
        if upper < frame.at[key, "upper"]:
            frame.at[key, "upper"] = upper
            frame.at[key, "attack"] = names[attack]
        frame.at[key, "survived"] = max(survived, frame.at[key, "survived"])
        frame.at[key, "forward"] += forward
        frame.at[key, "backward"] += backward


def _check_continues(known: EvidenceTable, identity: dict[str, Any], seed: int) -> None:
    for part, own in identity.items():
        if known.identity.get(part) != own:
            raise EvidenceError(f"the evidence kept there is of another {part}; choose another --out folder")
    if seed not in known.provenance.get("seeds", [seed]):
        raise EvidenceError(
            f"the evidence kept there was found with seed {known.provenance['seeds'][0]}; use it, or another --out folder"
        )


def _model_identity(model: nn.Module) -> dict[str, str]:
    if isinstance(model, Classifier):
        return models.fingerprint(model)
    return {"weights": models.weights_fingerprint(model), "preprocessing": "inside the model"}


def _notes(suite: Suite, seed: int, radii: dict[Norm, list[float]]) -> dict[str, Any]:
    return {
        "radii": dict(radii),
        "suites": {suite.name: suite.describe()},
        "seeds": [seed],
        "versions": [metadata.version("temper")],
    }


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
    model: nn.Module, images: Images, table: EvidenceTable, norm: Norm, suite: str, seed: int, count: int = 6
) -> list[Example]:
    """Samples spread evenly over the margins found, each searched again for its nearest flip.

    The search draws the same random numbers as before, so the flips are those of the table.
    """
    own = table.frame[(table.frame["norm"] == norm) & (table.frame["suite"] == suite)]
    flips = own[np.isfinite(own["upper"]) & (own["label"] == own["prediction"])].sort_values(["upper", "sample"])
    places = np.unique(np.linspace(0, len(flips) - 1, count).round().astype(int)) if len(flips) else []
    wanted = flips["sample"].iloc[places].tolist() if len(flips) else []
    device = next((tensor.device for tensor in [*model.parameters(), *model.buffers()]), torch.device("cpu"))
    picked: dict[int, Example] = {}
    for x, y, ids in _on_device(images.batches(256), device):
        mine = torch.tensor([int(i) in wanted for i in ids], device=device)
        if not mine.any():
            continue
        x, y, ids = x[mine], y[mine], ids[mine]
        found = search(model, x, y, ids, norm, table.provenance["radii"][norm], get_suite(suite), seed)
        with torch.no_grad(), crafting(model):
            flipped_to = model(found.nearest).argmax(1)
        for i, sample in enumerate(ids.tolist()):
            if found.upper[i].isfinite():
                picked[sample] = Example(
                    x[i].cpu(), found.nearest[i].cpu(), int(y[i]), int(y[i]), int(flipped_to[i]),
                    float(found.upper[i]), norm,
                )  # fmt: skip
    return [picked[sample] for sample in wanted if sample in picked]
