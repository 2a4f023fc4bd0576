"""AdamW's parameter groups, and the learning rate over a phase."""

import math

import torch

from temper.models import Classifier
from temper.training.sections.learning import OptimiserConfig


def make_optimiser(classifier: Classifier, config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that require a gradient: backbone and head each with their own learning rate and
    weight decay, and no decay on biases and norms (parameters of at most one dimension)."""
    groups = []
    for parameters, lr, decay in (
        (classifier.backbone_parameters(), config.backbone_lr, config.backbone_weight_decay),
        (classifier.head_parameters(), config.head_lr, config.head_weight_decay),
    ):
        trained = [parameter for _, parameter in parameters if parameter.requires_grad]
        for group, group_decay in (
            ([parameter for parameter in trained if parameter.dim() > 1], decay),
            ([parameter for parameter in trained if parameter.dim() <= 1], 0.0),
        ):
            if group:
                groups.append({"params": group, "lr": lr, "peak_lr": lr, "weight_decay": group_decay})
    return torch.optim.AdamW(groups, betas=config.betas)


def lr_share(step: int, steps: int, config: OptimiserConfig) -> float:
    """Share of the peak learning rate at ``step`` (from 0) of ``steps``: linear warm-up, then cosine or constant."""
    warmup = round(config.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.lr_schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def set_lr(optimiser: torch.optim.Optimizer, share: float) -> None:
    """Set each group's learning rate to ``share`` of its peak."""
    for group in optimiser.param_groups:
        group["lr"] = share * group["peak_lr"]
