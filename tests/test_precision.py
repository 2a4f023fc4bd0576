"""In which low precision a machine searches: only where its instructions compute it."""

import pytest
import torch

from temper.core import precision


@pytest.mark.parametrize(
    ("capability", "instructions", "expected"),
    [
        ("AVX512", {"avx512_bf16"}, torch.bfloat16),
        ("AVX512", {"amx_tile", "avx512_bf16"}, torch.bfloat16),
        ("AVX512", {"amx_tile", "amx_fp16", "avx512_bf16"}, torch.float16),
        ("AVX512", set(), None),
        # torch was told to leave those instructions out: it would emulate them, at a fifth of the speed.
        ("AVX2", {"amx_tile", "amx_fp16", "avx512_bf16"}, None),
        ("AVX2", set(), None),
        ("DEFAULT", {"avx512_bf16"}, None),
    ],
)
def test_low_precision_is_for_cpus_that_have_and_may_use_it(monkeypatch, capability, instructions, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    for name in ("amx_tile", "amx_fp16", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, f"_is_{name}_supported", lambda name=name: name in instructions)
    assert precision.half("cpu") == expected
    assert precision.computes_bf16("cpu") == (expected is not None)
    assert precision.half("cuda") == torch.float16
