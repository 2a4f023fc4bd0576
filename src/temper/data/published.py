"""How the published archives of data sets are read that no package reads."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from temper.data.dataset import Dataset
from temper.data.files import FileImages, FolderFiles
from temper.data.parts import SplitName
from temper.errors import DataError


def with_files(whole: Dataset, root: Path, paths: Sequence[Path]) -> Dataset:
    """The same samples, their images read from these files below ``root``."""
    members = tuple(path.relative_to(root).as_posix() for path in paths)
    return replace(whole, images=FileImages(FolderFiles(root, members)))


def uc_merced(root: Path, part: SplitName | None) -> Dataset:
    """``UCMerced_LandUse/Images/<class>/*.tif``, also as the archive that it comes in."""
    from temper.data.tree import load_tree

    return load_tree(_first(root / "UCMerced_LandUse", root / "UCMerced_LandUse.zip", root / "Images"), part)


def cub(root: Path, part: SplitName | None) -> Dataset:
    """``CUB_200_2011`` with its lists: one line per image or class, a number and what belongs to it."""
    folder = _first(root / "CUB_200_2011" / "images.txt", root / "images.txt").parent
    names, labels, is_train, classes = (
        _column(folder / f"{stem}.txt") for stem in ("images", "image_class_labels", "train_test_split", "classes")
    )
    if not len(names) == len(labels) == len(is_train):
        raise DataError(f"{folder}: images.txt, image_class_labels.txt and train_test_split.txt differ in length")
    wanted = "1" if part == "train" else "0"
    rows = [row for row, flag in enumerate(is_train) if flag == wanted]
    return Dataset(
        images=FileImages(FolderFiles(folder, tuple(f"images/{names[row]}" for row in rows))),
        labels=np.array([int(labels[row]) - 1 for row in rows], dtype=np.int64),
        class_names=tuple(name.partition(".")[2] or name for name in classes),
        ids=np.array(rows, dtype=np.int64),
        name=f"{folder.name}/{part}",
    )


def _column(path: Path) -> list[str]:
    return [line.split(maxsplit=1)[1].strip() for line in path.read_text().splitlines() if line.strip()]


def dogs(root: Path, part: SplitName | None) -> Dataset:
    """``Images/<class>/*.jpg`` and ``train_list.mat``, ``test_list.mat``, which may be in ``lists``."""
    from scipy.io import loadmat

    folder = _first(root / "stanford-dogs" / "Images", root / "Images").parent
    table = loadmat(_first(folder / f"{part}_list.mat", folder / "lists" / f"{part}_list.mat"))
    members = [str(cell[0]) for cell in table["file_list"].reshape(-1)]
    labels = table["labels"].reshape(-1).astype(np.int64) - 1
    class_folders = dict(zip(labels.tolist(), (member.partition("/")[0] for member in members), strict=True))
    return Dataset(
        images=FileImages(FolderFiles(folder, tuple(f"Images/{member}" for member in members))),
        labels=labels,
        # Folders are called by WordNet id and name, such as n02085620-Chihuahua.
        class_names=tuple(class_folders[label].partition("-")[2] for label in sorted(class_folders)),
        ids=np.arange(len(members), dtype=np.int64),
        name=f"stanford-dogs/{part}",
    )


def _first(*candidates: Path) -> Path:
    """The first of these that exists.

    Raises:
        DataError: none does.

    """
    for path in candidates:
        if path.exists():
            return path
    raise DataError(f"there is no {' and no '.join(str(path) for path in candidates)}")
