"""The files below a folder, each real folder and each real file once, however links lead to them."""

import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_Identity = tuple[int, int]


@dataclass(frozen=True)
class Walk:
    """What is below a folder, hidden names left out.

    Attributes:
        folders: paths relative to it, with forward slashes.
        files: likewise; folder by folder from the top, sorted in each.
        repeated: links left aside, because what they lead to is there already, or holds the folder itself.
    """

    folders: frozenset[str]
    files: tuple[str, ...]
    repeated: tuple[str, ...]


def walk(root: Path, refused: Callable[[OSError], None]) -> Walk:
    """Find all files below ``root``; links are followed, but what has a place of its own there stays in that place.

    ``refused`` is told of each folder that cannot be listed. A link whose target is not there counts as a file: it
    shows when it is opened.
    """
    walked = _Found(seen={_identity(parent) for parent in (root.resolve(), *root.resolve().parents)})
    walked.enter(root, "", refused)
    while walked.links:  # all real entries are known before the first link: links outside may lead to more of both
        place = walked.links.popleft()
        path = root / place
        if not walked.is_new(path):
            walked.repeated.append(place)
        elif path.is_dir():
            walked.folders.append(place)
            walked.enter(path, f"{place}/", refused)
        else:
            walked.files.append(place)
    return Walk(
        frozenset(walked.folders), tuple(sorted(walked.files, key=_from_the_top)), tuple(sorted(walked.repeated))
    )


def _from_the_top(place: str) -> tuple[list[str], str]:
    folder, _, name = place.rpartition("/")
    return folder.split("/") if folder else [], name


class _Found:
    """What a walk has met so far; ``links`` wait until all that is real is known."""

    def __init__(self, seen: set[_Identity | str]) -> None:
        self.seen = seen
        self.folders: list[str] = []
        self.files: list[str] = []
        self.links: deque[str] = deque()
        self.repeated: list[str] = []

    def is_new(self, path: Path | os.DirEntry[str]) -> bool:
        """Whether what is at ``path`` was not met under another name; from now on it was."""
        identity = _identity(path)
        new = identity not in self.seen
        self.seen.add(identity)
        return new

    def enter(self, folder: Path, prefix: str, refused: Callable[[OSError], None]) -> None:
        """Note what is below a real folder, which is called ``prefix``."""
        waiting = [(folder, prefix)]
        while waiting:
            folder, prefix = waiting.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                refused(error)
                continue
            for entry in entries:
                place = prefix + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    self.links.append(place)
                elif not entry.is_dir():
                    self.seen.add(_identity(entry))
                    self.files.append(place)
                elif self.is_new(entry):
                    self.folders.append(place)
                    waiting.append((Path(entry.path), f"{place}/"))
                else:  # entered already through a link from elsewhere
                    self.repeated.append(place)


def _identity(path: Path | os.DirEntry[str]) -> _Identity | str:
    """What tells a file or folder from all others; its path where that cannot be found out."""
    try:
        status = path.stat()
    except OSError:
        return os.fspath(path)
    return status.st_dev, status.st_ino
