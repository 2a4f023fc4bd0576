"""TWINS: attacked images through two wings of one network, which differ in their batch norms."""

from torch import Tensor

from temper.attacks.attack import Model
from temper.training.objectives.objective import Craft, Objective, ObjectiveSettings, Result, attacked, smoothed


def halves(batch: Tensor) -> tuple[Tensor, Tensor]:
    """What goes through the frozen wing, and what through the adaptive one; of an odd number that has one more."""
    frozen, adaptive = batch.tensor_split([len(batch) // 2])
    return frozen, adaptive


def twins(settings: ObjectiveSettings) -> Objective:
    """beta CE(first half, through the frozen wing) + CE(second half, through the adaptive one), each the mean over its
    half, all images attacked (arXiv:2303.11135; the loss is that of the authors' ``train-TWINS-AT.py``, where beta is
    ``lambda_twins``: 1 in their script for CIFAR-10, 0.4 in that for Caltech-256). The attack climbs cross-entropy.

    The model sends the first half through its frozen wing; see :mod:`temper.training.wings`. Among an odd number of
    images each counts as among an even one.
    """

    def objective(model: Model, x: Tensor, y: Tensor, attack: Craft | None) -> Result:
        logits = model(attacked(x, y, attack))
        frozen, adaptive = (
            2 * len(labels) / len(y) * smoothed(own, labels, settings).loss
            for own, labels in zip(halves(logits), halves(y), strict=True)
        )
        return Result(settings.beta * frozen + adaptive, logits)

    return objective
