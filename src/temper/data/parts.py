"""The parts that a source is published in: which is for training, which for testing."""

from collections.abc import Iterable
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


def check_split(split: SplitName | None, available: Iterable[SplitName], where: str) -> None:
    """Raise ArgumentError unless ``split`` is one of those available, or None where there are none."""
    offered = tuple(available)
    if split is None and offered:
        raise ArgumentError("split", split, f"{where} is divided: choose one of {', '.join(offered)}")
    if split is not None and split not in offered:
        offer = f"choose one of {', '.join(offered)}" if offered else "it is not divided, leave split unset"
        raise ArgumentError("split", split, f"{where} has no such part: {offer}")
