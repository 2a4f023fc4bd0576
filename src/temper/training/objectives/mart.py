"""Misclassification-aware adversarial training."""

import torch
from torch import Tensor

from temper.attacks.attack import Model
from temper.attacks.losses import cross_entropy
from temper.training.objectives.objective import Craft, Objective, ObjectiveSettings, Result, both, divergence, mean


def mart(settings: ObjectiveSettings) -> Objective:
    """Misclassification-aware adversarial training (Wang et al. 2020, "Improving Adversarial Robustness Requires
    Revisiting Misclassified Examples", eq. 11): boosted CE(attacked) + beta * KL(clean || attacked) * (1 - p_y)."""

    def objective(model: Model, x: Tensor, y: Tensor, attack: Craft | None) -> Result:
        if attack is None:
            logits = model(x)
            return Result(mean(_boosted_cross_entropy(logits, y), settings.weights(y)), logits)
        clean_logits, logits = both(model, x, attack(x, y, cross_entropy))
        kl = divergence(clean_logits, logits)
        unsure = 1 - clean_logits.float().softmax(1).gather(1, y[:, None]).squeeze(1)
        losses = _boosted_cross_entropy(logits, y) + settings.beta * unsure * kl
        return Result(mean(losses, settings.weights(y)), logits)

    return objective


def _boosted_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log p_y - log(1 - max_{k != y} p_k) per sample [N] (MART, eq. 8), kept finite as the latter nears 0."""
    probabilities = logits.float().softmax(1)
    others = probabilities.scatter(1, y[:, None], 0).amax(1)
    return cross_entropy(logits, y) - torch.log1p(-others.clamp_max(1 - 1e-6))
