"""The training loop: flat, one update after another, every random number derived from (seed, epoch, step, sample)."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from temper.attacks.crafting import Pair, crafting, foldable
from temper.attacks.losses import predicted
from temper.core import randomness
from temper.core.interrupt import Stop, Stopped
from temper.core.orphans import serve_parent
from temper.core.progress import Bar, progress_bar
from temper.data import Dataset, Pixels
from temper.errors import NonFiniteLossError, RunError
from temper.models import Classifier
from temper.threat import format_eps
from temper.training import objectives, protocols
from temper.training.checkpoints import (
    Checkpoint,
    Progress,
    last_checkpoint,
    load_newest,
    save_checkpoint,
)
from temper.training.config import FinetuneConfig
from temper.training.crafter import Crafter
from temper.training.metrics import Metrics
from temper.training.objectives.objective import Objective
from temper.training.optimisation import MovingAverage, lr_share, make_optimiser, set_lr
from temper.training.schedules import EpsilonSchedule

log = logging.getLogger(__name__)

NAMED = 5  # samples of a batch that an error names


@dataclass(frozen=True)
class Task:
    """What is trained: the configuration, the run's folder, and the data.

    ``after_epoch`` is called, in every process, with the classifier and the epoch (from 1) when that is saved; the
    classifier has the averaged weights where there is an average. What it raises ends the training. ``watch`` is told,
    in the first process, the validation accuracies so far, after every epoch and before that is saved.
    """

    config: FinetuneConfig
    schedule: EpsilonSchedule
    folder: Path
    train: Dataset
    validation: Dataset
    after_epoch: Callable[[Classifier, int], None] | None = None
    watch: Callable[[Sequence[float]], None] | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def steps_per_epoch(self) -> int:
        """Updates of the weights per epoch."""
        return -(-len(self.train) // self.config.batch_size)


@dataclass(frozen=True)
class Outside:
    """What a process reports its work to, and what asks it to stop."""

    metrics: Metrics
    bar: Bar
    stop: Stop


@dataclass(frozen=True)
class Session:
    """One process at work on a task."""

    fabric: Fabric
    task: Task
    classifier: Classifier
    pairs: list[Pair]
    pixels: Pixels
    progress: Progress
    outside: Outside


def train(fabric: Fabric, task: Task, classifier: Classifier, within: Stop | None = None) -> None:
    """Fine-tune ``classifier`` in place, from the newest checkpoint of the run if there is one.

    Args:
        fabric: the devices. task: what to train. classifier: the backbone with its head.
        within: of the larger work that this training is a part of, which catches the signals and shows the progress.

    Raises:
        NonFiniteLossError: a loss or gradient is not finite, and nothing is updated with it; or weights are not, and no
            checkpoint holds them.
        Stopped: a signal asked to stop; a checkpoint was saved first.
    """
    config = task.config
    saved = load_newest(task.checkpoints)
    progress = saved.progress if saved else Progress()
    torch.manual_seed(randomness.number(config.seed, "lora"))
    lora = protocols.add_lora(classifier, config.protocol.lora_rank) if config.protocol.name == "lora" else None
    if saved:
        classifier.load_state_dict(saved.model)
    fabric.to_device(classifier.to(memory_format=torch.channels_last))
    pixels = Pixels(task.train, classifier.image_size, classifier.channels, config.data.augmentation, config.seed)
    steps, first = config.epochs * task.steps_per_epoch, fabric.is_global_zero
    shown = first and within is None
    signals: AbstractContextManager[Stop] = Stop() if within is None else nullcontext(within)
    with progress_bar(task.folder.name, steps, progress.step, enabled=shown) as bar, signals as stop:
        metrics = Metrics(task.folder / "metrics.jsonl", fabric, progress.metrics_bytes)
        pairs = foldable(classifier, _example(pixels, fabric.device))
        session = Session(fabric, task, classifier, pairs, pixels, progress, Outside(metrics, bar, stop))
        for phase in protocols.phases(config.protocol, config.epochs):
            if progress.epoch < phase.last:
                train_phase(session, phase, saved)
                saved = None
    finished = load_newest(task.checkpoints)
    if finished is None:
        raise RunError(f"{task.checkpoints}: the checkpoints of this run are gone; start again with --force")
    classifier.load_state_dict(finished.model if finished.average is None else finished.average)
    if lora is not None:
        protocols.merge_lora(lora, classifier)


def train_phase(session: Session, phase: protocols.Phase, saved: Checkpoint | None) -> None:
    """Train what the phase trains, with an optimiser and a learning-rate schedule of its own."""
    fabric, task, classifier, progress = session.fabric, session.task, session.classifier, session.progress
    config = task.config.optimiser
    protocols.set_trained(classifier, phase.trained)
    optimiser = make_optimiser(classifier, config)
    average = MovingAverage(classifier, config.ema) if config.ema else None
    if saved and progress.step > (phase.first - 1) * task.steps_per_epoch:  # saved inside this phase
        optimiser.load_state_dict(saved.optimiser)
        if average and saved.average:
            average.state = {name: fabric.to_device(value) for name, value in saved.average.items()}
    model, optimiser = fabric.setup(classifier, optimiser)

    def save() -> None:
        _check_weights(session)
        if fabric.is_global_zero:
            progress.metrics_bytes = session.outside.metrics.flush()
            state = average.state if average else None
            save_checkpoint(
                task.checkpoints, Checkpoint(progress, classifier.state_dict(), state, optimiser.state_dict())
            )
        fabric.barrier()

    for epoch in range(progress.epoch + 1, phase.last + 1):
        started = time.monotonic()
        eps, lr = train_epoch(session, phase, epoch, model, optimiser, average, save)
        with _averaged(classifier, average):
            accuracy = _accuracy(session, epoch)
        samples, correct, loss = progress.epoch_sums
        progress.epoch, progress.epoch_sums = epoch, [0.0, 0.0, 0.0]
        progress.validation.append(accuracy)
        if task.watch and fabric.is_global_zero:
            task.watch(progress.validation)
        seconds = time.monotonic() - started
        session.outside.metrics.epoch(progress, eps, lr, loss / samples, correct / samples, accuracy, seconds)
        save()
        if fabric.is_global_zero:
            shown = f"{task.config.norm} {format_eps(task.config.norm, eps)}"
            log.info(
                f"{task.folder.name}, epoch {epoch}/{task.config.epochs}: eps {shown}, training loss "
                f"{loss / samples:.3f}, training accuracy {correct / samples:.3f}, "
                f"validation accuracy {accuracy:.3f} ({seconds:.1f} s)"
            )
        if task.after_epoch:
            with _averaged(classifier, average):
                task.after_epoch(classifier, epoch)
        if _anyone(fabric, session.outside.stop.requested):
            raise Stopped(f"{task.folder}: stopped after epoch {epoch}; --resume continues")


def train_epoch(
    session: Session,
    phase: protocols.Phase,
    epoch: int,
    model: Any,
    optimiser: Any,
    average: MovingAverage | None,
    save: Callable[[], None],
) -> tuple[float, float]:
    """The updates of an epoch that are still to do; returns epsilon and the backbone's learning rate at its end."""
    fabric, task, progress = session.fabric, session.task, session.progress
    config, steps = task.config, task.steps_per_epoch
    crafter = Crafter(session.classifier, session.pairs, config, fabric.autocast)
    objective = objectives.make(
        config.objective.name, crafter.logits, config.objective.beta, config.optimiser.label_smoothing
    )
    phase_start, phase_steps = (phase.first - 1) * steps, (phase.last - phase.first + 1) * steps
    done = progress.step - (epoch - 1) * steps
    target = config.eps if objectives.OBJECTIVES[config.objective.name].attacked else 0.0
    last_save, eps, lr = time.monotonic(), 0.0, 0.0
    for index, batch in enumerate(_batches(session, epoch, done), start=done):
        moment = epoch if config.schedule.per == "epoch" else epoch - 1 + (index + 1) / steps
        eps = target * task.schedule.fraction(moment, config.epochs, progress.validation)
        share = lr_share(progress.step - phase_start, phase_steps, config.optimiser)
        lr = share * (config.optimiser.head_lr if phase.trained == "head" else config.optimiser.backbone_lr)
        set_lr(optimiser, share)
        # Dropout and the like draw from the global generator: seeded per step, a resumed run draws the same.
        torch.manual_seed(randomness.number(config.seed, "step", progress.step, fabric.global_rank))
        protocols.train_mode(session.classifier, phase.trained)

        sums = accumulate(fabric, model, objective, crafter, batch, eps, epoch, config.micro_batch)
        _check_finite(session, sums, epoch, index)
        if config.optimiser.clip_norm is not None:
            fabric.clip_gradients(model, optimiser, max_norm=config.optimiser.clip_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        _share_statistics(fabric, session.classifier)
        if average:
            average.update(session.classifier, progress.step + 1)

        progress.step += 1
        progress.epoch_sums = [a + b for a, b in zip(progress.epoch_sums, sums.tolist(), strict=True)]
        session.outside.metrics.step(progress, epoch, eps, lr, sums)
        session.outside.bar.advance(f"epoch {epoch}/{config.epochs}  eps {format_eps(config.norm, eps)}")
        if index + 1 < steps:  # at its end an epoch is saved anyway
            asked = _anyone(fabric, session.outside.stop.requested)
            if asked or _anyone(fabric, time.monotonic() - last_save > config.checkpoint_seconds):
                save()
                last_save = time.monotonic()
            if asked:
                raise Stopped(f"{task.folder}: stopped at step {progress.step}; --resume continues")
    return eps, lr


def accumulate(
    fabric: Fabric,
    model: Any,
    objective: Objective,
    crafter: "Crafter",
    batch: tuple[Tensor, Tensor, Tensor],
    eps: float,
    epoch: int,
    micro_batch: int | None,
) -> Tensor:
    """Add up the gradient of one batch, ``micro_batch`` samples at a time.

    Returns:
        Number of samples, number correct, and summed loss over all processes: float64 [3].
    """
    x, y, ids = batch
    total = _summed(fabric, torch.tensor(float(len(y)))).item()
    sums = torch.zeros(3, dtype=torch.float64)
    # Parts of equal size but for one sample, so that no rest is too small for batch norm.
    parts = list(torch.arange(len(y), device=y.device).tensor_split(-(-len(y) // (micro_batch or len(y)))))
    for part in parts:
        samples = len(part)
        xs, ys = (x, y) if len(parts) == 1 else (x[part], y[part])
        attack = crafter.attack(eps, epoch, ids[part])
        with fabric.no_backward_sync(model, enabled=part is not parts[-1]):
            result = objective(model, xs, ys, attack)
            # DDP averages over processes; what is wanted is the mean over the samples of all of them.
            fabric.backward(result.loss * (samples * fabric.world_size / total))
        correct = (predicted(result.logits.detach()) == ys).sum().item()
        sums += torch.tensor([samples, correct, result.loss.item() * samples], dtype=torch.float64)
    return _summed(fabric, sums)


def _check_finite(session: Session, sums: Tensor, epoch: int, index: int) -> None:
    """Raise before an update that would spoil the weights: a loss or gradient that is not finite."""
    gradients = [p.grad.norm() for p in session.classifier.parameters() if p.grad is not None]
    if torch.isfinite(sums).all() and torch.isfinite(torch.stack(gradients)).all():
        return
    samples, _, loss = sums.tolist()
    ids = session.task.train.ids[_epoch_batches(session.task, epoch)[index]].tolist()
    batch = f"{str(ids[:NAMED])[:-1]}, ...]" if len(ids) > NAMED else str(ids)
    what = f"a gradient is not finite (the loss is {loss / samples:.4g})" if isfinite(loss) else f"the loss is {loss}"
    raise _not_finite(session, epoch, session.progress.step + 1, f"{what}, on samples {batch}")


def _check_weights(session: Session) -> None:
    """Raise rather than save weights or batch-norm statistics that are not finite: the last update spoilt them."""
    for name, tensor in session.classifier.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            step = session.progress.step
            epoch = -(-step // session.task.steps_per_epoch)
            raise _not_finite(session, epoch, step, f"{name} is not finite after the update")


def _not_finite(session: Session, epoch: int, step: int, what: str) -> NonFiniteLossError:
    good = last_checkpoint(session.task.checkpoints)
    return NonFiniteLossError(
        f"training stops in epoch {epoch} at step {step}: {what}; last good checkpoint: {good or 'none yet'}; lower "
        "optimiser.backbone_lr and optimiser.head_lr, set optimiser.clip_norm, or use precision fp32"
    )


def _share_statistics(fabric: Fabric, classifier: Classifier) -> None:
    """Average batch-norm statistics over the processes, so that all craft, validate and resume with the same."""
    if fabric.world_size > 1:
        for statistic in classifier.buffers():
            if statistic.is_floating_point():
                statistic.copy_(_summed(fabric, statistic) / fabric.world_size)


def _epoch_batches(task: Task, epoch: int) -> list[NDArray[np.int64]]:
    """Positions of the training samples in each batch of an epoch; sizes differ by at most one sample."""
    order = np.random.default_rng((task.config.seed, epoch)).permutation(len(task.train))
    return np.array_split(order, task.steps_per_epoch)


def _batches(session: Session, epoch: int, done: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """This process's part of each batch of an epoch, from batch ``done`` on: images float NCHW, labels, ids."""
    fabric, config = session.fabric, session.task.config
    batches = _epoch_batches(session.task, epoch)[done:]
    indices = [[(epoch, int(i)) for i in batch[fabric.global_rank :: fabric.world_size]] for batch in batches]
    loader = DataLoader(
        session.pixels, batch_sampler=indices, num_workers=config.data.workers, worker_init_fn=serve_parent
    )
    for images, labels, ids in loader:
        yield to_pixels(images, fabric.device), labels.to(fabric.device), ids.to(fabric.device)


def to_pixels(images: Tensor, device: torch.device) -> Tensor:
    """uint8 NCHW -> float32 NCHW in [0, 1], channels last, on ``device``."""
    return (images.to(device).float() / 255).contiguous(memory_format=torch.channels_last)


def _example(pixels: Pixels, device: torch.device) -> Tensor:
    images = torch.stack([pixels[i][0] for i in range(min(2, len(pixels)))])
    return to_pixels(images, device)


@torch.no_grad()
def _accuracy(session: Session, epoch: int) -> float:
    """Clean accuracy on the validation data, shared out over the processes, after an epoch.

    Raises:
        NonFiniteLossError: it gives logits there that are not finite, whatever the training loss was.
    """
    fabric, dataset = session.fabric, session.task.validation
    pixels = Pixels(dataset, session.classifier.image_size, session.classifier.channels)
    mine = range(fabric.global_rank, len(dataset), fabric.world_size)
    workers = session.task.config.data.workers
    correct, lost = torch.zeros(2, device=fabric.device)
    with crafting(session.classifier, session.pairs) as model, fabric.autocast():
        loader = DataLoader(pixels, sampler=mine, batch_size=256, num_workers=workers, worker_init_fn=serve_parent)
        for images, labels, _ in loader:
            logits = model(to_pixels(images, fabric.device))
            correct += (predicted(logits) == labels.to(fabric.device)).sum()
            lost += (~torch.isfinite(logits)).any(1).sum()
    if count := int(_summed(fabric, lost).item()):
        what = f"logits on {count} of {len(dataset)} validation samples are not finite"
        raise _not_finite(session, epoch, session.progress.step, what)
    return _summed(fabric, correct).item() / len(dataset)


@contextmanager
def _averaged(classifier: Classifier, average: MovingAverage | None) -> Iterator[None]:
    """Lend the classifier the averaged weights, if an average is kept."""
    if average is None:
        yield
        return
    own = {name: value.clone() for name, value in classifier.state_dict().items()}
    classifier.load_state_dict(average.state)
    try:
        yield
    finally:
        classifier.load_state_dict(own)


def _summed(fabric: Fabric, mine: Tensor) -> Tensor:
    """The sum of every process's tensor, on the CPU."""
    if fabric.world_size == 1:
        return mine.cpu()
    total = fabric.all_reduce(fabric.to_device(mine), reduce_op="sum")
    assert isinstance(total, Tensor)
    return total.cpu()


def _anyone(fabric: Fabric, mine: bool) -> bool:
    """Whether any process says yes; all hear the same answer, so that all save at the same step."""
    return _summed(fabric, torch.tensor(float(mine))).item() > 0
