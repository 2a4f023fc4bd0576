"""Deterministic stratified divisions of a data set."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from temper.errors import ArgumentError, DataError


class Labelled(Protocol):
    """Anything with int64 ``labels`` [N] and names of the classes: a :class:`temper.data.Dataset`."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of each sample."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class."""
        ...


def split(
    data: Labelled | ArrayLike,
    *,
    fraction: float | None = None,
    sizes: Sequence[int] | None = None,
    seed: int,
) -> tuple[NDArray[np.int64], ...]:
    """Divide samples at random into disjoint parts, each with the classes in the whole's proportions.

    Args:
        data: a data set, or its labels (int [N]).
        fraction: share in (0, 1) to hold out; gives two parts, the rest and the share held out.
        sizes: number of samples of each part; what is left over belongs to none.
        seed: non-negative; the same seed gives the same parts on every machine.

    Returns:
        One int64 array of positions per part, ascending. Of K classes, one with n of N samples is in a part within
        1 + K n / N of its exact proportion: half a sample at either end of the part, and as much as all classes'
        halves move the ends themselves.

    Raises:
        ArgumentError: not exactly one of ``fraction`` and ``sizes``, or a part too small to hold every class.
        DataError: a class has fewer samples than there are parts.

    """
    labels = np.asarray(data.labels if hasattr(data, "labels") else data)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.size == 0:
        raise ArgumentError("data", f"{labels.dtype} {labels.shape}", "give a Dataset or its integer labels [N]")
    check_seed(seed)
    counts = _counts(len(labels), fraction, sizes)
    classes = _check_samples(labels, len(counts), getattr(data, "class_names", None))
    if min(counts) < classes:
        argument, value = ("fraction", fraction) if sizes is None else ("sizes", sizes)
        raise ArgumentError(
            argument, value, f"a part of {min(counts)} samples cannot hold all {classes} classes: enlarge it"
        )
    ends = np.cumsum(counts)
    order = stratified_order(labels, seed)
    return tuple(np.sort(order[end - count : end]) for end, count in zip(ends, counts, strict=True))


def _check_samples(labels: NDArray[np.int64], parts: int, names: Sequence[str] | None) -> int:
    """The number of classes; a DataError where one has not a sample for each part."""
    classes, samples = np.unique(labels, return_counts=True)
    if samples.min() < parts:
        rare = classes[samples.argmin()]
        raise DataError(
            f"class {rare if names is None else names[rare]} has {samples.min()} sample(s), {parts} parts need one"
            " each: add samples or leave the class out"
        )
    return len(classes)


def _counts(samples: int, fraction: float | None, sizes: Sequence[int] | None) -> tuple[int, ...]:
    """How many samples each part gets."""
    if sizes is not None and fraction is None:
        if not sizes or min(sizes) < 1 or sum(sizes) > samples:
            raise ArgumentError("sizes", sizes, f"give positive numbers that add up to at most {samples}")
        return tuple(sizes)
    if fraction is not None and sizes is None:
        if not 0 < fraction < 1:
            raise ArgumentError("fraction", fraction, "give a share between 0 and 1")
        held_out = round(fraction * samples)
        return samples - held_out, held_out
    raise ArgumentError("fraction, sizes", (fraction, sizes), "give exactly one of the two")


def check_seed(seed: int) -> None:
    """Raise ArgumentError unless ``seed`` can seed numpy's generators."""
    if seed < 0:
        raise ArgumentError("seed", seed, "give a number from 0 up")


def stratified_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A random order of the samples of which every stretch has the classes in the whole's proportions.

    Sample r (0, 1, ...) of a shuffled class of n stands at (r + 1/2) / n of the way; ties fall at random.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, inverse, samples = np.unique(labels[by_class], return_inverse=True, return_counts=True)
    starts = np.cumsum(samples) - samples
    place = np.empty(len(labels))
    place[by_class] = (np.arange(len(labels)) - starts[inverse] + 0.5) / samples[inverse]
    return shuffled[np.argsort(place[shuffled], kind="stable")].astype(np.int64)
