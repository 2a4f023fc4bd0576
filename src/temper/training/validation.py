"""How good the model is on the validation data, in the middle of its training."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from temper.attacks.attack import perturb
from temper.attacks.crafting import crafting
from temper.attacks.losses import predicted
from temper.attacks.pgd import PGD
from temper.core import randomness
from temper.core.orphans import serve_parent
from temper.data import Pixels
from temper.training.batches import to_pixels
from temper.training.finiteness import not_finite
from temper.training.passes import ROBUST_STEPS
from temper.training.processes import summed
from temper.training.session import Session

BATCH = 256  # images at once, where nothing is attacked


def _batches(session: Session, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """This process's part of the validation data: images float NCHW, labels, ids."""
    fabric, dataset = session.fabric, session.task.validation
    pixels = Pixels(dataset, session.classifier.image_size, session.classifier.channels)
    mine = range(fabric.global_rank, len(dataset), fabric.world_size)
    workers = session.task.config.data.workers
    loader = DataLoader(pixels, sampler=mine, batch_size=size, num_workers=workers, worker_init_fn=serve_parent)
    for images, labels, ids in loader:
        yield to_pixels(images, fabric.device), labels.to(fabric.device), ids.to(fabric.device)


@torch.no_grad()
def clean_accuracy(session: Session, epoch: int) -> float:
    """Clean accuracy on the validation data, shared out over the processes, after an epoch.

    Raises:
        NonFiniteLossError: it gives logits there that are not finite, whatever the training loss was.
    """
    fabric, dataset = session.fabric, session.task.validation
    correct, lost = torch.zeros(2, device=fabric.device)
    with crafting(session.classifier, session.pairs) as model, fabric.autocast():
        for x, y, _ in _batches(session, BATCH):
            logits = model(x)
            correct += (predicted(logits) == y).sum()
            lost += (~torch.isfinite(logits)).any(1).sum()
    if count := int(summed(fabric, lost).item()):
        what = f"logits on {count} of {len(dataset)} validation samples are not finite"
        raise not_finite(session, epoch, session.progress.step, what)
    return summed(fabric, correct).item() / len(dataset)


@torch.no_grad()
def robust_accuracy(session: Session) -> float:
    """Share of the validation data that is right, and still is after PGD of 10 steps at the target epsilon,
    in every norm.

    The attack starts at the same random points after every epoch, so that epochs differ by their weights alone. It is
    asked about images that are right, as many at once as in training.
    """
    fabric, config, dataset = session.fabric, session.task.config, session.task.validation
    robust = torch.zeros((), device=fabric.device)
    attack = PGD(ROBUST_STEPS)
    with crafting(session.classifier, session.pairs) as model, fabric.autocast():
        for x, y, ids in _batches(session, min(BATCH, config.micro_batch or config.batch_size)):
            right = predicted(model(x)) == y
            if right.any():
                x, y, keys = x[right], y[right], randomness.sample_keys(config.seed, ids[right], "robust validation")
                held = torch.ones_like(y, dtype=torch.bool)
                for threat in config.threats:
                    moved = perturb(attack, model, x, y, threat.eps, threat.norm, keys=keys)
                    held &= predicted(model(moved)) == y
                robust += held.sum()
    return summed(fabric, robust).item() / len(dataset)
