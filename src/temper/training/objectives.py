"""What a fine-tuning step minimises: functions of (model, x, y, attack) -> scalar loss.

``model`` maps images float [N, C, H, W] in [0, 1] to logits [N, K] and is in train mode; ``attack(x, y, loss)``
returns images of the shape of ``x`` that climb ``loss`` within the epsilon in force, or is None while that is 0:
then nothing is attacked, and every objective below is what remains of it for x_adv = x.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from temper.attacks.losses import Loss, cross_entropy, kl_divergence
from temper.training.config import ObjectiveName

Model = Callable[[Tensor], Tensor]
Attack = Callable[[Tensor, Tensor, Loss], Tensor]


@dataclass(frozen=True)
class Result:
    """What one objective computed: the scalar loss to minimise and the logits [N, K] it judged training by."""

    loss: Tensor
    logits: Tensor


Objective = Callable[[Model, Tensor, Tensor, Attack | None], Result]


def standard(label_smoothing: float = 0.0) -> Objective:
    """Cross-entropy on clean images, whatever the epsilon."""

    def objective(model: Model, x: Tensor, y: Tensor, attack: Attack | None) -> Result:
        return _cross_entropy(model(x), y, label_smoothing)

    return objective


def adversarial_training(label_smoothing: float = 0.0) -> Objective:
    """Cross-entropy on attacked images only (Madry et al. 2018, arXiv:1706.06083, eq. 2.1)."""

    def objective(model: Model, x: Tensor, y: Tensor, attack: Attack | None) -> Result:
        return _cross_entropy(model(attack(x, y, cross_entropy) if attack else x), y, label_smoothing)

    return objective


def trades(craft_logits: Model, beta: float = 6.0, label_smoothing: float = 0.0) -> Objective:
    """CE(clean) + beta * KL(clean || attacked), the attack climbing the same KL (arXiv:1901.08573, eq. 5).

    Args:
        craft_logits: the model as attacks see it, for the clean logits that the attack moves away from.
        beta: weight of the KL term (1 / lambda in the paper; its experiments use 6).
    """

    def objective(model: Model, x: Tensor, y: Tensor, attack: Attack | None) -> Result:
        if attack is None:
            return _cross_entropy(model(x), y, label_smoothing)
        with torch.no_grad():
            clean = craft_logits(x)
        return _trades(model, x, attack(x, y, kl_divergence(clean)), y, beta, label_smoothing)

    return objective


def trades_guide(beta: float = 1.0, label_smoothing: float = 0.0) -> Objective:
    """TRADES as in arXiv:2508.14079: the inner attack climbs cross-entropy with the true label, beta is 1, and
    gradients flow through the clean branch of the KL too."""

    def objective(model: Model, x: Tensor, y: Tensor, attack: Attack | None) -> Result:
        if attack is None:
            return _cross_entropy(model(x), y, label_smoothing)
        return _trades(model, x, attack(x, y, cross_entropy), y, beta, label_smoothing)

    return objective


def mart(beta: float = 5.0) -> Objective:
    """Misclassification-aware adversarial training (Wang et al. 2020, "Improving Adversarial Robustness Requires
    Revisiting Misclassified Examples", eq. 11): boosted CE(attacked) + beta * KL(clean || attacked) * (1 - p_y)."""

    def objective(model: Model, x: Tensor, y: Tensor, attack: Attack | None) -> Result:
        if attack is None:
            logits = model(x)
            return Result(_boosted_cross_entropy(logits, y).mean(), logits)
        clean_logits, logits = _both(model, x, attack(x, y, cross_entropy))
        divergence = _divergence(clean_logits, logits)
        unsure = 1 - clean_logits.float().softmax(1).gather(1, y[:, None]).squeeze(1)
        return Result((_boosted_cross_entropy(logits, y) + beta * unsure * divergence).mean(), logits)

    return objective


def _cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float) -> Result:
    return Result(functional.cross_entropy(logits.float(), y, label_smoothing=label_smoothing), logits)


def _trades(model: Model, x: Tensor, x_adv: Tensor, y: Tensor, beta: float, label_smoothing: float) -> Result:
    clean_logits, logits = _both(model, x, x_adv)
    clean = _cross_entropy(clean_logits, y, label_smoothing).loss
    return Result(clean + beta * _divergence(clean_logits, logits).mean(), logits)


def _both(model: Model, x: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of clean and attacked images from one pass, so that batch norm sees both and DDP reduces once."""
    clean, attacked = model(torch.cat([x, x_adv])).chunk(2)
    return clean, attacked


def _divergence(clean_logits: Tensor, logits: Tensor) -> Tensor:
    """KL(clean || attacked) per sample [N]."""
    clean = functional.log_softmax(clean_logits.float(), 1)
    attacked = functional.log_softmax(logits.float(), 1)
    return functional.kl_div(attacked, clean, reduction="none", log_target=True).sum(1)


def _boosted_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """-log p_y - log(1 - max_{k != y} p_k) per sample [N] (MART, eq. 8), kept finite as the latter nears 0."""
    probabilities = logits.float().softmax(1)
    others = probabilities.scatter(1, y[:, None], 0).amax(1)
    return cross_entropy(logits, y) - torch.log1p(-others.clamp_max(1 - 1e-6))


def make(name: ObjectiveName, craft_logits: Model, beta: float | None, label_smoothing: float) -> Objective:
    """The objective of a configuration, which has checked the options; ``beta`` None takes the objective's own."""
    weight = {} if beta is None else {"beta": beta}
    match name:
        case "standard":
            return standard(label_smoothing)
        case "at":
            return adversarial_training(label_smoothing)
        case "trades":
            return trades(craft_logits, label_smoothing=label_smoothing, **weight)
        case "trades-guide":
            return trades_guide(label_smoothing=label_smoothing, **weight)
        case "mart":
            return mart(**weight)
