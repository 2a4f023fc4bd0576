"""The parts that a source is published in: which is for training, which for testing."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from temper.errors import ArgumentError

SplitName = Literal["train", "validation", "test"]

#: What each part is called in folder and file names; the first found wins. Many sets publish no labels for
#: their test images and are tested on their validation images instead, so these stand in for a missing test
#: part.
PART_NAMES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing", "validation", "val", "valid"),
}


def find_parts(names: Iterable[str]) -> dict[SplitName, str]:
    """Which of ``names`` holds which part; upper and lower case are the same."""
    by_lower = {name.lower(): name for name in names}
    return {
        part: next(by_lower[word] for word in words if word in by_lower)
        for part, words in PART_NAMES.items()
        if any(word in by_lower for word in words)
    }


def files_of_parts(files: Sequence[Path], root: Path) -> dict[SplitName | None, tuple[Path, ...]]:
    """The files of each part, which is named in the file (data/train-00000-of-00001.parquet) or in its folder below
    ``root``; all under None where no name is a part's."""
    words = {file: set(re.split("[^a-z]+", str(file.relative_to(root)).lower())) for file in files}
    parts = find_parts(set().union(*words.values()))
    if not parts:
        return {None: tuple(files)}
    return {part: tuple(file for file in files if word in words[file]) for part, word in parts.items()}


def check_split(split: SplitName | None, available: Iterable[SplitName], where: str) -> None:
    """Raise ArgumentError unless ``split`` is one of those available, or None where there are none."""
    offered = tuple(available)
    if split is None and offered:
        raise ArgumentError("split", split, f"{where} is divided: choose one of {', '.join(offered)}")
    if split is not None and split not in offered:
        offer = f"choose one of {', '.join(offered)}" if offered else "it is not divided, leave split unset"
        raise ArgumentError("split", split, f"{where} has no such part: {offer}")
