"""Low precision where the hardware computes it, true float32 where a number is claimed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from temper.errors import ModelError


def computes_bf16(device: str) -> bool:
    """Whether this machine's ``cuda`` or ``cpu`` has bfloat16 instructions; without them bf16 is emulated, slowly."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def half(device: str) -> torch.dtype | None:
    """The low precision to search in on this machine's ``cuda`` or ``cpu``, or None.

    float16 has 3 digits more than bfloat16, and is as fast where it has instructions of its own: on GPUs, and on CPUs
    with AMX-FP16.
    """
    if device == "cuda" or (device == "cpu" and torch.cpu._is_amx_fp16_supported()):
        return torch.float16
    return torch.bfloat16 if computes_bf16(device) else None


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
