"""Adversarial weight perturbation (AWP: Wu, Xia and Wang 2020, arXiv:2004.05884): updates from weights that were moved
up the adversarial loss, so that its landscape around the weights that are kept is flat."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from temper.training.crafter import Crafter
from temper.training.sections.learning import OptimiserConfig

TINY = 1e-20  # beside a gradient's norm, as the authors have it: where it is 0, nothing moves


def gamma_at(config: OptimiserConfig, eps: float, share: float) -> float:
    """How far weights are moved when so large a share of the training is done: not at all in the warm-up, nor where no
    image is attacked."""
    if config.awp is None or config.awp_warmup is None or eps == 0 or share < config.awp_warmup:
        return 0.0
    return config.awp


@contextmanager
def perturbed(model: nn.Module, gamma: float) -> Iterator[None]:
    """Move weights along the gradient that they hold, layer by layer by ``gamma`` times their norm (eq. 8 to 10, one
    step: the authors' own); inside, no gradient is left. Afterwards the weights are what they were, bit for bit.

    What moves are weights of layers (of two dimensions and more); biases and norms stay, as in the authors' code.
    """
    moved = [
        (weight, weight.grad, weight.detach().clone())
        for name, weight in model.named_parameters()
        if weight.grad is not None and weight.dim() > 1 and "weight" in name
    ]
    with torch.no_grad():
        for weight, gradient, own in moved:
            weight.addcmul_(gradient, gamma * own.norm() / (gradient.norm() + TINY))
    model.zero_grad(set_to_none=True)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, _, own in moved:
                weight.copy_(own)


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Give the model's buffers back afterwards as they were: batch norms see the batch of an update once."""
    own = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in own:
            buffer.copy_(value)


def at_perturbed_weights(gradient: Callable[[], Tensor], model: nn.Module, crafter: Crafter, gamma: float) -> Tensor:
    """Leave in the model the gradient of a batch at weights that were moved up the batch's loss.

    Args:
        gradient: adds up the gradient of the batch and returns its sums; called twice, once to find where to move. The
            images are attacked the first time alone.
        model: in train mode, without gradients; its weights are the same afterwards.
        crafter: what ``gradient`` crafts with.
        gamma: the largest move of a layer's weights, as a share of their norm.

    Returns:
        What ``gradient`` says at the perturbed weights.
    """
    with crafter.remembering() as rewind:
        with buffers_kept(model):
            gradient()
        rewind()
        with perturbed(model, gamma):
            return gradient()
