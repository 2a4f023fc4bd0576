"""The head: the last linear layer of a network, found and replaced."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from temper.errors import ModelError
from temper.models.outputs import Form, as_logits, main_output
from temper.text import first_line

# What networks raise when an input's shape does not suit them.
SHAPE_REFUSALS = (AssertionError, IndexError, RuntimeError, ValueError)


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
        outputs = output_of(network, example)[0].numel()
    finally:
        for hook in hooks:
            hook.remove()
    wide_enough = [name for name in ran if outputs_of(network.get_submodule(name)) == outputs]
    return tuple(wide_enough[-1:])


def output_of(network: nn.Module, example: Tensor) -> Tensor:
    """Main output of the network in eval mode, without gradients; its mode is left as it was."""
    with evaluating(network), torch.no_grad():
        output: Tensor = main_output(network(example), training=False)
    return output


def takes(network: nn.Module, images: Tensor) -> bool:
    """Whether a network takes images of this shape, in eval mode."""
    try:
        output_of(network, images.clone())  # it may write into them
    except SHAPE_REFUSALS:
        return False
    return True


def check_takes_images_alone(network: nn.Module, name: str) -> None:
    """Raise ModelError where a network's forward pass asks for more than images."""
    try:
        asked = [*inspect.signature(network.forward).parameters.values()]
    except (TypeError, ValueError):  # compiled graphs have none to look at
        return
    needed = [
        each.name
        for each in asked
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if len(needed) > 1:
        raise ModelError(
            f"{name}: asks for {', '.join(needed)}, and Temper gives images alone: models that texts or other inputs"
            " condition are out of scope; fix those inputs in a module:factory of your own that takes images"
        )


def check_one_by_one(network: nn.Module, images: Tensor, form: Form, name: str) -> None:
    """Raise unless a network that takes several images can be asked about one of them alone, in eval mode.

    Args:
        network: module from float NCHW images to its output.
        images: that it takes, float [N, C, H, W].
        form: how its output is to be read.
        name: what to call it.

    Raises:
        ModelError: it refuses one image (batch norms without running statistics, a fixed batch), or forgets the batch.
    """
    fix = (
        "every flip is checked alone: make it for batches of any size, batch norms with running statistics in eval mode"
    )
    try:
        with evaluating(network), torch.no_grad():
            logits = as_logits(network(images[:1].clone()), form)  # it may write into them
    except SHAPE_REFUSALS as error:
        raise ModelError(f"{name}: does not take one image alone ({first_line(error)}); {fix}") from error
    if isinstance(logits, Tensor) and (logits.dim() != 2 or len(logits) != 1):
        raise ModelError(
            f"{name}: gives {list(logits.shape)} for one image alone (a squeeze?), not [1, classes]; {fix}"
        )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and afterwards in the mode it was in."""
    modes = modes_of(network)
    set_training(network, False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def modes_of(network: nn.Module) -> list[tuple[nn.Module, bool]]:
    """Every module that has a mode, and whether it is train mode; frozen TorchScript has none."""
    return [(module, module.training) for module in network.modules() if hasattr(module, "training")]


def set_training(network: nn.Module, training: bool) -> None:
    """Put a network into train or eval mode, also one whose graph was exported in one mode and refuses to be asked."""
    try:
        network.train(training)
    except NotImplementedError:
        for module, _ in modes_of(network):
            module.training = training


def replace_head(network: nn.Module, names: str | Sequence[str], num_classes: int) -> None:
    """Put a fresh linear layer with ``num_classes`` outputs in the place of each named one.

    The layer keeps its kind (linear or 1x1 convolution), inputs, bias, device and dtype; it is initialised as
    torch does, from torch's global random stream.

    Raises:
        ModelError: there is no name, or it names another kind of layer, or one that is more than its weight and bias.
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


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is nothing but its weight and bias, so that a fresh linear layer can stand in its place.

    Not plain are subclasses that compute something else (a scaled or cosine head), and weights that are made of
    others (weight norm, spectral norm).
    """
    return layer.state_dict().keys() <= {"weight", "bias"} and computes_linear(layer)


@torch.no_grad()
def computes_linear(layer: nn.Module) -> bool:
    """Whether a layer gives weight times input plus bias; a subclass of nn.Linear may give anything."""
    if not is_linear(layer):
        return False
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    inputs = torch.linspace(-1, 1, 2 * weight.shape[1], dtype=weight.dtype, device=weight.device).sin()
    x = inputs.reshape(2, weight.shape[1], *weight.shape[2:])
    compute: Callable[..., Tensor] = nn.functional.conv2d if isinstance(layer, nn.Conv2d) else nn.functional.linear
    with evaluating(layer):
        return torch.allclose(layer(x), compute(x, weight, bias), rtol=1e-3, atol=1e-5, equal_nan=True)


def _fresh(layer: nn.Module, num_classes: int) -> nn.Module:
    if not is_linear(layer):
        raise ModelError(f"head {type(layer).__name__}: must be nn.Linear or a 1x1 nn.Conv2d to be replaced")
    if not is_plain(layer):
        raise ModelError(
            f"head {type(layer).__name__}: is more than a linear layer's weight and bias, so no fresh one for"
            f" {num_classes} classes can take its place; let the factory take num_classes and build it"
        )
    bias = layer.bias is not None
    fresh: nn.Module
    if isinstance(layer, nn.Conv2d):
        fresh = nn.Conv2d(layer.in_channels, num_classes, 1, bias=bias)
    else:
        assert isinstance(layer, nn.Linear)
        fresh = nn.Linear(layer.in_features, num_classes, bias=bias)
    return fresh.to(layer.weight.device, layer.weight.dtype).train(layer.training)
