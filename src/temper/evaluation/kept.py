"""Adversarial images, kept as they are found: each sample's nearest verified flip, for any number of processes at once.

While a search goes on each flip is a small file ``FOLDER/NORM-FINGERPRINT/SAMPLE-CLASS-DISTANCE.f32``, whose name says
all about it and whose content never changes. So it makes no difference who writes or removes which of them when, as
long as none is removed but for a nearer one. In the end they are packed (:mod:`temper.evaluation.packed`).
"""

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from temper.attacks.work import Flip
from temper.core.claims import Claims, in_turn, owner
from temper.core.files import written
from temper.core.places import Place
from temper.errors import EvidenceError
from temper.evaluation.packed import PIXEL, Packed, packing
from temper.threat import Norm

log = logging.getLogger(__name__)

PACKING = "packing"  # the claim of who packs
ENDING = ".f32"


@dataclass(frozen=True, order=True)
class Entry:
    """A flip that is kept; of those of one sample the nearest comes first.

    Attributes:
        sample: its id.
        distance: to its image.
        becomes: its class.
        file: that holds its pixels; empty where they are packed.
    """

    sample: int
    distance: float
    becomes: int
    file: str = ""

    @classmethod
    def of(cls, sample: int, flip: Flip) -> "Entry":
        """Of a flip that goes into a file of its own."""
        return cls(sample, flip.distance, flip.becomes, f"{sample}-{flip.becomes}-{flip.distance!r}{ENDING}")

    @classmethod
    def of_file(cls, name: str) -> "Entry":
        """What the name of such a file says."""
        sample, becomes, distance = name.removesuffix(ENDING).split("-", 2)
        return cls(int(sample), float(distance), int(becomes), name)


