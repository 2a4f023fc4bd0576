"""The training loop: flat, one update after another, every random number derived from (seed, epoch, step, sample)."""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric

from temper.attacks.crafting import foldable
from temper.core import randomness
from temper.core.interrupt import Stop, Stopped
from temper.core.progress import progress_bar
from temper.errors import RunError
from temper.models import Classifier
from temper.training import objectives, protocols, selection
from temper.training.averaging import Average, averaged, make_average, renew_statistics
from temper.training.batches import batches, example
from temper.training.checkpoints import Checkpoint, Progress, contiguous, load_newest, save_checkpoint
from temper.training.finiteness import check_finite, check_weights
from temper.training.individual import renewed
from temper.training.learner import add_part, begin_epoch, crafter_of, drop_part, objective_of, original_of, trained_as
from temper.training.metrics import Metrics
from temper.training.norms import beside, drawn_from, in_words, note_errors, scaled
from temper.training.optimisation import lr_share, make_optimiser, set_lr
from temper.training.passes import count_update, of_update
from temper.training.perturbation import at_perturbed_weights, gamma_at
from temper.training.processes import anyone, summed
from temper.training.session import Outside, Session, Task, training_pixels
from temper.training.update import accumulate, share_statistics
from temper.training.validation import clean_accuracy, robust_accuracy

log = logging.getLogger(__name__)


