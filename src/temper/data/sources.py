"""Loading a data set by the one string that names it.

scikit-learn, torchvision and pyarrow are imported by the sources that need them: together they take seconds,
which every command and every spawned worker process would pay.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from temper.core.files import near
from temper.data import catalogue
from temper.data.arrays import load_npz
from temper.data.dataset import ArrayImages, Dataset
from temper.data.files import FileImages
from temper.data.parts import SplitName, check_split
from temper.data.tree import load_tree, part_folders, read_tree
from temper.errors import ArgumentError
from temper.text import did_you_mean, nearest

_FORMS = (
    "FILE.npz, a folder or zip with one folder per class, digits, torchvision:NAME[:ROOT], parquet:DIR"
    " or NAME[:ROOT] of temper.data.catalogue"
)


def load(spec: str, *, split: SplitName | None = None, classes: int | Sequence[str] | None = None) -> Dataset:
    """Load the data set that ``spec`` names.

    Args:
        spec: one of

            - ``FILE.npz``: arrays ``images`` (uint8 [N, height, width, channels], or [N, height, width] for
              grey) and ``labels`` (integers [N]), optionally ``class_names`` (strings [K]); where these are not
              there, the one pair of :data:`temper.data.arrays.PAIRS` that is. Arrays above 256 MB are mapped;
              compressed ones may have 2 GB;
            - a folder with one folder of images per class (sorted names give the labels), or with such
              folders inside ``train`` and ``test`` or ``val``;
            - a zip archive of such a folder, read without unpacking;
            - ``digits``: scikit-learn's 1,797 handwritten digits, 8x8 grey, 0..16 scaled to 0..255;
            - ``torchvision:NAME[:ROOT]``: a classification set of torchvision, downloaded to ROOT if it is
              not there (default: the environment variable TEMPER_DATA, else ``datasets`` beside torch's hub
              folder);
            - ``parquet:DIR``: Parquet files with an image and a label column, or a folder written by
              ``datasets.save_to_disk``;
            - ``NAME[:ROOT]`` of :data:`temper.data.catalogue.CATALOGUE`, such as ``flowers-102``: a set of the
              published studies, divided as they divide it, with ROOT as for torchvision (a folder of that name is
              ``./NAME``).
        split: which part, for a source that is divided (see :func:`available_splits`), else None. The
            validation part stands in for a missing test part.
        classes: keep only the first so many classes, or those named, relabelled in that order. Ids stay
            positions in the whole source.

    Raises:
        ArgumentError: ``spec``, ``split`` or ``classes`` names nothing that is there.
        DataError: the source is damaged or not laid out as above; the message names the file or sample.

    """
    dataset = _whole(spec, split)
    if classes is not None:
        dataset = dataset.keep_classes(classes)
    if isinstance(dataset.images, FileImages):
        dataset.images.check_headers()
    return dataset


def _whole(spec: str, split: SplitName | None) -> Dataset:
    """The data set with all its classes."""
    kind, rest = _parse(spec)
    if kind == "torchvision":
        from temper.data.torchvision_sets import load_torchvision

        return load_torchvision(rest, split)
    if kind == "published":
        return catalogue.load_published(rest, split)
    path = Path(rest).expanduser()
    if kind == "parquet":
        from temper.data.tables import load_table

        return load_table(path, split)
    if kind == "tree":
        return load_tree(path, split)
    check_split(split, (), spec)
    return _digits() if kind == "digits" else load_npz(path)


def available_splits(spec: str) -> tuple[SplitName, ...]:
    """The values of ``split`` that :func:`load` takes for ``spec``; empty if the source is not divided."""
    kind, rest = _parse(spec)
    if kind == "torchvision":
        from temper.data.torchvision_sets import torchvision_parts

        return torchvision_parts(rest)
    if kind == "published":
        return catalogue.SPLITS
    path = Path(rest).expanduser()
    if kind == "parquet":
        from temper.data.tables import table_parts

        return tuple(part for part in table_parts(path) if part)
    return tuple(part_folders(read_tree(path))) if kind == "tree" else ()


def _parse(spec: str) -> tuple[Literal["digits", "torchvision", "parquet", "published", "npz", "tree"], str]:
    """The kind of source and what of ``spec`` says which one.

    Raises:
        ArgumentError: no such file, or of no kind that is read.

    """
    if spec == "digits":
        return "digits", ""
    for prefix in ("torchvision", "parquet"):
        if spec.startswith(f"{prefix}:"):
            return prefix, spec.removeprefix(f"{prefix}:")
    name = spec.partition(":")[0]
    if name in catalogue.CATALOGUE:
        return "published", spec
    path = Path(spec).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip"):
        return "tree", spec
    if path.is_file() and path.suffix.lower() == ".npz":
        return "npz", spec
    if path.exists():
        raise ArgumentError("data", spec, f"not a kind of file that is read: give {_FORMS}")
    similar = [*map(str, near(path)), *nearest(spec, ["digits"]), *catalogue.nearest_sets(name)]
    hint = did_you_mean(similar)
    raise ArgumentError("data", spec, f"no such file or folder{hint and f', {hint}'}: give {_FORMS}")


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    return Dataset(
        images=ArrayImages(images),
        labels=bunch.target.astype(np.int64),
        class_names=tuple(str(name) for name in bunch.target_names),
        ids=np.arange(len(images), dtype=np.int64),
        name="digits",
    )
