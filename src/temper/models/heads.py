"""The head: the last linear layer of a network, found and replaced."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from temper.errors import ModelError


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer: nn.Linear, or the 1x1 convolution that some networks use as one."""
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def outputs_of(layer: nn.Module) -> int:
    """Number of outputs of a linear layer."""
    return layer.out_channels if isinstance(layer, nn.Conv2d) else int(layer.out_features)  # type: ignore[arg-type]


def find_head(network: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Dotted names of the linear layers that give the logits; one, or several whose outputs are averaged.

    timm's own configuration names them. In any other network it is the linear layer with as many outputs as
    there are logits that runs last in a forward pass (definition order proves nothing).

    Args:
        network: module from float NCHW to logits [N, K]; it is run once, in eval mode.
        example: float NCHW input that the network accepts.

    Returns:
        The names; empty where the network does not end in a linear layer.
    """
    return configured_head(network) or _last_linear_run(network, example)


def configured_head(network: nn.Module) -> tuple[str, ...]:
    """Names of the linear layers that a timm network's own configuration calls its classifier; else empty."""
    names = (getattr(network, "pretrained_cfg", None) or {}).get("classifier") or ()
    names = (names,) if isinstance(names, str) else tuple(names)
    modules = dict(network.named_modules())
    return names if all(name in modules and is_linear(modules[name]) for name in names) else ()


def _last_linear_run(network: nn.Module, example: Tensor) -> tuple[str, ...]:
    ran: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, module in network.named_modules()
        if is_linear(module)
    ]
    try:
        num_classes = logits_of(network, example).shape[1]
    finally:
        for hook in hooks:
            hook.remove()
    wide_enough = [name for name in ran if outputs_of(network.get_submodule(name)) == num_classes]
    return tuple(wide_enough[-1:])


def logits_of(network: nn.Module, example: Tensor) -> Tensor:
    """Output of the network in eval mode, without gradients; its mode is left as it was."""
    with evaluating(network), torch.no_grad():
        output: Tensor = network(example)
    return output


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and afterwards in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def replace_head(network: nn.Module, names: str | Sequence[str], num_classes: int) -> None:
    """Put a fresh linear layer with ``num_classes`` outputs in the place of each named one.

    The layer keeps its kind (linear or 1x1 convolution), inputs, bias, device and dtype; it is initialised as
    torch does, from torch's global random stream.

    Raises:
        ModelError: there is no name, or it names another kind of layer.
    """
    if not names:
        raise ModelError(
            f"{type(network).__name__}: does not end in a linear layer, so its head cannot be replaced;"
            " let it end in nn.Linear"
        )
    for name in (names,) if isinstance(names, str) else names:
        network.set_submodule(name, _fresh(network.get_submodule(name), num_classes))
    if hasattr(network, "num_classes"):  # timm networks keep count
        network.num_classes = num_classes  # type: ignore[assignment]


def _fresh(layer: nn.Module, num_classes: int) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        fresh: nn.Module = nn.Conv2d(layer.in_channels, num_classes, 1, bias=layer.bias is not None)
    elif isinstance(layer, nn.Linear):
        fresh = nn.Linear(layer.in_features, num_classes, bias=layer.bias is not None)
    else:
        raise ModelError(f"head {type(layer).__name__}: must be nn.Linear or a 1x1 nn.Conv2d to be replaced")
    return fresh.to(layer.weight.device, layer.weight.dtype).train(layer.training)
