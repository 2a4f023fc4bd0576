"""How good the model is on the validation data, in the middle of its training."""

import torch
from torch.utils.data import DataLoader

from temper.attacks.crafting import crafting
from temper.attacks.losses import predicted
from temper.core.orphans import serve_parent
from temper.data import Pixels
from temper.training.batches import to_pixels
from temper.training.finiteness import not_finite
from temper.training.processes import summed
from temper.training.session import Session


@torch.no_grad()
def clean_accuracy(session: Session, epoch: int) -> float:
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
    if count := int(summed(fabric, lost).item()):
        what = f"logits on {count} of {len(dataset)} validation samples are not finite"
        raise not_finite(session, epoch, session.progress.step, what)
    return summed(fabric, correct).item() / len(dataset)