class Kept:
    """The nearest flips of one model on one data set, in a folder that processes share.

    Args:
        folder: made when the first is kept.
        identity: fingerprints of model and data, JSON-able.
        shape: of an image, channels first.
        norms: that are searched in.

    Raises:
        EvidenceError: the folder holds images of another model or data set, or a damaged file.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, object], shape: tuple[int, ...], norms: Sequence[Norm]
    ) -> None:
        self.folder, self.shape, self.norms = folder, shape, norms
        self._about = json.dumps(identity, sort_keys=True)
        self._nearest = {norm: self._listed(norm) for norm in norms}

    def keep(self, norm: Norm, sample: int, flip: Flip) -> None:
        """Write a flip down, unless a nearer one is kept; on return it is on the disk.

        Raises:
            OSError: the disk is full, for instance; what was kept before stays.
        """
        before = self._nearest[norm].get(sample)
        if before and before.distance <= flip.distance:
            return
        entry = Entry.of(sample, flip)
        with written(self._pieces(norm) / entry.file) as unfinished:
            unfinished.write_bytes(np.ascontiguousarray(flip.image.cpu().numpy(), PIXEL).tobytes())
        self._nearest[norm][sample] = entry
        if before and before.file:
            (self._pieces(norm) / before.file).unlink(missing_ok=True)

    def missing(self, norm: Norm, samples: NDArray[np.int64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which samples have a flip at the distance ``upper``, but none that is kept is as near: bool [N]."""
        self._nearest[norm] = nearest = self._listed(norm)
        kept = np.array([nearest[sample].distance if sample in nearest else np.inf for sample in samples.tolist()])
        return np.asarray(np.isfinite(upper) & (kept > upper))

    def announce(self, samples: int) -> None:
        """Say how much room the flips of so many samples take at most, and warn where the disk has not as much."""
        each = samples * math.prod(self.shape) * PIXEL.itemsize
        most = each * (len(self.norms) + 1)  # one packed file beside all that is not packed yet
        free = shutil.disk_usage(next(above for above in self.folder.absolute().parents if above.exists())).free
        size = f"{self.folder}: adversarial images take up to {_megabytes(most)}"
        if most > free:
            log.warning("%s, and the disk has %s free", size, _megabytes(free))
        else:
            log.info("%s on the disk", size)

    def pack(self, frame: pd.DataFrame) -> dict[Norm, Path]:
        """Bring what is kept into one file per norm; returns their paths.

        Args:
            frame: of an evidence table, for the labels and predictions of all samples.

        Raises:
            OSError: the disk is full, for instance; all that is kept stays. EvidenceError: see :class:`Kept`.
        """
        decisions = frame.drop_duplicates("sample").set_index("sample")
        with in_turn(self.folder, PACKING):
            for norm in self.norms:
                for dead in self.folder.glob(f".{norm}.npz.*.part"):  # whoever packed them was killed
                    dead.unlink(missing_ok=True)
                nearest = self._listed(norm)
                if any(entry.file for entry in nearest.values()) or not self._path(norm).exists():
                    self._pack(norm, sorted(nearest.values()), decisions)
                self._sweep(norm)
        return {norm: self._path(norm) for norm in self.norms}

    def _pack(self, norm: Norm, nearest: Sequence[Entry], decisions: pd.DataFrame) -> None:
        packed: list[Entry] = []
        with packing(self._path(norm)) as file:
            file.images(len(nearest), self.shape, self._contents(norm, nearest, packed))
            own = decisions.loc[[entry.sample for entry in packed]]
            file.array("sample", own.index.to_numpy(np.int64))
            file.array("label", own["label"].to_numpy(np.int64))
            file.array("prediction", own["prediction"].to_numpy(np.int64))
            file.array("adversarial_prediction", np.array([entry.becomes for entry in packed], np.int64))
            file.array("distance", np.array([entry.distance for entry in packed], np.float64))
            file.array("about", np.array(self._about))

    def _contents(self, norm: Norm, nearest: Sequence[Entry], packed: list[Entry]) -> Iterator[bytes]:
        """The pixels of these flips, of rising samples, each noted in ``packed``."""
        before = self._packed(norm)
        samples, images = (set(before.sample.tolist()), before.images()) if before else (set(), iter(()))
        for entry in nearest:
            content = next(images) if entry.sample in samples else b""
            own, pixels = self._pixels(norm, entry) if entry.file else (entry, content)
            packed.append(own)
            yield pixels

    def _pixels(self, norm: Norm, entry: Entry) -> tuple[Entry, bytes]:
        """What a file holds, or that of a nearer flip, if another process has put one into its place just now."""
        while True:
            try:
                return entry, (self._pieces(norm) / entry.file).read_bytes()
            except FileNotFoundError:
                nearer = [each for each in self._entries(norm) if each.sample == entry.sample]
                if not nearer:
                    told = f"{self._path(norm)}: another process packs it, too; the same command goes on from there"
                    raise EvidenceError(told) from None
                entry = min(nearer)

    def _sweep(self, norm: Norm) -> None:
        """Remove the files of all that is packed, and those that a killed process had just begun."""
        packed = self._packed(norm)
        reached = dict(zip(packed.sample.tolist(), packed.distance.tolist(), strict=True)) if packed else {}
        for entry in self._entries(norm):
            if entry.distance >= reached.get(entry.sample, np.inf):
                (self._pieces(norm) / entry.file).unlink(missing_ok=True)
        Claims(Place(self.folder), self._pieces(norm).name).sweep(owner())
        with suppress(OSError):  # another process still finds some
            self._pieces(norm).rmdir()

    def _listed(self, norm: Norm) -> dict[int, Entry]:
        """The nearest flip of each sample on the disk. What vanishes while others pack is in their file by then, which
        is therefore looked at last."""
        entries = list(self._entries(norm))
        packed = self._packed(norm)
        if packed:
            columns = (packed.sample, packed.distance, packed.becomes)
            entries += [Entry(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
        nearest: dict[int, Entry] = {}
        for entry in sorted(entries):
            nearest.setdefault(entry.sample, entry)
        return nearest

    def _entries(self, norm: Norm) -> Iterator[Entry]:
        """The flips in files of their own; one that is not whole, after a crash of the machine, is none."""
        size = math.prod(self.shape) * PIXEL.itemsize
        with suppress(FileNotFoundError), os.scandir(self._pieces(norm)) as files:
            for file in files:
                with suppress(FileNotFoundError):
                    if file.name.endswith(ENDING) and file.stat().st_size == size:
                        yield Entry.of_file(file.name)

    def _packed(self, norm: Norm) -> Packed | None:
        path = self._path(norm)
        return Packed.read(path, self._about, self.shape) if path.exists() else None

    def _path(self, norm: Norm) -> Path:
        return self.folder / f"{norm}.npz"

    def _pieces(self, norm: Norm) -> Path:
        """Where flips of this model, data and shape lie until they are packed."""
        digest = hashlib.sha256(f"{self._about} {self.shape}".encode()).hexdigest()
        return self.folder / f"{norm}-{digest[:12]}"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
