"""The journal of an evaluation: every outcome, written down as it comes, by any number of processes at once.

Each process appends to a file of its own, so nothing is ever locked; what was written is there after ``kill -9``.
Shards of samples are claimed so that no two processes work on the same ones. A claim is only advice: outcomes are the
same whoever finds them, and reading one twice changes nothing but the count of passes. So a claim whose process is
gone is simply taken over.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

from temper.attacks.work import Note
from temper.core.claims import Claims, owner
from temper.core.places import Place
from temper.errors import ArgumentError, EvidenceError
from temper.evaluation.search import Outcome
from temper.threat import Norm, check_norm

log = logging.getLogger(__name__)


class Journal:
    """Outcomes in a folder that processes share.

    Args:
        folder: made if it is not there.
        header: what all outcomes are about (model, data, suite, seed), JSON-able.
    """

    def __init__(self, folder: Path, header: Mapping[str, object]) -> None:
        self.folder, self._header = folder, json.dumps(header, sort_keys=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._claims = Claims(Place(folder), "claims")
        self._worker = owner()
        self._file: TextIO | None = None
        self._read: dict[Path, int] = {}
        self._held: set[str] = set()

    def append(self, norm: Norm, outcome: Outcome) -> None:
        """Write an outcome down."""
        if self._file is None:
            path = self.folder / f"{self._worker}.csv"
            # Own outcomes are known.
            self._file, self._read[path] = path.open("w", buffering=1), -1
            self._file.write(self._header + "\n")
        leads = " ".join(map(str, outcome.note.leads))
        searched = outcome.sample, outcome.stage, outcome.radius, outcome.distance, outcome.forward, outcome.backward
        targets = " ".join(map(str, outcome.note.targets))
        self._file.write(",".join(map(str, (norm, *searched, leads, outcome.note.rise, targets))) + "\n")

    def unread(self) -> Iterator[tuple[Norm, Outcome]]:
        """Outcomes of other processes, and of earlier ones, that were not read yet.

        Raises:
            EvidenceError: the folder is the journal of something else.
        """
        for path in sorted(self.folder.glob("*.csv")):
            damaged = 0
            for line in self._lines(path):
                outcome = _outcome(line)
                if outcome is None:
                    damaged += 1
                else:
                    yield outcome
            if damaged:
                log.warning("%s: %d damaged lines are passed over; what they held is searched again", path, damaged)

    def _lines(self, path: Path) -> Iterator[str]:
        """Whole lines that were not read yet, one at a time, without the header; see :meth:`unread`."""
        read = self._read.get(path, 0)
        if read < 0:
            return
        with path.open("rb") as file:
            file.seek(read)
            for content in file:
                if not content.endswith(b"\n"):  # a process may have been killed inside a line
                    return
                first = read == 0
                self._read[path] = read = read + len(content)
                line = content[:-1].decode(errors="replace")
                if not first:
                    yield line
                elif line != self._header:
                    self._refuse(path, line)
                    self._read[path] = -1
                    return

    def _refuse(self, path: Path, header: str) -> None:
        """Raise EvidenceError where a file begins with the header of something else; warn where it has none."""
        try:
            json.loads(header)
        except ValueError:
            log.warning("%s: its first line is damaged; the file is passed over and its samples searched again", path)
            return
        raise EvidenceError(
            f"{path}: the journal of another model, data set, suite or seed; remove it, or name another folder"
        )

    def claim(self, shard: str) -> bool:
        """Take a shard, unless a process that lives works on it."""
        if not self._claims.take(shard, self._worker):
            return False
        self._held.add(shard)
        return True

    def release(self, shard: str) -> None:
        """Give a shard back, done or not."""
        self._held.discard(shard)
        self._claims.release(shard, self._worker)

    def close(self) -> None:
        """Release what is held, and what nobody holds any more."""
        for shard in list(self._held):
            self.release(shard)
        self._claims.sweep(self._worker)
        if self._file:
            self._file.close()
            self._file = None


def _outcome(line: str) -> tuple[Norm, Outcome] | None:
    """The outcome of a line; None where the line is damaged."""
    try:
        norm, sample, stage, radius, distance, forward, backward, leads, rise, *more = line.split(",")
        searched = int(sample), stage, float(radius), float(distance), int(forward), int(backward)
        note = Note(tuple(map(float, leads.split())), float(rise), tuple(map(int, " ".join(more).split())))
        return check_norm(norm), Outcome(*searched, note)
    except (ValueError, ArgumentError):
        return None
