"""What the tests of the Ray engine do with cells; here, so that Ray's workers need not import a whole file of tests."""

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.benchmark.engines.base import Execute
from temper.benchmark.grid import Cell
from temper.benchmark.store import Ending, Store
from temper.errors import ArgumentError


@dataclass(frozen=True)
class Noted:
    """:class:`Execute`, with notes of where each run begins and how it ends."""

    store: Store
    notes: Path
    owner: str = "test"

    def __call__(self, cell: Cell) -> Ending:
        """Carry it out."""
        import ray

        self.note("begun", cell.run, node=ray.get_runtime_context().get_node_id(), pid=os.getpid())
        outcome = Execute(self.store, self.owner)(cell)
        self.note("ended", cell.run, outcome=outcome)
        return outcome

    def note(self, kind: str, run: str, **facts: Any) -> None:
        """One file each, moved into place."""
        unfinished = self.notes / uuid.uuid4().hex
        unfinished.write_text(json.dumps({"kind": kind, "run": run, **facts}))
        unfinished.rename(unfinished.with_suffix(".json"))

    def read(self, kind: str) -> list[dict[str, Any]]:
        """All notes of a kind."""
        notes = [json.loads(path.read_text()) for path in self.notes.glob("*.json")]
        return [note for note in notes if note["kind"] == kind]


@dataclass(frozen=True)
class Misbehave:
    """Dies, or does what a run should not do, by the seed."""

    place: Path

    def __call__(self, cell: Cell) -> Ending:
        """Count the attempts of seed 0, which dies each time, and of 1, which dies the first time."""
        seed = cell.factors["seed"]
        (self.place / f"{seed}-{uuid.uuid4().hex}").touch()
        if seed == 0 or (seed == 1 and self.attempts(1) == 1):
            os._exit(3)
        if seed == 2:
            raise ArgumentError("seed", 2, "is not what this test likes")
        return "done"

    def attempts(self, seed: int) -> int:
        """How often a run was begun."""
        return len(list(self.place.glob(f"{seed}-*")))


@dataclass(frozen=True)
class Count:
    """Nothing but a trace of each call."""

    place: Path

    def __call__(self, cell: Cell) -> Ending:
        """One line per call."""
        with (self.place / f"{os.getpid()}.txt").open("a") as file:
            file.write(f"{cell.run}\n")
        return "done"
