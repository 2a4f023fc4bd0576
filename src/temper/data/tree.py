"""Data sets laid out as one folder per class, on disk or in a zip archive."""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from temper.data.dataset import Dataset
from temper.data.files import FileImages, Files, FolderFiles, ZipFiles, open_archive
from temper.errors import ArgumentError, DataError

_LOG = logging.getLogger(__name__)

SplitName = Literal["train", "validation", "test"]

#: File name endings that are read as images.
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

#: Folder names that each split goes by; the first found wins. Many sets publish no labels for their test
#: images and are tested on their validation images instead, so these stand in for a missing test folder.
SPLIT_FOLDERS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing", "validation", "val", "valid"),
}


@dataclass(frozen=True)
class Tree:
    """Names of the folders and image files below ``prefix``, relative to it, with forward slashes."""

    prefix: str
    folders: frozenset[str]
    files: tuple[str, ...]

    def children(self) -> list[str]:
        """Folders at the top, sorted."""
        return sorted(folder for folder in self.folders if "/" not in folder)

    def has_folders(self, child: str) -> bool:
        """Whether there are folders inside the folder ``child``."""
        return any(folder.startswith(f"{child}/") for folder in self.folders)

    def below(self, child: str) -> "Tree":
        """The part of the tree inside the folder ``child``."""
        start = f"{child}/"
        return Tree(
            self.prefix + start,
            frozenset(name.removeprefix(start) for name in self.folders if name.startswith(start)),
            tuple(name.removeprefix(start) for name in self.files if name.startswith(start)),
        )


def load_tree(path: Path, split: SplitName | None) -> Dataset:
    """The images in the class folders of a folder or zip archive; see :func:`temper.data.load`."""
    tree = _choose_split(read_tree(path), split, path)
    where = path / tree.prefix
    classes = tree.children()
    if len(classes) < 2:
        found = f"only one class folder, {classes[0]}" if classes else "no class folders"
        raise DataError(f"{where}: holds {found}: put the images of each class into a folder of its own")
    members = sorted({name for name in tree.files if "/" in name}, key=lambda name: name.split("/"))
    if not members:
        raise DataError(f"{where}: its class folders hold no images ({', '.join(IMAGE_SUFFIXES)}): add some")
    names = tuple(tree.prefix + name for name in members)
    files: Files = FolderFiles(path, names) if path.is_dir() else ZipFiles(path, names)
    label_of = {name: label for label, name in enumerate(classes)}
    name = path.resolve().name
    return Dataset(
        images=FileImages(files),
        labels=np.array([label_of[member.split("/")[0]] for member in members], dtype=np.int64),
        class_names=tuple(classes),
        ids=np.arange(len(members), dtype=np.int64),
        name=name if split is None else f"{name}/{split}",
    )


def check_files(dataset: Dataset) -> None:
    """Raise DataError for the first class without an image or file that does not begin like an image."""
    counts = np.bincount(dataset.labels, minlength=dataset.num_classes)
    if counts.min() == 0:
        empty = dataset.class_names[counts.argmin()]
        raise DataError(
            f"{dataset.name}: class folder {empty} holds no images: add some or remove the folder"
        )
    if isinstance(dataset.images, FileImages):
        dataset.images.check_headers()


def read_tree(path: Path) -> Tree:
    """The tree of a folder or zip archive, without a lone outer folder that only wraps the others.

    Raises:
        DataError: not a zip archive, or one whose members point outside it.

    """
    folders, files = _walk_folder(path) if path.is_dir() else _walk_zip(path)
    images = [name for name in files if name.lower().endswith(IMAGE_SUFFIXES)]
    if len(images) < len(files):
        _LOG.info("%s: %d files that are no images are left aside", path, len(files) - len(images))
    tree = Tree("", frozenset(folders), tuple(images))
    while len(tree.children()) == 1 and not split_folders(tree) and tree.has_folders(tree.children()[0]):
        tree = tree.below(tree.children()[0])
    return tree


def split_folders(tree: Tree) -> dict[SplitName, str]:
    """Which top folder holds which split; empty if the top folders are classes.

    They are splits if there is one to train and one to test on (others are left aside), or nothing else.
    """
    children = {child.lower(): child for child in tree.children()}
    found: dict[SplitName, str] = {}
    for split, names in SPLIT_FOLDERS.items():
        present = [children[name] for name in names if name in children]
        if present:
            found[split] = present[0]
    divided = {"train", "test"} <= found.keys() or set(children.values()) <= set(found.values())
    return found if divided else {}


def _choose_split(tree: Tree, split: SplitName | None, path: Path) -> Tree:
    folders = split_folders(tree)
    check_split(split, tuple(folders), str(path))
    return tree if split is None else tree.below(folders[split])


def check_split(split: SplitName | None, available: tuple[SplitName, ...], where: str) -> None:
    """Raise ArgumentError unless ``split`` is one of those available, or None where there are none."""
    if split is None and available:
        raise ArgumentError("split", split, f"{where} is divided: choose one of {', '.join(available)}")
    if split is not None and split not in available:
        offer = (
            f"choose one of {', '.join(available)}" if available else "it is not divided, leave split unset"
        )
        raise ArgumentError("split", split, f"{where} has no such part: {offer}")


def _walk_folder(root: Path) -> tuple[set[str], list[str]]:
    """Folders and files below ``root``, hidden ones left out; links are followed."""
    folders: set[str] = set()
    files: list[str] = []
    for current, inner, names in os.walk(root, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        here = Path(current).relative_to(root)
        folders.update((here / name).as_posix() for name in inner)
        files.extend((here / name).as_posix() for name in names if not name.startswith("."))
    return folders, files


def _walk_zip(archive: Path) -> tuple[set[str], list[str]]:
    """Folders and files in the archive, hidden ones and those that macOS adds left out."""
    folders: set[str] = set()
    files: list[str] = []
    for name in open_archive(archive, os.getpid()).namelist():
        member = PurePosixPath(name.replace("\\", "/"))
        if member.is_absolute() or ".." in member.parts:
            raise DataError(f"{archive}: member {name!r} points outside the archive: refused, make it anew")
        if name.rstrip("/") != member.as_posix():
            raise DataError(f"{archive}: member {name!r} is no plain path with forward slashes: make it anew")
        if member.parts[0] == "__MACOSX" or any(part.startswith(".") for part in member.parts):
            continue
        folders.update(_parents(member))
        if name.endswith("/"):
            folders.add(member.as_posix())
        else:
            files.append(name)
    return folders, files


def _parents(member: PurePosixPath) -> Iterable[str]:
    return (parent.as_posix() for parent in member.parents if parent.parts)
