"""What networks return, made logits [N, K]: one logit or probability per image, named outputs, auxiliary heads."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

Form = Literal["logits", "logit", "probability"]
"""What a network gives for an image: a logit per class, one logit, or one probability, those two of class 1."""

# Steps of the autograd graph that only arrange numbers, and those that squash a logit into a probability.
_ARRANGING = ("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Select", "Slice", "Clone", "Alias")
_SQUASHING = ("Sigmoid", "Hardsigmoid")
# A probability of 1 in float32 is a logit of at least 16.6.
_SMALLEST, _LARGEST = 1e-30, 1 - 2**-24


def main_output(output: object, *, training: bool) -> Any:
    """The logits among several outputs: those so named, else the only ones of the shape [N, K].

    In train mode the first will do: auxiliary heads come after it. What is one output already, or cannot be told, is
    returned as it is.
    """
    if isinstance(output, Mapping):
        return output.get("logits", output)
    if hasattr(output, "logits"):
        return output.logits
    if not isinstance(output, tuple | list) or not output:
        return output
    likely = [each for each in output if _like_logits(each)]
    if len(likely) == 1 or (training and likely):
        return likely[0]
    return output[0] if training or len(output) == 1 else output


def _like_logits(output: object) -> bool:
    return isinstance(output, Tensor) and output.is_floating_point() and output.dim() == 2 and output.shape[1] > 1


def as_logits(output: object, form: Form, *, training: bool = False) -> Any:
    """Logits [N, K] of what a network returned; one output z per image becomes the logits [0, z] of two classes.

    The softmax over [0, z] is the sigmoid of z: class 1 is as likely as the network says. Anything that is no tensor
    is returned as it is, for the caller to refuse.
    """
    output = main_output(output, training=training)
    if form == "logits" or not isinstance(output, Tensor):
        return output
    logit = output.reshape(-1, 1)
    if form == "probability":
        logit = torch.logit(logit.float().clamp(_SMALLEST, _LARGEST))
    return torch.cat([torch.zeros_like(logit), logit], 1)


def form_of(output: Tensor) -> Form | None:
    """How to read a network's output for a batch of at least 2 images; None where it is no classifier's.

    Args:
        output: what the network gave, with its autograd graph where there is one: that shows a sigmoid at the end.
            Without one, numbers in [0, 1] are taken to be probabilities.
    """
    if not output.is_floating_point():
        return None
    if output.dim() == 2 and output.shape[1] > 1:
        return "logits"
    if output.dim() not in (1, 2) or output.numel() != len(output):
        return None
    squashed = _ends_in_sigmoid(output)
    if squashed is None:
        squashed = bool(((output >= 0) & (output <= 1)).all())
    return "probability" if squashed else "logit"


def _ends_in_sigmoid(output: Tensor) -> bool | None:
    """Whether a sigmoid made an output; None where autograd does not show it (no graph, or a compiled one)."""
    step = output.grad_fn
    while step is not None:
        operation = step.name().partition("Backward")
        if operation[0] in _SQUASHING:
            return True
        if not operation[2].isdigit():  # not one of torch's own operations
            return None
        if operation[0] not in _ARRANGING:
            return False
        step = step.next_functions[0][0]
    return None
