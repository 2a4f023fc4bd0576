"""A model's accuracy on corrupted samples, one corruption and severity after the other, stoppable in between."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from temper import models
from temper.attacks.crafting import crafting
from temper.attacks.losses import predicted
from temper.core.files import JsonObject
from temper.core.interrupt import Stop
from temper.core.orphans import serve_parent
from temper.core.precision import full_precision
from temper.core.progress import Bar, progress_bar
from temper.corruptions.apply import CorruptedImages, check_corruption, corrupted, guide_preset
from temper.corruptions.catalogue import GUIDE, GUIDE_SEVERITY, IMAGENET_C
from temper.corruptions.parameters import SEVERITIES, Rule
from temper.corruptions.table import CLEAN, Condition, CorruptionTable, empty_table
from temper.data import Dataset, Pixels
from temper.errors import ArgumentError, EvidenceError, ModelError
from temper.evaluation import fitness
from temper.evaluation.samples import device_of, few_images
from temper.models import Classifier

LOOKED_AT = 16  # clean samples that show whether a model is fit to be measured


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        preset, rule, seed: how the samples are corrupted; together with model and data a table's identity.
        parts: the samples of each corruption and severity, and the clean ones first.
    """

    preset: str
    rule: Rule
    seed: int
    parts: dict[Condition, Dataset]

    def cells(self) -> list[Condition]:
        """The corruptions and severities, without the clean samples."""
        return [cell for cell in self.parts if cell[0] != CLEAN]


@dataclass(frozen=True)
class Measurement:
    """What came out: the table, whether the whole plan is in it, and the seconds spent in this call."""

    table: CorruptionTable
    complete: bool
    seconds: float


def each_corruption(
    dataset: Dataset,
    names: Sequence[str] = IMAGENET_C,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    *,
    rule: Rule = "sized",
) -> Plan:
    """Every sample under every corruption at every severity, as ImageNet-C has it.

    Raises:
        ArgumentError: no corruption or severity, or one that there is not.
    """
    if not names or not severities:
        argument = "severity" if names else "corruption"
        raise ArgumentError(argument, (), "give at least one")
    for name in names:
        for severity in severities:
            check_corruption(name, severity, rule)
    cells = [(name, severity) for name in dict.fromkeys(names) for severity in sorted(set(severities))]
    parts = {cell: corrupted(dataset, *cell, seed, rule=rule) for cell in cells}
    return Plan("imagenet-c", rule, seed, {(CLEAN, 0): dataset, **parts})


def guide(dataset: Dataset, seed: int = 0) -> Plan:
    """Every sample under one corruption; see :func:`temper.corruptions.guide_preset`."""
    preset = guide_preset(dataset, seed)
    assert isinstance(preset.images, CorruptedImages)
    of_name = {name: np.flatnonzero(preset.images.names == name) for name in GUIDE}
    parts = {(name, GUIDE_SEVERITY): preset.subset(own) for name, own in of_name.items() if own.size}
    return Plan("guide", preset.images.rule, seed, {(CLEAN, 0): dataset, **parts})


def corruption_accuracy(
    model: nn.Module,
    dataset: Dataset,
    names: Sequence[str] = IMAGENET_C,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    *,
    rule: Rule = "sized",
    batch_size: int | None = None,
    workers: int = 0,
) -> CorruptionTable:
    """A model's predictions on every sample under every corruption at every severity, and on the clean ones.

    Images are corrupted at their own size, then brought to the model's.

    Args:
        model: a :class:`temper.models.Classifier`, or any module from float NCHW images in [0, 1] to logits; the
            latter gets the images at their own size.
        dataset: the clean samples.
        names: of corruptions, see :data:`temper.corruptions.IMAGENET_C` and ``EXTRA``.
        severities: of 1 to 5.
        seed: of the corruptions.
        rule: see :func:`temper.corruptions.corrupt`.
        batch_size: images classified at once, chosen by their size by default.
        workers: processes that corrupt the images; 0: this one.

    Raises:
        ArgumentError: no such corruption or severity.
        ModelError: the model gives no logits, or non-finite ones.
    """
    plan = each_corruption(dataset, names, severities, seed, rule=rule)
    return _whole(measure(_adapted(model, dataset), dataset, plan, batch_size=batch_size, workers=workers))


def guide_accuracy(
    model: nn.Module, dataset: Dataset, seed: int = 0, *, batch_size: int | None = None, workers: int = 0
) -> CorruptionTable:
    """A model's predictions on the Guide's corrupted test set, and on the clean one; see :func:`guide_preset`."""
    plan = guide(dataset, seed)
    return _whole(measure(_adapted(model, dataset), dataset, plan, batch_size=batch_size, workers=workers))


def _adapted(model: nn.Module, dataset: Dataset) -> nn.Module:
    few = few_images(dataset)
    return (
        model if few is None else models.adapted(model, few)
    )  # images of several sizes are refused where they are read


def _whole(done: Measurement) -> CorruptionTable:
    if not done.complete:  # nothing but Ctrl-C stops it, and the caller is to hear of that
        raise KeyboardInterrupt
    return done.table


