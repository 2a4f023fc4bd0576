"""Low precision where the hardware computes it, true float32 where a number is claimed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from temper.errors import ModelError


def computes_bf16(device: str) -> bool:
    """Whether this machine's ``cuda`` or ``cpu`` has bfloat16 instructions; without them bf16 is emulated, slowly.

    A CPU has none where the instructions that torch may use are limited to AVX2 (ATEN_CPU_CAPABILITY).
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return bool(has) and "AVX512" in torch.backends.cpu.get_cpu_capability()


def half(device: str) -> torch.dtype | None:
    """The low precision to search in on this machine's ``cuda`` or ``cpu``, or None.

    float16 has 3 digits more than bfloat16, and is as fast where it has instructions of its own: on GPUs, and on CPUs
    with AMX-FP16.
    """
    if device == "cuda":
        return torch.float16
    if not computes_bf16(device):
        return None
    return torch.float16 if torch.cpu._is_amx_fp16_supported() else torch.bfloat16


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in true float32: no autocast, and no TF32 on GPUs that would round inputs to 10 bits."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


def check_precision(model: nn.Module, name: str = "the model") -> None:
    """Raise ModelError unless all weights are float32."""
    for place, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ModelError(
                f"{name}: its {place} is {parameter.dtype}; evidence needs full precision, which is float32 here: give"
                " model.float()"
            )


class _Results(TorchDispatchMode):
    """Notes the types of all floating-point tensors that operations give, below autocast and inside TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import its compiler, which takes seconds, to keep it away from this."""
        return False

    def __torch_dispatch__(
        self, operation: Callable[..., object], types: object, args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:  # fmt: skip
        given = operation(*args, **(kwargs or {}))
        self.types.update(t.dtype for t in tree_leaves(given) if isinstance(t, Tensor) and t.dtype.is_floating_point)
        return given


@torch.no_grad()
def lower_inside(model: nn.Module, x: Tensor) -> list[str]:
    """Types below float32 in which a model computes of its own accord when it is asked at full precision, by name.

    An autocast inside a model goes before the one around it, and casts go before both.

    Args:
        model: float [N, C, H, W] in [0, 1] to logits.
        x: a few such images.
    """
    with full_precision(x.device), _Results() as results:
        model(x)
    return sorted(str(each).removeprefix("torch.") for each in results.types if each.itemsize < 4)
