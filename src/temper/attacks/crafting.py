"""The model as attacks see it: eval mode, no parameter gradients, batch norms folded into convolutions."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from temper.models.expectation import once
from temper.models.heads import modes_of

Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


@contextmanager
def crafting(model: nn.Module, pairs: list[Pair] | None = None) -> Iterator[nn.Module]:
    """Lend ``model`` to an attack and give it back as it was.

    Inside, every module is in eval mode, no parameter requires a gradient (so a backward pass computes the input's
    gradient only), and the batch norms of ``pairs`` are folded into the convolutions before them, which in eval
    mode is the same function and saves their forward and backward passes. Afterwards modes, flags and parameters
    are what they were; no ``.grad`` is touched.

    Args:
        model: any module.
        pairs: what :func:`foldable` found for this model; none are folded without it.
    """
    modes = modes_of(model)
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for module, _ in modes:
            module.training = False
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        with folded(fold(pairs or [])):
            yield model
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@dataclass(frozen=True)
class Fold:
    """A convolution with this weight and bias for its own; they also do the work of the batch norm after it, if any."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None
    weight: nn.Parameter
    bias: nn.Parameter | None


def fold(pairs: list[Pair], layout: torch.memory_format = torch.preserve_format) -> list[Fold]:
    """Weights, laid out so, that fold each batch norm, as its statistics are now, into its convolution."""
    folds = []
    for conv, norm in pairs:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        folds.append(Fold(conv, norm, *_frozen(weight, bias, layout)))
    return folds


@torch.no_grad()
def lay_out(model: nn.Module, pairs: list[Pair], example: Tensor) -> list[Fold]:
    """The weights of every convolution as a long search wants them: batch norms folded in, and channels-last (in
    another layout each pass would turn them round), unless the model reshapes with ``view``, which refuses that.

    Args:
        model: any module.
        pairs: what :func:`foldable` found for it.
        example: images as the search will ask about, float [N, C, H, W].
    """
    done = {conv for conv, _ in pairs}
    plain = [m for m in model.modules() if type(m) is nn.Conv2d and "weight" in m._parameters and m not in done]
    layout = torch.channels_last
    folds = fold(pairs, layout) + [Fold(conv, None, *_frozen(conv.weight, conv.bias, layout)) for conv in plain]
    try:
        with crafting(model), folded(folds):
            model(example)
    except RuntimeError:  # if something else is wrong with the model, the next pass will say so
        return fold(pairs)
    return folds


def _frozen(
    weight: Tensor, bias: Tensor | None, layout: torch.memory_format
) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Weight and bias as parameters of their own."""
    frozen = nn.Parameter(weight.detach().to(memory_format=layout), requires_grad=False)
    return frozen, None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)


@contextmanager
def folded(folds: list[Fold]) -> Iterator[None]:
    """Put folded weights in place of the convolutions' own, and take them out again."""
    own = [(each.conv.weight, each.conv.bias) for each in folds]
    try:
        for each in folds:
            each.conv.weight, each.conv.bias = each.weight, each.bias
            if each.norm is not None:  # an instance attribute hides the class's forward until it is deleted
                each.norm.forward = _after_norm(each.norm)  # type: ignore[method-assign, assignment]
        yield
    finally:
        for each, (weight, bias) in zip(folds, own, strict=True):
            each.conv.weight, each.conv.bias = weight, bias
            if each.norm is not None:
                each.norm.__dict__.pop("forward", None)


def _after_norm(norm: nn.BatchNorm2d) -> Callable[[Tensor], Tensor]:
    """What a batch-norm layer still does once its scale and shift are folded away: timm's also activates."""

    def forward(x: Tensor) -> Tensor:
        act: Any = norm.act if _named(norm, "BatchNormAct2d") else nn.Identity()
        return act(x)

    return forward


def _named(module: nn.Module, *names: str) -> bool:
    """Whether a module is one of timm's layers of these names, told without the seconds that importing timm takes."""
    return type(module).__name__ in names


@torch.no_grad()
def foldable(model: nn.Module, example: Tensor) -> list[Pair]:
    """Pairs of a convolution and the batch norm that alone consumes its output.

    One forward pass in eval mode records which tensor each module takes and gives. What hooks cannot see (an
    output that is also used elsewhere) is settled by trying: unless the folded model gives the same logits on the
    example, nothing is folded.

    Args:
        model: any module.
        example: float [N, C, H, W] in [0, 1]; a few images or noise.
    """
    produced: dict[int, tuple[Tensor, int, nn.Conv2d]] = {}
    pairs: list[Pair] = []
    calls: dict[nn.Module, int] = {}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            # The tensor is kept so that its id stays its own while the pass runs, and its version because an
            # activation that works in place gives back the same tensor.
            produced[id(output)] = (output, output._version, module)
        elif id(inputs[0]) in produced:
            _, version, conv = produced[id(inputs[0])]
            if inputs[0]._version == version:
                pairs.append((conv, module))  # type: ignore[arg-type]

    kinds = {nn.Conv2d, nn.BatchNorm2d}
    # Subclasses may compute something else (weight standardisation, other padding), so types are matched exactly,
    # except that timm's convolution with TensorFlow padding changes the padding alone.
    modules = [m for m in model.modules() if type(m) in kinds or _named(m, "BatchNormAct2d", "Conv2dSame")]
    asked = once(model)
    with ExitStack() as hooks, crafting(model):
        for module in modules:
            hooks.callback(module.register_forward_hook(record).remove)
        plain = asked(example)
    pairs = [
        (conv, norm)
        for conv, norm in pairs
        if calls[conv] == calls[norm] == 1 and norm.track_running_stats and norm.affine
    ]
    with crafting(model, pairs):
        folded = asked(example)
    return pairs if torch.allclose(plain, folded, rtol=1e-3, atol=1e-3 * float(plain.abs().max())) else []