def measure(
    model: nn.Module,
    dataset: Dataset,
    plan: Plan,
    *,
    batch_size: int | None = None,
    workers: int = 0,
    known: CorruptionTable | None = None,
    save: Callable[[CorruptionTable], None] | None = None,
) -> Measurement:
    """Carry out a plan for ``dataset``, but for what ``known`` holds already.

    ``save`` is called with the table after every corruption and severity. Ctrl-C and SIGTERM stop it; what is in
    work is lost then.

    A model that is random, or whose outputs depend on the batch, is warned of.

    Raises:
        EvidenceError: ``known`` is of another model, data, preset, rule or seed.
        ModelError: the model gives no logits, or non-finite ones.
        ArgumentError: a batch size below 1.
        DataError: an image cannot be read, or is too small.
    """
    started = time.monotonic()
    if batch_size is not None and batch_size < 1:
        raise ArgumentError("batch_size", batch_size, "must be at least 1")
    table = empty_table(_identity(model, dataset, plan))
    if known is not None:
        _check_same(known, table)
        table = known
    finished = set(table.cells())
    remaining = {cell: part for cell, part in plan.parts.items() if cell not in finished}
    if remaining:
        _check_fitness(model, dataset)
    total, left = (sum(map(len, parts.values())) for parts in (plan.parts, remaining))
    with progress_bar("corruptions", total, total - left) as bar, Stop() as stop:
        for cell, part in remaining.items():
            predictions = _predictions(model, part, batch_size, workers, stop, bar, f"{cell[0]} {cell[1] or ''}")
            if predictions is None:
                return Measurement(table, False, time.monotonic() - started)
            table = table.joined([_rows(part, cell, predictions)])
            if save:
                save(table)
    return Measurement(table, True, time.monotonic() - started)


def _identity(model: nn.Module, dataset: Dataset, plan: Plan) -> JsonObject:
    if isinstance(model, Classifier):
        own = models.fingerprint(model)
    else:
        own = {"weights": models.weights_fingerprint(model), "preprocessing": "inside the model"}
    return {
        "model": own,
        "data": dataset.fingerprint(),
        "preset": plan.preset,
        "rule": plan.rule,
        "seed": plan.seed,
    }


def _check_same(known: CorruptionTable, table: CorruptionTable) -> None:
    for part, value in table.identity.items():
        if known.identity.get(part) != value:
            raise EvidenceError(f"what is there was measured with another {part}")


def _rows(part: Dataset, cell: Condition, predictions: NDArray[np.int64]) -> pd.DataFrame:
    rows = {"sample": part.ids, "label": part.labels, "corruption": cell[0], "severity": cell[1]}
    return pd.DataFrame({**rows, "prediction": predictions})


@torch.no_grad()
def _check_fitness(model: nn.Module, dataset: Dataset) -> None:
    """Raise, or warn, where a few clean samples show that no accuracy can be trusted."""
    few = dataset.subset(np.arange(min(len(dataset), LOOKED_AT)))
    device = device_of(model)
    with crafting(model), full_precision(device):
        for images in _batches(model, few, LOOKED_AT, 0):
            x = images.to(device).float() / 255
            _check_logits(model(x), len(x), few)
            fitness.warn_if_inconstant(model, x)


@torch.no_grad()
def _predictions(
    model: nn.Module,
    part: Dataset,
    batch_size: int | None,
    workers: int,
    stop: Stop,
    bar: Bar,
    note: str,
) -> NDArray[np.int64] | None:
    """The predicted classes of all samples, int64 [N]; None when it was stopped."""
    predictions = []
    device = device_of(model)
    with crafting(model), full_precision(device):
        for images in _batches(model, part, batch_size, workers):
            if stop.requested:
                return None
            logits = model(images.to(device).float() / 255)
            _check_logits(logits, len(images), part)
            predictions.append(predicted(logits).cpu().numpy())
            bar.advance(note, by=len(images))
    return np.concatenate(predictions).astype(np.int64)


def _batches(model: nn.Module, part: Dataset, batch_size: int | None, workers: int) -> Iterator[Tensor]:
    """Images uint8 [B, C, H, W] at the model's size, in order."""
    if isinstance(model, Classifier):
        pixels = Pixels(part, model.image_size, model.channels)
    else:
        pixels = Pixels(part, None, part.images[0].shape[2])
    height, width = pixels.image_size
    size = int(np.clip(256 * 64**2 // (height * width), 16, 256)) if batch_size is None else batch_size
    # A generator of its own: the loader would draw a seed for its workers from torch's global one.
    loader = DataLoader(pixels, size, num_workers=workers, generator=torch.Generator(), worker_init_fn=serve_parent)
    return (images for images, _, _ in loader)


def _check_logits(logits: object, count: int, part: Dataset) -> None:
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != count or logits.shape[1] < 2:
        what = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(f"the model returned {what} for {count} images; it must return logits [N, K] with K >= 2")
    if not torch.isfinite(logits).all():
        raise ModelError(f"the model's logits are not finite on samples of {part.name}; no accuracy can be trusted")
