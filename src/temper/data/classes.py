"""The numbers that a data set's maker gave its classes, beside its images: ``class_to_idx.json``."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from temper.data.files import open_archive
from temper.errors import DataError

CLASS_TO_IDX = "class_to_idx.json"
"""From each class to its number, as torchvision's ImageFolder has it in ``class_to_idx``."""


def given_order(path: Path, classes: Iterable[str], prefix: str = "") -> list[str] | None:
    """The classes in the order of ``class_to_idx.json`` in a folder or zip archive; None where there is none.

    Args:
        path: the folder or archive.
        classes: that must have a number; others may have one, too.
        prefix: of the folder inside it that holds the file.

    Raises:
        DataError: the file does not number them from 0 on, each once.
    """
    content = _read(path, f"{prefix}{CLASS_TO_IDX}")
    if content is None:
        return None
    where = path / prefix / CLASS_TO_IDX
    try:
        numbers = json.loads(content)
    except ValueError as error:
        raise DataError(f"{where}: is no JSON ({error}): mend it, or remove it") from error
    values = list(numbers.values()) if isinstance(numbers, dict) else []
    if not values or any(type(value) is not int for value in values) or sorted(values) != list(range(len(values))):
        raise DataError(f'{where}: must give each class its number, {{"cat": 0, "dog": 1, ...}}: mend it, or remove it')
    missing = sorted(set(classes) - set(numbers))
    if missing:
        raise DataError(f"{where}: has no number for class {missing[0]!r}: add it, or remove the file")
    return sorted(numbers, key=numbers.__getitem__)


def _read(path: Path, member: str) -> bytes | None:
    if path.is_dir():
        return (path / member).read_bytes() if (path / member).is_file() else None
    if path.suffix.lower() != ".zip":
        return None
    archive = open_archive(path, os.getpid())
    return archive.read(member) if member in archive.namelist() else None
