"""A training that left the finite numbers: it stops, and says where."""

from math import isfinite

import torch
from torch import Tensor

from temper.errors import NonFiniteLossError
from temper.training.batches import epoch_batches
from temper.training.checkpoints import last_checkpoint
from temper.training.session import Session

NAMED = 5  # samples of a batch that an error names


def check_finite(session: Session, sums: Tensor, epoch: int, index: int) -> None:
    """Raise before an update that would spoil the weights: a loss or gradient that is not finite."""
    gradients = [p.grad.norm() for p in session.classifier.parameters() if p.grad is not None]
    if torch.isfinite(sums).all() and torch.isfinite(torch.stack(gradients)).all():
        return
    samples, _, loss = sums.tolist()
    ids = session.task.images.ids[epoch_batches(session.task, epoch)[index]].tolist()
    batch = f"{str(ids[:NAMED])[:-1]}, ...]" if len(ids) > NAMED else str(ids)
    what = f"a gradient is not finite (the loss is {loss / samples:.4g})" if isfinite(loss) else f"the loss is {loss}"
    raise not_finite(session, epoch, session.progress.step + 1, f"{what}, on samples {batch}")


def check_weights(session: Session) -> None:
    """Raise rather than save weights or batch-norm statistics that are not finite: the last update spoilt them."""
    for name, tensor in session.classifier.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            step = session.progress.step
            epoch = -(-step // session.task.steps_per_epoch)
            raise not_finite(session, epoch, step, f"{name} is not finite after the update")


def not_finite(session: Session, epoch: int, step: int, what: str) -> NonFiniteLossError:
    """The error that says where training stopped, why, and what to do."""
    good = last_checkpoint(session.task.checkpoints)
    return NonFiniteLossError(
        f"training stops in epoch {epoch} at step {step}: {what}; last good checkpoint: {good or 'none yet'}; lower "
        "optimiser.backbone_lr and optimiser.head_lr, set optimiser.clip_norm, or use precision fp32"
    )
