"""Random numbers that belong to a sample, not to a batch.

Each sample has its own stream, named by a 64-bit key made from (seed, sample id, what it is for). The numbers are
a counter-based hash (SplitMix64: Steele, Lea and Flood, OOPSLA 2014) of key and position, so they are the same on
every device, in every batch and in any order, and no global generator is touched. Where an image has no id, its values
name it.
"""

import math
import zlib

import torch
from torch import Tensor

# SplitMix64's increment and multipliers, written as signed 64-bit integers because torch has no uint64 arithmetic.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _signed(number: int) -> int:
    """The signed 64-bit integer with the same last 64 bits; torch refuses larger numbers instead of wrapping."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def _shift_right(bits: Tensor, by: int) -> Tensor:
    """Logical right shift; torch's own shift of int64 copies the sign bit."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shift_right(bits, 30)) * _MIX_1
    bits = (bits ^ _shift_right(bits, 27)) * _MIX_2
    return bits ^ _shift_right(bits, 31)


def sample_keys(seed: int, ids: Tensor, *purpose: str | int | Tensor) -> Tensor:
    """One stream key per sample.

    Args:
        seed: the run's seed.
        ids: int64 [N], the samples' ids.
        purpose: names and numbers that tell streams of one sample apart (attack, norm, epoch); int64 [N] where each
            sample has its own number.

    Returns:
        int64 [N].
    """
    keys = _mix(ids.to(torch.int64) + _signed((seed + 1) * _GOLDEN))
    for word in purpose:
        number = zlib.crc32(word.encode()) if isinstance(word, str) else word
        keys = _mix(keys + _GOLDEN + (number if isinstance(number, Tensor) else _signed(number)))
    return keys


def content_keys(images: Tensor) -> Tensor:
    """A key per image that its values name, in whatever layout they lie: float32 [N, ...] to int64 [N]."""
    bits = (images.detach().flatten(1) + 0.0).contiguous().view(torch.int32).to(torch.int64)  # -0 is 0
    position = torch.arange(1, bits.shape[1] + 1, device=bits.device, dtype=torch.int64)
    return _mix(_mix(bits + position * _GOLDEN).sum(1))


def uniform(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers in [0, 1): float32 [N, *shape], row i from the stream of ``keys[i]`` (int64 [N])."""
    position = torch.arange(1, math.prod(shape) + 1, device=keys.device, dtype=torch.int64)
    bits = _mix(keys[:, None] + position * _GOLDEN)
    return (_shift_right(bits, 40).to(torch.float32) * 2.0**-24).view(len(keys), *shape)


def normal(keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers (Box and Muller, 1958): float32 [N, *shape], row i from the stream of ``keys[i]``."""
    radius = torch.sqrt(-2 * torch.log1p(-uniform(_mix(keys + 1), shape)))
    return radius * torch.cos(2 * math.pi * uniform(_mix(keys + 2), shape))


def number(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for a library generator, derived from the run's seed and what it is for."""
    key = sample_keys(seed, torch.zeros(1, dtype=torch.int64), *purpose)
    return int(_shift_right(key, 1).item())
