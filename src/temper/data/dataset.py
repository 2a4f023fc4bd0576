"""A data set: images, labels, class names and an id for every sample."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from temper.data.splits import check_seed, stratified_order
from temper.errors import ArgumentError, DataError

#: More than any published set has (ImageNet-21k: 21,841): a larger label is a mistake, not a class.
_MAX_CLASSES = 100_000


class Images(Protocol):
    """A sequence of images, in memory or decoded when asked for.

    ``images[i]`` is a uint8 array [height, width, channels] with 1 (grey) or 3 (RGB) channels.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> NDArray[np.uint8]: ...

    def where(self, index: int) -> str:
        """How a message to people names image ``index``: its file, or its place in the array."""
        ...

    def content(self, index: int) -> bytes:
        """The bytes that identify image ``index``: those of its file, or its shape and pixels."""
        ...

    def take(self, indices: NDArray[np.int64]) -> Self:
        """The images at ``indices``, in that order."""
        ...


def channels_first(shape: Sequence[int]) -> bool:
    """Whether images of this shape have their channels in axis 1: 1, 3 or 4 there, and in the last no such number."""
    return len(shape) == 4 and shape[1] in (1, 3, 4) and shape[3] not in (1, 3, shape[1])


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images of one size in memory: ``array`` is uint8 [N, height, width, channels], 1 or 3 channels.

    A shape that could have its channels first or last, such as [N, 3, 8, 3], is read with channels last.
    """

    array: NDArray[np.uint8]

    def __post_init__(self) -> None:
        shape, dtype = np.shape(self.array), np.asarray(self.array).dtype
        if dtype != np.uint8:
            raise DataError(f"images have dtype {dtype}: give uint8, 0 to 255")
        if channels_first(shape):
            raise DataError(f"images have shape {shape}: channels come last, transpose(0, 2, 3, 1) mends it")
        if len(shape) != 4 or shape[3] not in (1, 3) or 0 in shape[1:3]:
            raise DataError(f"images have shape {shape}: give [N, height, width, channels], 1 or 3 channels")

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.array[index]

    def where(self, index: int) -> str:
        """See :class:`Images`."""
        return f"images[{index}]"

    def content(self, index: int) -> bytes:
        """See :class:`Images`."""
        return repr(self.array.shape[1:]).encode() + self.array[index].tobytes()

    def take(self, indices: NDArray[np.int64]) -> "ArrayImages":
        """See :class:`Images`."""
        return ArrayImages(self.array[indices])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images.

    Attributes:
        images: the images, N of them.
        labels: int64 [N], each in 0..len(class_names)-1.
        class_names: one name per class, in the order of the labels.
        ids: int64 [N], distinct: each sample's position in the source, kept by :meth:`subset`.
        name: what people call it, e.g. ``digits``.

    Raises:
        DataError: the parts do not fit together; names the sample.

    """

    images: Images
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    ids: NDArray[np.int64]
    name: str

    def __post_init__(self) -> None:
        samples = len(self.images)
        for what, column in (("labels", self.labels), ("ids", self.ids)):
            if column.shape != (samples,) or column.dtype != np.int64:
                raise DataError(
                    f"{self.name}: {what} are {column.dtype} of shape {column.shape}: "
                    f"{samples} images need int64 of shape ({samples},)"
                )
        if samples == 0:
            raise DataError(f"{self.name}: holds no samples; add some, or name other data")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= self.num_classes))
        if wrong.size:
            first = int(wrong[0])
            raise DataError(
                f"{self.name}: {self.images.where(first)} has label {self.labels[first]}, "
                f"but labels go from 0 to {self.num_classes - 1}: correct or remove the sample"
            )
        if self.ids.min() < 0 or len(np.unique(self.ids)) != samples:
            raise DataError(f"{self.name}: ids repeat or are negative: give each sample its own, from 0")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes, also of those without a sample here."""
        return len(self.class_names)

    def subset(self, indices: ArrayLike) -> "Dataset":
        """The samples at ``indices`` (positions here, not ids), in that order, with their ids.

        Raises:
            ArgumentError: an index lies outside 0..len-1.
            DataError: an index repeats, or there is none.

        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        outside = chosen[(chosen < 0) | (chosen >= len(self))]
        if outside.size:
            raise ArgumentError("indices", int(outside[0]), f"{self.name} has positions 0 to {len(self) - 1}")
        return replace(self, images=self.images.take(chosen), labels=self.labels[chosen], ids=self.ids[chosen])

    def limit(self, n: int, seed: int) -> "Dataset":
        """At most ``n`` samples, drawn with ``seed`` in the classes' proportions, sorted by id."""
        if n < 1:
            raise ArgumentError("n", n, "give at least 1")
        check_seed(seed)
        if n >= len(self):
            return self
        chosen = stratified_order(self.labels, seed)[:n]
        return self.subset(chosen[np.argsort(self.ids[chosen])])

    def keep_classes(self, classes: int | Sequence[str]) -> "Dataset":
        """Only the first ``classes`` classes, or those named, relabelled 0, 1, ... in that order.

        Raises:
            ArgumentError: more classes than there are, or a name that is none of them.

        """
        if isinstance(classes, int):
            if not 1 <= classes <= self.num_classes:
                raise ArgumentError("classes", classes, f"{self.name} has {self.num_classes} classes")
            numbers = list(range(classes))
        else:
            wrong = [name for name in classes if self.class_names.count(name) != 1]
            if wrong or not classes or len(set(classes)) != len(classes):
                some = ", ".join(self.class_names[:10])
                raise ArgumentError(
                    "classes",
                    wrong[0] if wrong else classes,
                    f"give distinct names of classes of {self.name}: {some}",
                )
            numbers = [self.class_names.index(name) for name in classes]
        relabel = np.full(self.num_classes, -1, dtype=np.int64)
        relabel[numbers] = np.arange(len(numbers))
        kept = np.flatnonzero(relabel[self.labels] >= 0)
        return replace(
            self,
            images=self.images.take(kept),
            labels=relabel[self.labels[kept]],
            class_names=tuple(self.class_names[number] for number in numbers),
            ids=self.ids[kept],
        )

    def named_as(self, class_names: Sequence[str]) -> "Dataset":
        """The same samples with the classes numbered as ``class_names``, of which some may have no sample here.

        Raises:
            DataError: a class here is none of them, or names repeat.

        """
        number_of = {name: number for number, name in enumerate(class_names)}
        strangers = [name for name in self.class_names if name not in number_of]
        if strangers:
            known = ", ".join(class_names[:10])
            raise DataError(f"{self.name}: has class {strangers[0]!r}, which is none of {known}: rename or remove it")
        if len(number_of) < len(class_names) or len(set(self.class_names)) < self.num_classes:
            raise DataError(f"{self.name}: two classes share a name: give each its own")
        relabel = np.array([number_of[name] for name in self.class_names], dtype=np.int64)
        return replace(self, labels=relabel[self.labels], class_names=tuple(class_names))

    @property
    def numbered(self) -> bool:
        """Whether the classes have no names but their numbers."""
        return self.class_names == tuple(map(str, range(self.num_classes)))

    def fingerprint(self) -> str:
        """SHA-256 (hex) of every image (file bytes, or pixels), label and id: same samples, same print."""
        return self._read[0]

    def digests(self) -> NDArray[np.uint64]:
        """The first 8 bytes of each image's SHA-256 (of its file, or of its pixels in an array): uint64 [N]."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[str, NDArray[np.uint64]]:
        """Fingerprint and digests, from one reading of the images."""
        digest, each = hashlib.sha256(), []
        for index in range(len(self)):
            content = self.images.content(index)
            digest.update(len(content).to_bytes(8, "little"))
            digest.update(content)
            each.append(hashlib.sha256(content).digest()[:8])
        digest.update(self.labels.astype("<i8").tobytes())
        digest.update(self.ids.astype("<i8").tobytes())
        return digest.hexdigest(), np.frombuffer(b"".join(each), dtype="<u8").astype(np.uint64)

    def describe(self) -> dict[str, object]:
        """What a run's record says of it, ready for JSON."""
        return {
            "name": self.name,
            "n": len(self),
            "classes": list(self.class_names),
            "fingerprint": self.fingerprint(),
        }


def numbered_classes(labels: NDArray[np.integer], where: str) -> tuple[str, ...]:
    """Class names "0", "1", ... up to the largest of ``labels`` [N], for a source that names none.

    Raises:
        DataError: a label is negative or absurdly large; names the sample.

    """
    wrong = np.flatnonzero((labels < 0) | (labels >= _MAX_CLASSES))
    if wrong.size:
        raise DataError(
            f"{where}: sample {wrong[0]} has label {labels[wrong[0]]}: labels are class numbers, "
            f"0 to K-1 with K at most {_MAX_CLASSES}"
        )
    return tuple(str(label) for label in range(int(labels.max()) + 1 if labels.size else 0))
