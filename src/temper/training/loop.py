"""The training loop: flat, one update after another, every random number derived from (seed, epoch, step, sample)."""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from temper import randomness
from temper.attacks.apgd import apgd
from temper.attacks.crafting import Pair, crafting, foldable
from temper.attacks.losses import Loss
from temper.attacks.pgd import pgd
from temper.data import Dataset, Pixels
from temper.errors import NonFiniteLossError, RunError
from temper.interrupt import Stop, Stopped
from temper.models import Classifier
from temper.progress import Bar, progress_bar
from temper.training import objectives, protocols
from temper.training.checkpoints import (
    Checkpoint,
    Progress,
    last_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from temper.training.config import AttackConfig, FinetuneConfig
from temper.training.objectives import Objective
from temper.training.optimisation import MovingAverage, lr_share, make_optimiser, set_lr
from temper.training.schedules import EpsilonSchedule

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What one process trains: the configuration, the run's folder, and the data."""

    config: FinetuneConfig
    schedule: EpsilonSchedule
    folder: Path
    train: Dataset
    validation: Dataset


def train(fabric: Fabric, task: Task, classifier: Classifier) -> None:
    """Fine-tune ``classifier`` in place, from the newest checkpoint below the run's folder if there is one.

    Raises:
        NonFiniteLossError: a loss is not finite; nothing is updated with it.
        Stopped: a signal asked to stop; a checkpoint was saved first.
    """
    config, checkpoints = task.config, task.folder / "checkpoints"
    pixels = Pixels(
        task.train, classifier.image_size, classifier.channels, config.data.augmentation, config.seed
    )
    steps_per_epoch = -(-len(task.train) // config.batch_size)
    saved = last_checkpoint(checkpoints)
    checkpoint = load_checkpoint(saved) if saved else None
    progress = checkpoint.progress if checkpoint else Progress()
    metrics = _Metrics(task.folder / "metrics.jsonl", fabric, progress.metrics_bytes)
    lora = protocols.add_lora(classifier, config.protocol.lora_rank) if config.protocol.name == "lora" else None
    if checkpoint:
        classifier.load_state_dict(checkpoint.model)
    fabric.to_device(classifier.to(memory_format=torch.channels_last))
    pairs = foldable(classifier, _example(pixels, fabric.device))

    with progress_bar(
        f"fine-tuning {config.schedule.name}" if config.objective.name != "standard" else "fine-tuning standard",
        config.epochs * steps_per_epoch,
        progress.step,
        enabled=fabric.is_global_zero,
    ) as bar, Stop() as stop:
        for phase in protocols.phases(config.protocol, config.epochs):
            if progress.epoch >= phase.last:
                continue
            phase_start = (phase.first - 1) * steps_per_epoch
            phase_steps = (phase.last - phase.first + 1) * steps_per_epoch
            protocols.set_trained(classifier, phase.trained)
            optimiser = make_optimiser(classifier, config.optimiser)
            average = MovingAverage(classifier, config.optimiser.ema) if config.optimiser.ema else None
            if checkpoint and progress.step > phase_start:  # saved inside this phase
                optimiser.load_state_dict(checkpoint.optimiser)
                if average and checkpoint.average:
                    average.state = {name: fabric.to_device(value) for name, value in checkpoint.average.items()}
            checkpoint = None
            model, optimiser = fabric.setup(classifier, optimiser)  # type: ignore[assignment]
            crafted = Crafter(classifier, pairs, config, fabric.autocast)
            objective = objectives.make(
                config.objective.name, crafted.logits, config.objective.beta, config.optimiser.label_smoothing
            )

            def save(
                optimiser: torch.optim.Optimizer = optimiser, average: MovingAverage | None = average
            ) -> None:
                if fabric.is_global_zero:
                    progress.metrics_bytes = metrics.flush()
                    state = Checkpoint(
                        progress,
                        classifier.state_dict(),
                        average.state if average else None,
                        optimiser.state_dict(),
                    )
                    save_checkpoint(checkpoints, state)
                fabric.barrier()

            for epoch in range(progress.epoch + 1, phase.last + 1):
                done = progress.step - (epoch - 1) * steps_per_epoch
                started = last_save = time.monotonic()
                for index, (x, y, ids) in enumerate(_batches(pixels, task, epoch, done, fabric), start=done):
                    moment = epoch if config.schedule.per == "epoch" else epoch - 1 + (index + 1) / steps_per_epoch
                    eps = config.eps * task.schedule.fraction(moment, config.epochs, progress.validation)
                    share = lr_share(progress.step - phase_start, phase_steps, config.optimiser)
                    set_lr(optimiser, share)
                    # Dropout and the like draw from the global generator: seeded per step, a resumed run draws alike.
                    torch.manual_seed(
                        randomness.number(config.seed, "step", progress.step, fabric.global_rank)
                    )
                    protocols.train_mode(classifier, phase.trained)
                    sums = _update(fabric, model, optimiser, objective, crafted, (x, y, ids), eps, epoch, config)
                    _check_finite(fabric, sums, progress.step + 1, ids, checkpoints)
                    optimiser.step()
                    optimiser.zero_grad(set_to_none=True)
                    if average:
                        average.update(classifier)
                    progress.step += 1
                    progress.epoch_sums = [
                        a + b for a, b in zip(progress.epoch_sums, sums.tolist(), strict=True)
                    ]
                    metrics.step(progress, epoch, eps, share * config.optimiser.backbone_lr, sums)
                    bar.advance(f"epoch {epoch}/{config.epochs}  eps {eps * 255:.2f}/255  loss {sums[2] / sums[0]:.3f}")
                    last = index + 1 == steps_per_epoch
                    asked = _anyone(fabric, stop.requested)
                    due = _anyone(fabric, time.monotonic() - last_save > config.checkpoint_seconds)
                    if not last and (asked or due):
                        save()
                        last_save = time.monotonic()
                    if not last and asked:
                        raise Stopped(f"{task.folder}: stopped at step {progress.step}; --resume continues")

                with _averaged(classifier, average):
                    accuracy = _accuracy(classifier, pairs, task.validation, config, fabric)
                samples, correct, loss = progress.epoch_sums
                progress.epoch, progress.epoch_sums = epoch, [0.0, 0.0, 0.0]
                progress.validation.append(accuracy)
                metrics.epoch(
                    progress, eps, share * config.optimiser.backbone_lr,
                    loss / samples, correct / samples, accuracy, time.monotonic() - started,
                )  # fmt: skip
                save()
                if fabric.is_global_zero:
                    log.info(
                        "epoch %d/%d: eps %.2f/255, training loss %.3f, training accuracy %.3f, validation %.3f",
                        epoch, config.epochs, eps * 255, loss / samples, correct / samples, accuracy,
                    )  # fmt: skip
                if _anyone(fabric, stop.requested) and epoch < config.epochs:
                    raise Stopped(f"{task.folder}: stopped after epoch {epoch}; --resume continues")

    finished = load_checkpoint(_existing(checkpoints))
    classifier.load_state_dict(finished.model if finished.average is None else finished.average)
    if lora is not None:
        protocols.merge_lora(lora, classifier)
    metrics.flush()


def _existing(checkpoints: Path) -> Path:
    newest = last_checkpoint(checkpoints)
    if newest is None:
        raise RunError(f"{checkpoints}: the checkpoints of this run are gone; start again with --force")
    return newest


class Crafter:
    """The model as attacks see it while training: eval mode, no parameter gradients, batch norms folded."""

    def __init__(
        self,
        classifier: Classifier,
        pairs: list[Pair],
        config: FinetuneConfig,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._classifier, self._pairs, self._config, self._autocast = classifier, pairs, config, autocast

    def logits(self, x: Tensor) -> Tensor:
        """Logits of ``x`` in eval mode."""
        with crafting(self._classifier, self._pairs) as model, self._autocast():
            return model(x)

    def attack(self, eps: float, epoch: int, ids: Tensor) -> objectives.Attack | None:
        """The inner attack at ``eps`` on the samples ``ids``; None at eps = 0, where nothing is to be searched."""
        if eps == 0 or self._config.objective.name == "standard":
            return None
        keys = randomness.sample_keys(self._config.seed, ids, "training", epoch)

        def attack(x: Tensor, y: Tensor, loss: Loss) -> Tensor:
            with crafting(self._classifier, self._pairs) as model, self._autocast():
                return inner_attack(model, x, y, eps, keys, loss, self._config)

        return attack


def inner_attack(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    eps: float,
    keys: Tensor,
    loss: Loss,
    config: FinetuneConfig,
) -> Tensor:
    """Images of the configured attack: PGD's last iterate, or APGD's of the highest loss."""
    attack: AttackConfig = config.attack
    random_start = attack.random_start
    if random_start is None:
        random_start = attack.name == "pgd" or config.objective.name == "trades"
    starts = keys if random_start else None
    if attack.name == "pgd":
        return pgd(
            model, x, y, eps, config.norm, steps=attack.steps, keys=starts, step_size=attack.step_size, loss=loss
        )
    return apgd(model, x, y, eps, config.norm, steps=attack.steps, keys=starts, loss=loss)


def _update(
    fabric: Fabric,
    model: Any,
    optimiser: Any,
    objective: Objective,
    crafted: Crafter,
    batch: tuple[Tensor, Tensor, Tensor],
    eps: float,
    epoch: int,
    config: FinetuneConfig,
) -> Tensor:
    """Accumulate the gradient of one batch: (samples, correct, summed loss) over all devices, float64 [3]."""
    x, y, ids = batch
    total = fabric.all_reduce(torch.tensor(float(len(y)), device=fabric.device), reduce_op="sum")
    assert isinstance(total, Tensor)
    sums = torch.zeros(3, dtype=torch.float64)
    size = config.micro_batch or len(y)
    for start in range(0, len(y), size):
        part = slice(start, start + size)
        attack = crafted.attack(eps, epoch, ids[part])
        with fabric.no_backward_sync(model, enabled=start + size < len(y)):
            result = objective(model, x[part], y[part], attack)
            # DDP averages over devices; what is wanted is the mean over the samples of all of them.
            weight = len(y[part]) * fabric.world_size / total
            fabric.backward(result.loss * weight)
        correct = (result.logits.detach().argmax(1) == y[part]).sum()
        samples = len(y[part])
        sums += torch.tensor([samples, correct.item(), result.loss.item() * samples], dtype=torch.float64)
    if config.optimiser.clip_norm is not None and torch.isfinite(sums).all():
        fabric.clip_gradients(model, optimiser, max_norm=config.optimiser.clip_norm)
    reduced = fabric.all_reduce(sums.to(fabric.device, torch.float32), reduce_op="sum") if fabric.world_size > 1 else sums
    assert isinstance(reduced, Tensor)
    return reduced.cpu().to(torch.float64)


def _check_finite(fabric: Fabric, sums: Tensor, step: int, ids: Tensor, checkpoints: Path) -> None:
    if torch.isfinite(sums).all():
        return
    good = last_checkpoint(checkpoints)
    raise NonFiniteLossError(
        f"loss is {sums[2].item()} at step {step}, on samples {ids.tolist()}; "
        f"last good checkpoint: {good or 'none yet'}; lower optimiser.backbone_lr and optimiser.head_lr, set "
        "optimiser.clip_norm, or use precision fp32"
    )


def _batches(
    pixels: Pixels, task: Task, epoch: int, done: int, fabric: Fabric
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """This process's part of each batch of an epoch, from batch ``done`` on: images float NCHW, labels, ids.

    Batches differ in size by at most one sample, so that none is too small for batch norm.
    """
    config, count = task.config, len(task.train)
    order = np.random.default_rng((config.seed, epoch)).permutation(count)
    batches = np.array_split(order, -(-count // config.batch_size))[done:]
    rank, world = fabric.global_rank, fabric.world_size
    indices = [[(epoch, int(i)) for i in batch[rank::world]] for batch in batches]
    loader = DataLoader(pixels, batch_sampler=indices, num_workers=config.data.workers)  # type: ignore[arg-type]
    for images, labels, ids in loader:
        yield to_pixels(images, fabric.device), labels.to(fabric.device), ids.to(fabric.device)


def to_pixels(images: Tensor, device: torch.device) -> Tensor:
    """uint8 NCHW -> float32 NCHW in [0, 1], channels last, on ``device``."""
    return (images.to(device).float() / 255).contiguous(memory_format=torch.channels_last)


def _example(pixels: Pixels, device: torch.device) -> Tensor:
    images = torch.stack([pixels[i][0] for i in range(min(2, len(pixels)))])
    return to_pixels(images, device)


@torch.no_grad()
def _accuracy(
    classifier: Classifier, pairs: list[Pair], dataset: Dataset, config: FinetuneConfig, fabric: Fabric
) -> float:
    """Clean accuracy, shared out over the processes."""
    pixels = Pixels(dataset, classifier.image_size, classifier.channels)
    mine = range(fabric.global_rank, len(dataset), fabric.world_size)
    loader = DataLoader(pixels, sampler=mine, batch_size=256, num_workers=config.data.workers)
    correct = torch.zeros((), device=fabric.device)
    with crafting(classifier, pairs) as model, fabric.autocast():
        for images, labels, _ in loader:
            correct += (model(to_pixels(images, fabric.device)).argmax(1) == labels.to(fabric.device)).sum()
    total = fabric.all_reduce(correct, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total.item() / len(dataset)


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


def _anyone(fabric: Fabric, mine: bool) -> bool:
    """Whether any process says yes; all hear the same answer, so that all save at the same step."""
    if fabric.world_size == 1:
        return mine
    votes = fabric.all_reduce(torch.tensor(float(mine), device=fabric.device), reduce_op="sum")
    assert isinstance(votes, Tensor)
    return votes.item() > 0


class _Metrics:
    """The run's metrics file, and the experiment trackers if there are any."""

    def __init__(self, path: Path, fabric: Fabric, keep_bytes: int) -> None:
        self._fabric = fabric
        self._file = None
        if fabric.is_global_zero:
            self._file = path.open("ab")
            # What was written after the checkpoint is written again.
            self._file.truncate(keep_bytes)

    def step(self, progress: Progress, epoch: int, eps: float, lr: float, sums: Tensor) -> None:
        samples, correct, loss = sums.tolist()
        row = {"loss": loss / samples, "accuracy": correct / samples, "eps": eps, "lr": lr}
        self._write({"kind": "step", "step": progress.step, "epoch": epoch, **row})
        self._fabric.log_dict({f"step/{name}": value for name, value in row.items()}, step=progress.step)

    def epoch(
        self, progress: Progress, eps: float, lr: float, loss: float, accuracy: float, validation: float, seconds: float
    ) -> None:
        row = {
            "train_loss": loss,
            "train_accuracy": accuracy,
            "validation_accuracy": validation,
            "eps": eps,
            "lr": lr,
        }
        self._write(
            {"kind": "epoch", "epoch": progress.epoch, "step": progress.step, **row, "seconds": round(seconds, 3)}
        )
        self._fabric.log_dict({f"epoch/{name}": value for name, value in row.items()}, step=progress.step)

    def flush(self) -> int:
        if self._file is None:
            return 0
        self._file.flush()
        return self._file.tell()

    def _write(self, row: dict[str, Any]) -> None:
        if self._file is not None:
            self._file.write((json.dumps(row) + "\n").encode())