def train(fabric: Fabric, task: Task, classifier: Classifier, within: Stop | None = None) -> Progress:
    """Fine-tune ``classifier`` in place, from the newest checkpoint of the run if there is one.

    Args:
        fabric: the devices. task: what to train. classifier: the backbone with its head.
        within: of the larger work that this training is a part of, which catches the signals and shows the progress.

    Returns:
        Where the training ended.

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
    add_part(classifier, config)
    original = original_of(classifier, config)
    if saved:
        classifier.load_state_dict(saved.model)
    fabric.to_device(classifier.to(memory_format=torch.channels_last))
    if original is not None:
        fabric.to_device(original.to(memory_format=torch.channels_last))
    steps, first = config.epochs * task.steps_per_epoch, fabric.is_global_zero
    shown = first and within is None
    signals: AbstractContextManager[Stop] = Stop() if within is None else nullcontext(within)
    with progress_bar(task.folder.name, steps, progress.step, enabled=shown) as bar, signals as stop:
        metrics = Metrics(task.folder / "metrics.jsonl", fabric, progress.metrics_bytes)
        pairs = foldable(classifier, example(training_pixels(task, classifier), fabric.device))
        session = Session(fabric, task, classifier, pairs, progress, Outside(metrics, bar, stop), original)
        kept = selection.Kept(saved.best if saved else None)
        for phase in protocols.phases(config.protocol, config.epochs):
            if progress.epoch < phase.last:
                train_phase(session, phase, saved, kept)
                saved = None
    finished = load_newest(task.checkpoints)
    if finished is None:
        raise RunError(f"{task.checkpoints}: the checkpoints of this run are gone; start again with --force")
    if config.validation.keep == "best" and finished.best is None:
        raise RunError(f"{task.checkpoints}: the best epoch's weights are gone; start again with --force")
    last = finished.model if finished.average is None else finished.average
    classifier.load_state_dict(last if finished.best is None else finished.best)
    if lora is not None:
        protocols.merge_lora(lora, classifier)
    drop_part(classifier, config)
    return finished.progress


def train_phase(session: Session, phase: protocols.Phase, saved: Checkpoint | None, kept: selection.Kept) -> None:
    """Train what the phase trains, with an optimiser and a learning-rate schedule of its own."""
    fabric, task, classifier, progress = session.fabric, session.task, session.classifier, session.progress
    config = protocols.rates(task.config.protocol, task.config.optimiser, phase)
    protocols.set_trained(classifier, phase.trained)
    optimiser = make_optimiser(classifier, config)
    average = make_average(classifier, config, phase.first, phase.last, task.config.epochs)
    if saved and progress.step > (phase.first - 1) * task.steps_per_epoch:  # saved inside this phase
        optimiser.load_state_dict(saved.optimiser)
        if average and saved.average:
            average.state = {name: fabric.to_device(value) for name, value in saved.average.items()}
    model, optimiser = fabric.setup(trained_as(classifier, task.config), optimiser)

    def save() -> None:
        check_weights(session)
        if fabric.is_global_zero:
            progress.metrics_bytes = session.outside.metrics.flush()
            state = average.state if average else None
            now = Checkpoint(progress, classifier.state_dict(), state, optimiser.state_dict(), kept.state)
            save_checkpoint(task.checkpoints, now)
        fabric.barrier()

    patience = task.config.validation.patience if phase.last == task.config.epochs else None
    for epoch in range(progress.epoch + 1, phase.last + 1):
        if patience is not None and selection.spent(progress.robust, phase.first, patience):
            break
        started = time.monotonic()
        eps, lr = train_epoch(session, phase, epoch, model, optimiser, average, save)
        if average:
            average.after_epoch(classifier, epoch, partial(renew_statistics, session, phase, epoch))
        with averaged(classifier, average):
            accuracy, robust = clean_accuracy(session, epoch), measure_robustness(session, epoch, eps, kept)
        samples, correct, loss = progress.epoch_sums
        progress.epoch, progress.epoch_sums = epoch, [0.0, 0.0, 0.0]
        progress.validation.append(accuracy)
        if task.watch and fabric.is_global_zero:
            task.watch(progress.validation, progress.robust)
        seconds = time.monotonic() - started
        session.outside.metrics.epoch(progress, eps, lr, loss / samples, correct / samples, accuracy, robust, seconds)
        save()
        if fabric.is_global_zero:
            shown = in_words(beside(task.config.threats, eps))
            attacked = "" if robust is None else f", robust validation accuracy {robust:.3f}"
            log.info(
                f"{task.folder.name}, epoch {epoch}/{task.config.epochs}: eps {shown}, training loss "
                f"{loss / samples:.3f}, training accuracy {correct / samples:.3f}, "
                f"validation accuracy {accuracy:.3f}{attacked} ({seconds:.1f} s)"
            )
        if task.after_epoch:
            with averaged(classifier, average):
                task.after_epoch(classifier, epoch)
        if anyone(fabric, session.outside.stop.requested):
            raise Stopped(f"{task.folder}: stopped after epoch {epoch}; --resume continues")


def measure_robustness(session: Session, epoch: int, eps: float, kept: selection.Kept) -> float | None:
    """Robust accuracy after an epoch, noted, and the weights kept if it is the best; None where none is measured."""
    progress, config = session.progress, session.task.config
    if not selection.due(epoch, config.epochs, config.validation.robust_every):
        return None
    samples, correct, _ = progress.epoch_sums
    robust = robust_accuracy(session)
    share = eps / config.threats[0].eps if objectives.OBJECTIVES[config.objective.name].attacked else 1.0
    progress.robust.append(selection.RobustEpoch(epoch, robust, correct / samples, share))
    if config.validation.keep == "best" and selection.best(progress.robust).epoch == epoch:
        kept.state = contiguous(session.classifier.state_dict())
    return robust


def train_epoch(
    session: Session,
    phase: protocols.Phase,
    epoch: int,
    model: Any,
    optimiser: torch.optim.Optimizer,
    average: Average | None,
    save: Callable[[], None],
) -> tuple[float, float]:
    """The updates of an epoch that are still to do; returns epsilon and the backbone's learning rate at its end."""
    fabric, task, progress = session.fabric, session.task, session.progress
    config, steps = task.config, task.steps_per_epoch
    phase_start, phase_steps = (phase.first - 1) * steps, (phase.last - phase.first + 1) * steps
    done = progress.step - (epoch - 1) * steps
    if done == 0:
        begin_epoch(session, epoch)
    crafter = crafter_of(session)
    objective = objective_of(session, crafter)
    target = config.threats if objectives.OBJECTIVES[config.objective.name].attacked else ()
    last_save, eps, lr = time.monotonic(), 0.0, 0.0
    for index, batch in enumerate(batches(session, epoch, done), start=done):
        moment = epoch if config.schedule.per == "epoch" else epoch - 1 + (index + 1) / steps
        fraction = task.schedule.fraction(moment, config.epochs, progress.validation)
        in_force = scaled(target, fraction)
        eps = in_force[0].eps if in_force else 0.0
        threats = drawn_from(config, in_force, progress)
        share = lr_share(progress.step - phase_start, phase_steps, config.optimiser)
        peak = protocols.rates(config.protocol, config.optimiser, phase)
        lr = share * (peak.head_lr if phase.trained == "head" else peak.backbone_lr)
        set_lr(optimiser, share)
        # Dropout and the like draw from the global generator: seeded per step, a resumed run draws the same.
        torch.manual_seed(randomness.number(config.seed, "step", progress.step, fabric.global_rank))
        protocols.train_mode(session.classifier, phase.trained)

        gradient = partial(accumulate, fabric, model, objective, crafter, batch, threats, epoch, config.micro_batch)
        gamma = gamma_at(config.optimiser, eps, progress.step / (config.epochs * steps))
        sums = at_perturbed_weights(gradient, session.classifier, crafter, gamma) if gamma else gradient()
        check_finite(session, sums, epoch, index)
        if config.optimiser.clip_norm is not None:
            fabric.clip_gradients(model, optimiser, max_norm=config.optimiser.clip_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        share_statistics(fabric, session.classifier)
        if average:
            average.after_step(session.classifier, progress.step + 1)

        progress.step += 1
        progress.epoch_sums = [a + b for a, b in zip(progress.epoch_sums, sums.tolist(), strict=True)]
        passes = of_update(config, fraction, individual=task.schedule.individual, perturbed=gamma > 0)
        count_update(progress, passes, sums[0].item())
        fallen = {name: summed(fabric, mine) for name, mine in crafter.fallen().items()}
        progress.slopes.update(renewed(progress.slopes, fallen))
        norm = threats[0].norm if config.attack.union == "e-at" and threats else None
        if norm is not None:
            note_errors(progress, norm, *sums.tolist()[:2])
        eps_mean = next((each[1].item() / sums[0].item() for each in fallen.values()), None)
        session.outside.metrics.step(progress, epoch, eps, lr, sums, norm, eps_mean)
        session.outside.bar.advance(f"epoch {epoch}/{config.epochs}  eps {in_words(beside(config.threats, eps))}")
        if index + 1 < steps:  # at its end an epoch is saved anyway
            asked = anyone(fabric, session.outside.stop.requested)
            if asked or anyone(fabric, time.monotonic() - last_save > config.checkpoint_seconds):
                save()
                last_save = time.monotonic()
            if asked:
                raise Stopped(f"{task.folder}: stopped at step {progress.step}; --resume continues")
    return eps, lr
