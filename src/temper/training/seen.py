"""Which images a model was trained on: they never count as test images, whoever asks and whatever holds them."""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from temper.core.files import written
from temper.data import Dataset
from temper.data.arrays import DAMAGE
from temper.errors import DamagedError, DataError

log = logging.getLogger(__name__)

SEEN = "trained-on.npy"


def note_seen(folder: Path, parts: tuple[Dataset, ...], model: str) -> None:
    """Write down what a run in ``folder`` is trained on: these parts, and what ``model``, which it begins with, was."""
    seen = np.unique(np.concatenate([seen_by(model), *(part.digests() for part in parts)]))
    with written(folder / SEEN) as unfinished, unfinished.open("wb") as file:
        np.save(file, seen)


def seen_by(model: str) -> NDArray[np.uint64]:
    """Digests of the images that a model was trained on, as far as its run's folder tells; none for other models.

    Raises:
        DataError: the file that tells is damaged.
    """
    path = Path(model) / SEEN
    if not path.is_file():
        return np.empty(0, np.uint64)
    try:
        return read_seen(path)
    except DamagedError as error:
        otherwise = "it says which images the run was trained on; temper finetune with --resume writes it again"
        raise DataError(f"{error}: {otherwise}") from None


def read_seen(path: Path) -> NDArray[np.uint64]:
    """What :func:`note_seen` wrote: rising digests, uint64 [N].

    Raises:
        DamagedError: the file was cut short or overwritten since.
    """
    try:
        digests = np.load(path, allow_pickle=False)
    except DAMAGE:
        raise DamagedError(f"{path}: is damaged") from None
    # Overwritten digests do not rise: they would be those of no image, and images that were trained on would count.
    if digests.dtype != np.uint64 or digests.ndim != 1 or not (digests[1:] > digests[:-1]).all():
        raise DamagedError(f"{path}: is damaged")
    return np.asarray(digests)


def untrained(dataset: Dataset, model: str) -> Dataset:
    """The test data without the images that a run was trained on; all of them for other models.

    Raises:
        DataError: nothing is left.
    """
    return unseen(dataset, seen_by(model), f"that {model} was trained on")


def unseen(dataset: Dataset, seen: NDArray[np.uint64], why: str) -> Dataset:
    """The data without the images that are not to be in them, judged by their content, byte for byte.

    Args:
        dataset: to choose from.
        seen: digests of the images to leave out.
        why: they are left out, for the message, as "that RUN was trained on".

    Raises:
        DataError: nothing is left.
    """
    if not len(seen):
        return dataset
    fresh = ~np.isin(dataset.digests(), seen)
    if not fresh.any():
        raise DataError(f"{dataset.name}: holds no images but those {why}; name other data")
    if fresh.all():
        return dataset
    log.warning("%s: left out %d of %d images, those %s", dataset.name, (~fresh).sum(), len(fresh), why)
    return dataset.subset(np.flatnonzero(fresh))
