"""Data sets laid out as one folder per class, on disk or in a zip archive."""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import numpy as np

from temper.data.classes import CLASS_TO_IDX, given_order
from temper.data.dataset import Dataset
from temper.data.decode import IMAGE_SUFFIXES
from temper.data.files import FileImages, Files, FolderFiles, ZipFiles, open_archive
from temper.data.parts import SplitName, check_split, find_parts
from temper.data.walk import Walk, walk
from temper.errors import DataError

_LOG = logging.getLogger(__name__)
_NAMED = 5  # of the files left aside


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
    whole = read_tree(path)
    parts = part_folders(whole)
    check_split(split, parts, str(path))
    tree = whole.below(parts[split]) if split else whole
    # The training part says which classes there are, so that labels mean the same in every part.
    classes = (whole.below(parts["train"]) if "train" in parts else tree).children()
    where = path / tree.prefix
    if len(classes) < 2:
        reason = f"only one class folder, {classes[0]}" if classes else "no class folders"
        raise DataError(f"{where}: holds {reason}: put the images of each class into a folder of its own")
    classes = given_order(path, classes, whole.prefix) or classes
    strangers = sorted(set(tree.children()) - set(classes))
    if strangers:
        raise DataError(f"{where / strangers[0]}: the training part has no such class: add or remove the folder")
    members = sorted({name for name in tree.files if "/" in name}, key=lambda name: name.split("/"))
    names = [member.split("/")[0] for member in members]
    empty = sorted(set(tree.children()) - set(names))
    if empty:
        endings = ", ".join(IMAGE_SUFFIXES)
        raise DataError(f"{where / empty[0]}: class folder without images ({endings}): add some or remove it")
    label_of = {name: label for label, name in enumerate(classes)}
    return Dataset(
        images=FileImages(_files(path, tuple(tree.prefix + member for member in members))),
        labels=np.array([label_of[name] for name in names], dtype=np.int64),
        class_names=tuple(classes),
        ids=np.arange(len(members), dtype=np.int64),
        name="/".join(filter(None, (path.resolve().name, split))),
    )


def tree_parts(path: Path) -> tuple[SplitName, ...]:
    """The parts that a folder or zip archive is divided into; see :func:`part_folders`."""
    return tuple(part_folders(read_tree(path)))


def _files(path: Path, members: tuple[str, ...]) -> Files:
    return FolderFiles(path, members) if path.is_dir() else ZipFiles(path, members)


def read_tree(path: Path) -> Tree:
    """The tree of a folder or zip archive, without a lone outer folder that only wraps the others.

    Raises:
        DataError: not a zip archive, or one whose members point outside it.

    """
    listing = walk(path, _refuse) if path.is_dir() else _walk_zip(path)
    tree = Tree("", listing.folders, tuple(images_among(path, listing)))
    while len(tree.children()) == 1 and not part_folders(tree) and tree.has_folders(tree.children()[0]):
        tree = tree.below(tree.children()[0])
    return tree


def images_among(root: Path, listing: Walk) -> list[str]:
    """The files that are images by their names; the log names what else there is, and links left aside."""
    images: list[str] = []
    others: list[str] = []
    for name in listing.files:
        if name.rpartition("/")[2] == CLASS_TO_IDX:
            continue
        (images if name.lower().endswith(IMAGE_SUFFIXES) else others).append(name)
    for what, names in (("no images by their names", others), ("links to what is there already", listing.repeated)):
        if names:
            some = ", ".join(map(repr, names[:_NAMED])) + (", ..." if len(names) > _NAMED else "")
            _say_once(f"{root}: {len(names)} files or folders left aside, {what}: {some}")
    return images


@cache
def _say_once(line: str) -> None:
    """Log a line: a folder is walked for its parts, and again for the images of one."""
    _LOG.info("%s", line)


def part_folders(tree: Tree) -> dict[SplitName, str]:
    """Which top folder holds which part; empty if the top folders are classes.

    They are parts if there is one to train and one to test on (others are left aside), or nothing else.
    """
    parts = find_parts(tree.children())
    divided = {"train", "test"} <= parts.keys() or set(tree.children()) <= set(parts.values())
    return parts if divided else {}


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be listed ({error.strerror}): mend its permissions") from error


def _walk_zip(archive: Path) -> Walk:
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
    return Walk(frozenset(folders), tuple(files), ())


def _parents(member: PurePosixPath) -> Iterable[str]:
    return (parent.as_posix() for parent in member.parents if parent.parts)
