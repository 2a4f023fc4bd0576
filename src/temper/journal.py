"""The journal of an evaluation: every outcome, written down as it comes, by any number of processes at once.

Each process appends to a file of its own, so nothing is ever locked; what was written is there after ``kill -9``.
Shards of samples are claimed so that no two processes work on the same ones. A claim is only advice: outcomes are the
same whoever finds them, and reading one twice changes nothing but the count of passes. So a claim whose process is
gone is simply taken over.
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from temper.attacks.search import Outcome
from temper.claims import Claims
from temper.errors import EvidenceError
from temper.places import Place
from temper.threat import Norm, check_norm


class Journal:
    """Outcomes in a folder that processes share.

    Args:
        folder: made if it is not there.
        header: what all outcomes are about (model, data, suite, seed), JSON-able.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self.folder, self._header = folder, json.dumps(header, sort_keys=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._claims = Claims(Place(folder), "claims")
        self._worker = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
        self._file: TextIO | None = None
        self._read: dict[Path, int] = {}
        self._held: set[str] = set()

    def append(self, norm: Norm, outcome: Outcome) -> None:
        """Write an outcome down."""
        if self._file is None:
            path = self.folder / f"{self._worker}.csv"
            # Own outcomes are not news.
            self._file, self._read[path] = path.open("w", buffering=1), -1
            self._file.write(self._header + "\n")
        values = (norm, outcome.sample, outcome.stage, outcome.radius, outcome.distance, outcome.forward)
        self._file.write(",".join(map(str, (*values, outcome.backward))) + "\n")

    def news(self) -> Iterator[tuple[Norm, Outcome]]:
        """Outcomes of other processes, and of earlier ones, that were not read yet.

        Raises:
            EvidenceError: the folder is the journal of something else.
        """
        for path in sorted(self.folder.glob("*.csv")):
            start = self._read.get(path, 0)
            if start < 0:
                continue
            with path.open("rb") as file:
                file.seek(start)
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]  # a process may have been killed inside a line
            lines = whole.decode().splitlines()
            self._read[path] = start + len(whole)
            if lines and start == 0 and lines.pop(0) != self._header:
                raise EvidenceError(
                    f"{path}: the journal of another model, data set, suite or seed; remove it, or name another folder"
                )
            yield from map(_outcome, lines)

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
        """Release what is held."""
        for shard in list(self._held):
            self.release(shard)
        if self._file:
            self._file.close()
            self._file = None


def _outcome(line: str) -> tuple[Norm, Outcome]:
    norm, sample, stage, radius, distance, forward, backward = line.split(",")
    outcome = Outcome(int(sample), stage, float(radius), float(distance), int(forward), int(backward))
    return check_norm(norm), outcome
