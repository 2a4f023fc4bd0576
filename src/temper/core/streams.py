"""The random numbers that a network draws, given from streams that belong to its images.

Inside :class:`Streams` an operation that would draw from torch's generators gets its numbers from a stream instead.
What lies along the batch, image by image, is each image's own: named by that image's key and by how many operations
drew before. So it does not depend on the other images, on their number or on their order. What has no such axis, as one
angle for a whole batch, is drawn once for the pass, from a stream that the images have no say in.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from temper.core import randomness
from temper.errors import ModelError

Given = Mapping[str, Any]  # the arguments of an operation, by name
Numbers = Callable[[Tensor, tuple[int, ...]], Tensor]


class Streams(TorchDispatchMode):
    """Inside, random operations are given numbers of these streams.

    Args:
        keys: int64 [B], of the images of the pass. Images are told apart along the leading axis if it has a multiple
            of B entries, where each image's lie together, else along the first axis of B. Axes of 1 do not lead.
        common: int64 [1], of what has no such axis.

    Attributes:
        drawn: how many operations drew so far; ``shared``: whether any for all images together.
        fixed: lengths of the axes that stand before the images' axis, and of all where there is none: for as many
            images, or a divisor of that, they would be taken for it.
    """

    def __init__(self, keys: Tensor, common: Tensor) -> None:
        super().__init__()
        self.keys, self.common = keys, common
        self.drawn, self.shared, self.fixed = 0, False, set[int]()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch would import its compiler, which takes seconds, to keep it away from this."""
        return False

    def __torch_dispatch__(
        self, operation: OpOverload, types: object, args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:  # fmt: skip
        given = _bound(operation, args, kwargs or {}) if draws(operation) else {}
        if not given or _without_chance(given):
            return operation(*args, **(kwargs or {}))
        name = operation._schema.name.removeprefix("aten::")
        if name not in DISTRIBUTIONS:
            known = ", ".join(sorted({each.strip("_") for each in DISTRIBUTIONS}))
            raise ModelError(
                f"the model draws random numbers by {name}, which is not among those that eot can give each image from"
                f" a stream of its own ({known})"
            )
        drawn = DISTRIBUTIONS[name](self, given)
        target: Tensor | None = given["self"] if name.endswith("_") else given.get("out")  # type: ignore[assignment]
        return drawn if target is None else target.copy_(drawn)

    def uniform(self, shape: Sequence[int], apart: int = 0) -> Tensor:
        """Uniform numbers in [0, 1), float32 of this shape, whose last ``apart`` axes are no images' however long."""
        return self._numbers(randomness.uniform, tuple(shape), apart)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, float32 of this shape."""
        return self._numbers(randomness.normal, tuple(shape), 0)

    def _numbers(self, numbers: Numbers, shape: tuple[int, ...], apart: int) -> Tensor:
        count = len(self.keys)
        axis = _images_axis(shape[: len(shape) - apart], count)
        keys = randomness.sample_keys(self.drawn, self.common if axis is None else self.keys)
        self.drawn += 1
        if axis is None:
            self.shared = True
            self.fixed.update(shape[: len(shape) - apart])
            return numbers(keys, shape)[0]
        before, after = set(shape[:axis]) - {1}, shape[axis + 1 :]
        self.fixed |= before
        if before:
            return numbers(keys, (*shape[:axis], *after)).movedim(0, axis)
        return numbers(keys, (shape[axis] // count, *after)).reshape(shape)


@cache
def draws(operation: OpOverload) -> bool:
    """Whether an operation may draw from a generator, as torch itself declares."""
    return torch.Tag.nondeterministic_seeded in operation.tags


@contextmanager
def library_numbers(seed: int) -> Iterator[Callable[[], bool]]:
    """Inside, Python's and NumPy's global generators begin at a seed; afterwards they are as they were. Gives what says
    whether any number was taken from them since."""
    before = _library_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - models draw from it
    begun = _library_state()
    try:
        yield lambda: repr(_library_state()) != repr(begun)
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def _library_state() -> tuple[Any, Any]:
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002
    return random.getstate(), numpy_state


def _bound(operation: OpOverload, args: Sequence[object], kwargs: Mapping[str, object]) -> dict[str, object]:
    """All arguments of an operation by their names, defaults too."""
    arguments = operation._schema.arguments
    defaults = {each.name: each.default_value for each in arguments if each.has_default_value()}
    return {**defaults, **dict(zip([each.name for each in arguments], args, strict=False)), **kwargs}


def _without_chance(given: Given) -> bool:
    """Whether an operation that may draw does not, as attention without dropout."""
    share = given.get("dropout_p", given.get("dropout"))
    return share == 0 or given.get("train", given.get("training")) is False


def _images_axis(shape: Sequence[int], count: int) -> int | None:
    """The axis that so many images lie along; None where there is none."""
    if not count:
        return None
    leading = next((axis for axis, length in enumerate(shape) if length != 1 or count == 1), None)
    if leading is not None and shape[leading] % count == 0:
        return leading
    return next((axis for axis, length in enumerate(shape) if length == count), None)


def _shape(given: Given) -> Sequence[int]:
    """The shape of what is drawn: as asked for, or that of the tensor that it goes by."""
    return given["size"] if "size" in given else given["self"].shape


def _cast(values: Tensor, given: Given, otherwise: torch.dtype | None = None) -> Tensor:
    """What was drawn, in the type and on the device that were asked for, or those of the tensor that it goes by."""
    like, dtype = given.get("self"), given.get("dtype")
    if not isinstance(dtype, torch.dtype):  # None, or a default as the schema writes it
        dtype = like.dtype if like is not None else otherwise or torch.get_default_dtype()
    return values.to(given.get("device") or (like.device if like is not None else torch.get_default_device()), dtype)


def _rand(streams: Streams, given: Given) -> Tensor:
    return _cast(streams.uniform(_shape(given)), given)


def _randn(streams: Streams, given: Given) -> Tensor:
    return _cast(streams.normal(_shape(given)), given)


def _uniform(streams: Streams, given: Given) -> Tensor:
    return given["from"] + (given["to"] - given["from"]) * streams.uniform(given["self"].shape)


def _normal(streams: Streams, given: Given) -> Tensor:
    """With mean and deviation each a number or a tensor."""
    mean, std = given["mean"], given["std"]
    moments = [each for each in (mean, std) if isinstance(each, Tensor)]
    if moments:
        return (mean + std * streams.normal(torch.broadcast_shapes(*(each.shape for each in moments)))).to(moments[0])
    return _cast(mean + std * streams.normal(_shape(given)), given)


def _integers(streams: Streams, given: Given) -> Tensor:
    """Whole numbers from ``low`` or ``from`` to below ``high`` or ``to``; of the 2^24 first alone where no end is
    given."""
    low, high = given.get("low", given.get("from", 0)) or 0, given.get("high", given.get("to"))
    drawn = (streams.uniform(_shape(given)).double() * ((2**24 if high is None else high) - low)).floor() + low
    return _cast(drawn, given, torch.int64)


def _permutation(streams: Streams, given: Given) -> Tensor:
    return _cast(streams.uniform((given["n"],)).argsort(), given, torch.int64)


def _bernoulli(streams: Streams, given: Given) -> Tensor:
    share = given.get("p", given["self"])
    return (streams.uniform(given["self"].shape) < share).to(given["self"].dtype)


def _exponential(streams: Streams, given: Given) -> Tensor:
    return -torch.log1p(-streams.uniform(given["self"].shape)) / given["lambd"]


def _multinomial(streams: Streams, given: Given) -> Tensor:
    """The fastest of exponential races at these rates, or the winners of as many races as are drawn (Efraimidis and
    Spirakis, 2006, for draws without replacement)."""
    weights, count = given["self"], given["num_samples"]
    if not given["replacement"]:
        return (-torch.log1p(-streams.uniform(weights.shape, 1)) / weights).topk(count, largest=False).indices
    races = -torch.log1p(-streams.uniform((*weights.shape[:-1], count, weights.shape[-1]), 2))
    return (races / weights.unsqueeze(-2)).argmin(-1)


def _dropout(streams: Streams, given: Given) -> tuple[Tensor, Tensor]:
    x, share = given["input"], given["p"]
    kept = streams.uniform(x.shape) >= share
    return x * kept * (1 / (1 - share) if share < 1 else 0.0), kept


DISTRIBUTIONS: Mapping[str, Callable[[Streams, Given], Any]] = {
    "rand": _rand,
    "rand_like": _rand,
    "uniform_": _uniform,
    "randn": _randn,
    "randn_like": _randn,
    "normal": _normal,
    "normal_": _normal,
    "randint": _integers,
    "randint_like": _integers,
    "random_": _integers,
    "randperm": _permutation,
    "bernoulli": _bernoulli,
    "bernoulli_": _bernoulli,
    "exponential_": _exponential,
    "multinomial": _multinomial,
    "native_dropout": _dropout,
}
"""What draws, by its name in aten; names that end in an underscore write into the tensor they are given."""
