"""Loading a data set by the one string that names it."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from temper.data.arrays import load_npz
from temper.data.dataset import ArrayImages, Dataset
from temper.data.tree import SplitName, check_files, check_split, load_tree, read_tree, split_folders
from temper.errors import ArgumentError

_FORMS = "FILE.npz, a folder or zip with one folder per class, digits, torchvision:NAME[:ROOT] or parquet:DIR"


def load(spec: str, *, split: SplitName | None = None, classes: int | Sequence[str] | None = None) -> Dataset:
    """Load the data set that ``spec`` names.

    Args:
        spec: one of

            - ``FILE.npz``: arrays ``images`` (uint8 [N, height, width, channels], or [N, height, width] for
              grey) and ``labels`` (integers [N]), optionally ``class_names`` (strings [K]);
            - a folder with one folder of images per class (sorted names give the labels), or with such
              folders inside ``train`` and ``test`` or ``val``;
            - a zip archive of such a folder, read without unpacking;
            - ``digits``: scikit-learn's 1,797 handwritten digits, 8x8 grey, 0..16 scaled to 0..255;
            - ``torchvision:NAME[:ROOT]``: a classification set of torchvision, downloaded to ROOT if it is
              not there (default: ``datasets`` beside torch's hub folder);
            - ``parquet:DIR``: Parquet files with an image and a label column, or a folder written by
              ``datasets.save_to_disk``.
        split: which part, for a source that is divided (see :func:`available_splits`), else None. The
            validation part stands in for a missing test part.
        classes: keep only the first so many classes, or those named, relabelled in that order. Ids stay
            positions in the whole source.

    Raises:
        ArgumentError: ``spec``, ``split`` or ``classes`` names nothing that is there.
        DataError: the source is damaged or not laid out as above; the message names the file or sample.

    """
    if spec == "digits":
        check_split(split, (), spec)
        return _keep(_digits(), classes)
    path = _existing(spec)
    if path.suffix == ".npz":
        check_split(split, (), spec)
        return _keep(load_npz(path), classes)
    dataset = _keep(load_tree(path, split), classes)
    check_files(dataset)
    return dataset


def available_splits(spec: str) -> tuple[SplitName, ...]:
    """The values of ``split`` that :func:`load` takes for ``spec``; empty if the source is not divided."""
    if spec == "digits":
        return ()
    path = _existing(spec)
    if path.suffix == ".npz":
        return ()
    return tuple(split_folders(read_tree(path)))


def _existing(spec: str) -> Path:
    path = Path(spec).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() in (".npz", ".zip")):
        return path
    if path.exists():
        raise ArgumentError("data", spec, f"not a kind of file that is read: give {_FORMS}")
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.glob("*")], n=1)
    hint = f", did you mean {path.parent / near[0]}?" if near else ""
    raise ArgumentError("data", spec, f"no such file or folder{hint}: give {_FORMS}")


def _keep(dataset: Dataset, classes: int | Sequence[str] | None) -> Dataset:
    return dataset if classes is None else dataset.keep_classes(classes)


def _digits() -> Dataset:
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    return Dataset(
        images=ArrayImages(images),
        labels=bunch.target.astype(np.int64),
        class_names=tuple(str(name) for name in bunch.target_names),
        ids=np.arange(len(images), dtype=np.int64),
        name="digits",
    )
