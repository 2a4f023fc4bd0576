"""Features: what the last linear layer of a network is given, beside the logits that it makes of them."""

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from temper.core.precision import full_precision
from temper.errors import ModelError
from temper.models.classifier import Classifier
from temper.models.heads import evaluating, find_head
from temper.models.outputs import as_logits


def features_and_logits(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The features of images, h(x) of arXiv:2406.18451 (section 2), and their logits, from one pass in float32.

    Where a network averages the outputs of several heads (distilled transformers), their inputs stand side by side,
    for the logits depend on all of them. The pass runs in eval mode, with gradients where torch's are enabled.
    The model is left as it was.

    Args:
        model: a Classifier, or any module whose logits come from a linear layer (or a 1x1 convolution used as one).
        images: float [N, C, H, W] in [0, 1], on the model's device.

    Returns:
        Features float [N, M] and logits float [N, K].

    Raises:
        ModelError: the model does not end in a linear layer, or that layer does not see one vector per image.
    """
    root, names = _heads(model, images)
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    made: list[Tensor] = []

    def record(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[name].append(inputs[0])
        made.append(output.detach().flatten(1))

    with ExitStack() as hooks, full_precision(images.device), evaluating(model):
        for name in names:
            hook = root.get_submodule(name).register_forward_hook(
                lambda _, x, output, name=name: record(name, x, output)
            )
            hooks.callback(hook.remove)
        logits: Tensor = model(images)
    features = torch.cat([_vectors(model, name, seen[name], len(images)) for name in names], 1)
    own = torch.stack(made).mean(0)
    if isinstance(model, Classifier) and model.form != "logits":
        own = as_logits(own, "logit")  # a sigmoid may come after the head, and its logits are recovered
    # Logits that are no numbers are refused where they are used.
    tolerance = 1e-3 * float(own.nan_to_num().abs().max())
    if own.shape != logits.shape or not torch.allclose(own, logits, rtol=1e-3, atol=tolerance, equal_nan=True):
        raise ModelError(
            f"{type(root).__name__}: does not end in a linear layer (something follows {names[-1]}), so its features do"
            " not make its logits; let it end in nn.Linear"
        )
    return features, logits


def _heads(model: nn.Module, images: Tensor) -> tuple[nn.Module, tuple[str, ...]]:
    """The module that holds the heads, and their names in it."""
    root, names = (
        (model.network, model.head_names) if isinstance(model, Classifier) else (model, find_head(model, images[:1]))
    )
    if not names:
        raise ModelError(
            f"{type(root).__name__}: does not end in a linear layer, so it has no features; let it end in nn.Linear"
        )
    return root, names


def _vectors(model: nn.Module, name: str, inputs: list[Tensor], count: int) -> Tensor:
    """What a head was given, [N, M]; a 1x1 convolution is given [N, M, 1, 1]."""
    shapes = [tuple(each.shape) for each in inputs]
    if len(inputs) != 1 or inputs[0].dim() < 2 or len(inputs[0]) != count or shapes[0][2:] not in ((), (1, 1)):
        raise ModelError(
            f"{type(model).__name__}: its last linear layer {name} was given {shapes or 'nothing'} for {count} images,"
            f" not one vector per image; let the network end in nn.Linear on [N, M]"
        )
    return inputs[0].flatten(1).clone()
