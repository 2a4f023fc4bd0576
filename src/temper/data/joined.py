"""Two data sets as one."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from temper.data.dataset import Dataset, Images


@dataclass(frozen=True, eq=False)
class JoinedImages:
    """The images of two sources: see :class:`temper.data.dataset.Images`.

    Attributes:
        first, second: the sources.
        places: of the images in the two put one behind the other, int64 [N].
    """

    first: Images
    second: Images
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        source, place = self._found(index)
        return source[place]

    def where(self, index: int) -> str:
        """See :class:`temper.data.dataset.Images`."""
        source, place = self._found(index)
        return source.where(place)

    def content(self, index: int) -> bytes:
        """See :class:`temper.data.dataset.Images`."""
        source, place = self._found(index)
        return source.content(place)

    def take(self, indices: NDArray[np.int64]) -> "JoinedImages":
        """See :class:`temper.data.dataset.Images`."""
        return replace(self, places=self.places[indices])

    def _found(self, index: int) -> tuple[Images, int]:
        place = int(self.places[index])
        return (self.first, place) if place < len(self.first) else (self.second, place - len(self.first))


def joined(first: Dataset, second: Dataset) -> Dataset:
    """The samples of ``first`` with their ids and, behind them, those of ``second`` with ids above all of these.

    Both have the same classes, in the same order.
    """
    return Dataset(
        JoinedImages(first.images, second.images, np.arange(len(first) + len(second))),
        np.concatenate([first.labels, second.labels]),
        first.class_names,
        np.concatenate([first.ids, first.ids.max() + 1 + second.ids]),
        f"{first.name} and {second.name}",
    )
