"""Data sets in WebDataset shards: tar archives whose members are grouped into samples by their names.

Shards are read with Python's own tarfile, in place and in any order: nothing is unpacked, unpickled or executed.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

import numpy as np
from numpy.typing import NDArray

from temper.data.classes import given_order
from temper.data.dataset import Dataset, numbered_classes
from temper.data.decode import IMAGE_SUFFIXES
from temper.data.files import FileImages, check_bytes
from temper.data.parts import SplitName, check_split, files_of_parts
from temper.errors import ArgumentError, DataError

_LABELS = ("cls", "label", "cls.txt", "json")  # what a sample's label may be called, the likeliest first
_KEYS = ("label", "cls", "class", "class_index")  # in a JSON member
_MAX_LABEL = 2**20  # bytes


@dataclass(frozen=True)
class Place:
    """Where an image lies: bytes in a shard."""

    shard: Path
    member: str
    offset: int
    size: int


@dataclass(frozen=True)
class ShardFiles:
    """Encoded images in shards, read from their places without unpacking; safe in worker processes."""

    places: tuple[Place, ...]

    def __len__(self) -> int:
        return len(self.places)

    def open(self, index: int) -> IO[bytes]:
        """See :class:`temper.data.files.Files`."""
        place = self.places[index]
        check_bytes(place.size, self.where(index))
        with place.shard.open("rb") as shard:
            shard.seek(place.offset)
            return io.BytesIO(shard.read(place.size))

    def where(self, index: int) -> str:
        """See :class:`temper.data.files.Files`."""
        return f"{self.places[index].shard}/{self.places[index].member}"

    def take(self, indices: NDArray[np.int64]) -> "ShardFiles":
        """See :class:`temper.data.files.Files`."""
        return ShardFiles(tuple(self.places[index] for index in indices))


def load_shards(path: Path, split: SplitName | None) -> Dataset:
    """The data set in a folder of shards, or in one; see :func:`temper.data.load`.

    A sample is an image and its label: a member ``.cls`` (or ``.label``, ``.cls.txt``) with a class number or name, or
    a ``.json`` with one under "label", "cls", "class" or "class_index". ``class_to_idx.json`` beside the shards names
    the classes; else numbers are their names, or names are numbered in order, the training part's in every part.

    Raises:
        DataError: a shard is damaged, compressed, or has a sample without image or label; the message names it.
    """
    parts = _parts(path)
    check_split(split, tuple(part for part in parts if part), str(path))
    samples = [sample for shard in parts[split] for sample in _samples(shard)]
    training = parts["train"] if split and "train" in parts else ()
    reference = [label for shard in training for _, label in _samples(shard)] if split != "train" else []
    labels = [label for _, label in samples]
    names, number_of = _classes(path, reference or labels)
    stranger = next((place for place, label in samples if label not in number_of), None)
    if stranger:
        raise DataError(
            f"{stranger.shard}/{stranger.member}: has a class that is none of the training part's: remove it"
        )
    return Dataset(
        images=FileImages(ShardFiles(tuple(place for place, _ in samples))),
        labels=np.array([number_of[label] for label in labels], dtype=np.int64),
        class_names=names,
        ids=np.arange(len(samples), dtype=np.int64),
        name="/".join(filter(None, (path.resolve().name, split))),
    )


def shard_parts(path: Path) -> tuple[SplitName, ...]:
    """The parts that the shards' names tell."""
    return tuple(part for part in _parts(path) if part)


def _parts(path: Path) -> dict[SplitName | None, tuple[Path, ...]]:
    if path.is_file():
        return {None: (path,)}
    shards = sorted(path.rglob("*.tar")) if path.is_dir() else []
    if not shards:
        raise ArgumentError(
            "data", f"webdataset:{path}", "no such file, or a folder without .tar shards: give their folder"
        )
    return files_of_parts(shards, path)


def _classes(path: Path, labels: list[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The class names in the order of their numbers, and the number of each label."""
    numbered = all(label.isdecimal() for label in labels)
    known = given_order(path, () if numbered else labels)
    if known is not None:
        names = tuple(known)
    elif numbered:
        names = numbered_classes(np.array([int(label) for label in labels], dtype=np.int64), str(path))
    else:
        names = tuple(sorted(set(labels)))
    return names, {str(number) if numbered else name: number for number, name in enumerate(names)}


def _samples(shard: Path) -> Iterator[tuple[Place, str]]:
    """The images of a shard with their labels, in its order."""
    size = shard.stat().st_size
    try:
        with tarfile.open(shard, "r:") as archive:
            for key, members in _grouped(archive, shard):
                images = [member for name, member in members.items() if f".{name}".endswith(IMAGE_SUFFIXES)]
                if len(images) != 1:
                    raise DataError(f"{shard}/{key}: has {len(images)} images, not one: mend the shard")
                place = Place(shard, images[0].name, images[0].offset_data, images[0].size)
                if place.offset + place.size > size:
                    raise DataError(f"{shard}: is cut short: copy or download it again")
                yield place, _label(archive, members, f"{shard}/{key}")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{shard}: no plain tar archive ({error}): unpack a compressed one, or make it anew") from error


def _grouped(archive: tarfile.TarFile, shard: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Members by the name before its first dot, which follow each other; in each by what is after it."""
    last, group = "", dict[str, tarfile.TarInfo]()
    for member in archive:
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts or not (member.isreg() or member.isdir()) or member.issparse():
            raise DataError(f"{shard}: member {member.name!r} is no plain file inside it: refused, make it anew")
        stem, dot, ending = name.name.partition(".")
        if member.isdir() or not stem or not dot:
            continue
        key = (name.parent / stem).as_posix()
        if key != last and group:
            yield last, group
            group = {}
        last, group[ending.lower()] = key, member
    if group:
        yield last, group


def _label(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], where: str) -> str:
    """What a sample's label says: a number in digits, or a name."""
    kind = next((each for each in _LABELS if each in members), None)
    if kind is None or members[kind].size > _MAX_LABEL:
        raise DataError(f"{where}: has no label: a member .cls with the class, or .json with {', '.join(_KEYS)}")
    stream = archive.extractfile(members[kind])
    assert stream is not None  # a plain file
    try:
        label: object = stream.read().decode("utf-8").strip()
        if kind == "json":
            facts = json.loads(str(label))
            label = next(facts[key] for key in _KEYS if key in facts)
    except (ValueError, TypeError, StopIteration) as error:
        raise DataError(f"{where}: its label {members[kind].name!r} cannot be read: mend the shard") from error
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
        raise DataError(f"{where}: its label is {str(label)[:40]!r}, no class number or name: mend the shard")
    text = str(label)
    return str(int(text)) if text.isdecimal() else text
