"""FARE: embeddings of attacked images are kept where the original's of the clean ones were."""

import torch
from torch import Tensor
from torch.nn import functional

from temper.attacks.attack import Model
from temper.attacks.losses import Loss
from temper.training.objectives.objective import Craft, Objective, ObjectiveSettings, Result, largest, mean


def fare(settings: ObjectiveSettings) -> Objective:
    """Squared L2 distance between the embedding of the attacked image and the one that the tower gave the clean image
    before it was trained (Schlarmann et al. 2024, arXiv:2402.12336), summed over the dimensions; embeddings are not
    normalised, the attack climbs the same distance, and labels are not read.

    The model takes images to embeddings.
    """

    def objective(model: Model, x: Tensor, y: Tensor, attack: Craft | None) -> Result:
        assert settings.original is not None
        assert settings.head is not None
        with torch.no_grad():
            distance = distance_from(settings.original(x))
        embeddings = model(x if attack is None else attack(x, largest(y), distance))
        with torch.no_grad():
            logits = settings.head(embeddings)
        return Result(mean(distance(embeddings, y), settings.weights(y)), logits)

    return objective


def distance_from(originals: Tensor) -> Loss:
    """Squared L2 distance per sample [N] from embeddings [N, D], which are held constant."""
    originals = originals.detach().float()

    def loss(embeddings: Tensor, labels: Tensor) -> Tensor:
        return functional.mse_loss(embeddings.float(), originals, reduction="none").sum(1)

    return loss
