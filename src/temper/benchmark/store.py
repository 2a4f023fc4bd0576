"""Where results live: one folder, here or in an object store, of Parquet files that any number of runs write at once.

``runs/RUN.parquet`` is a result row (one line: factors, metrics with their intervals, configuration, state) and is
written last: a run is done when it is there. ``margins/RUN-SUITE.parquet`` and ``corruptions/RUN.parquet`` hold what
was found on every sample, so that a new metric needs no new run. ``parts/`` has copies of hundreds of these in one
file; they only make reading quick, and may be removed at any time. ``claims/`` says who is at work, ``searches/``
which hyper-parameters were found, ``work/`` holds checkpoints and weights.
"""

import contextlib
import json
import logging
import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from temper import distribution
from temper.benchmark import parts
from temper.core.claims import Claims
from temper.core.files import check_writable
from temper.core.places import Place
from temper.errors import ArgumentError, RunError

log = logging.getLogger(__name__)

FORMAT = 1
HEADER = "store.json"
RUN_DONE, RUN_FAILED = "done", "failed"
Ending = Literal["done", "failed", "elsewhere"]  # elsewhere: another process is at the run


class NoResultsError(ArgumentError, RunError):
    """Nothing was ever put where results are asked for."""


class Store:
    """The results under one folder or ``s3://bucket/prefix``.

    Args:
        place: a local folder, or a URL that fsspec reads.
        create: make it if it is not there; otherwise it must be.

    Raises:
        RunError: there is no store, or one of another format.
        ArgumentError: the place cannot be used. MissingExtraError: its kind of URL needs a package.
    """

    def __init__(self, place: str | Path, *, create: bool = False) -> None:
        self._files = Place(place)
        self.place, self._fs, self._path = self._files.location, self._files.fs, self._files.path
        self._root, self.folder = self._files.root, self._files.folder
        self.parts = {kind: parts.Parts(self._files, kind) for kind in parts.KINDS}
        self._claims = Claims(self._files, "claims")
        self._check_header(create)

    def __reduce__(self) -> tuple[type["Store"], tuple[str]]:
        # Where it travels to, the working folder may be another one.
        return Store, (str(self.folder or self.place),)

    def write_run(self, row: Mapping[str, object]) -> None:
        """Put a result row down; there is one per run, and the last one stands."""
        frame = pd.DataFrame([row])
        self._files.write(f"runs/{row['run']}.parquet", frame.to_parquet(index=False, write_page_checksum=True))
        if zlib.crc32(str(row["run"]).encode()) % parts.SIZE == 0:  # now and then, whoever writes
            for kind in parts.KINDS:
                self.compact(kind)

    def rows(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All result rows, in order of their runs' names; empty where there are none. Of damaged ones it is warned.

        Args:
            columns: those that are wanted; ``run`` among them. By default all.
        """
        self.compact("runs")
        runs = self.parts["runs"]
        table = parts.join(list(runs.tables(runs.look(), columns)))
        if not table.num_rows:
            return pd.DataFrame(columns=["run", "status"])
        return table.sort_by("run").to_pandas()

    def finished(self) -> set[str]:
        """Names of the runs that have a row, failed ones too; damaged rows count for nothing."""
        return set(self.rows(["run"])["run"])

    def has_run(self, run: str) -> bool:
        """Whether a run has a row that can be read."""
        return self.parts["runs"].whole(run)

    def compact(self, kind: str) -> None:
        """Copy the files of single runs into few ones, where they are many: see :mod:`temper.benchmark.parts`."""
        if len(self.parts[kind].look().loose) < parts.SIZE:
            return
        # Where a store may only be read, or its disk is full, reading takes longer, and no more than that.
        with contextlib.suppress(OSError), self.claimed(f"compact-{kind}", uuid.uuid4().hex) as mine:
            if mine:
                self.parts[kind].compact()

    def remove_run(self, run: str) -> None:
        """Forget a run's row, so that it is started again."""
        self._files.remove(f"runs/{run}.parquet")

    def write_evidence(self, kind: str, name: str, path: Path) -> None:
        """Keep a Parquet file of a run: ``kind`` is margins or corruptions."""
        self._files.write(f"{kind}/{name}.parquet", path.read_bytes())

    @contextlib.contextmanager
    def evidence(self, kind: str, name: str) -> Iterator[Path]:
        """A kept Parquet file, as a local one.

        Raises:
            RunError: it is not there.
        """
        target = self._path(f"{kind}/{name}.parquet")
        if not self._fs.exists(target):
            again = f"remove runs/{name.partition('-')[0]}.parquet, and run it again"
            raise RunError(f"{self.place}: holds no {kind}/{name}.parquet; {again}")
        if self.folder:
            yield Path(target)
            return
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / f"{name}.parquet"
            self._fs.get_file(target, str(local))
            yield local

    def note(self, kind: str, name: str, content: object) -> None:
        """Keep something JSON-able."""
        self._files.write(f"{kind}/{name}.json", json.dumps(content, indent=1).encode())

    def noted(self, kind: str, name: str) -> object:
        """What :meth:`note` kept; None where there is nothing, or something damaged, which a warning says."""
        try:
            content: object = json.loads(self._files.read(f"{kind}/{name}.json").decode())
            return content
        except FileNotFoundError:
            return None
        except ValueError as error:
            log.warning("%s/%s/%s.json: is damaged (%s); it is made again", self.place, kind, name, error)
            return None

    def claim(self, name: str, owner: str) -> bool:
        """Take a piece of work, unless someone else who lives is at it. An owner may take its own again."""
        return self._claims.take(name, owner)

    def release(self, name: str, owner: str) -> None:
        """Give a piece of work back."""
        self._claims.release(name, owner)

    @contextlib.contextmanager
    def claimed(self, name: str, owner: str) -> Iterator[bool]:
        """Hold a claim; the value says whether it was to be had."""
        if not self.claim(name, owner):
            yield False
            return
        try:
            yield True
        finally:
            self.release(name, owner)

    def pull(self, name: str, folder: Path) -> None:
        """Bring a work folder here, where the store is elsewhere and holds it."""
        target = self._path(f"work/{name}")
        if not self.folder and self._fs.exists(target):
            self._fs.invalidate_cache()
            self._fs.get(f"{target}/", f"{folder}/", recursive=True)

    def push(self, name: str, folder: Path) -> None:
        """Keep a work folder's files as they are now, where the store is elsewhere; files that are gone are removed."""
        if self.folder:
            return
        target = self._path(f"work/{name}")
        local = {
            str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not _unfinished(path)
        }
        for relative in sorted(local):
            with contextlib.suppress(FileNotFoundError):  # an older checkpoint may go while this one comes
                self._fs.put_file(str(folder / relative), f"{target}/{relative}")
        self._fs.invalidate_cache()
        held = self._fs.find(target) if self._fs.exists(target) else []
        for path in held:
            if path.removeprefix(f"{target}/") not in local:
                self._fs.rm_file(path)

    def _check_header(self, create: bool) -> None:
        mend = f'name another place, or if that file was damaged write {{"format": {FORMAT}}} into it'
        try:
            header = json.loads(self._files.read(HEADER))
        except FileNotFoundError:
            if not create:
                fix = "holds no benchmark results; temper bench run SPEC makes them"
                raise NoResultsError("store", self.place, fix) from None
            if self.folder:
                check_writable(self.folder, "store")
            self._files.write(HEADER, json.dumps({"format": FORMAT, "temper": distribution.version()}).encode())
            return
        except (ValueError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
            raise RunError(f"{self.place}: is no store of benchmark results ({HEADER}: {error}); {mend}") from None
        if not isinstance(header, dict) or "format" not in header:
            raise RunError(f"{self.place}: is no store of benchmark results ({HEADER}); {mend}")
        if header["format"] != FORMAT:
            raise RunError(
                f"{self.place}: written in format {header['format']} by Temper {header.get('temper')}, and this "
                f"Temper {distribution.version()} reads {FORMAT}; use that version, or name another place"
            )


def require(rows: pd.DataFrame, columns: Sequence[str], place: str) -> None:
    """Refuse rows of runs that are done in which one of these columns has no value: another version wrote them.

    Raises:
        RunError: see above; names the column, and the store at ``place``.
    """
    lacking = next((name for name in columns if name not in rows or rows[name].isna().any()), None)
    if lacking and len(rows):
        raise RunError(
            f"{place}: rows without {lacking}, which another version of Temper wrote; remove runs/, and temper bench "
            "run does these runs again, from the weights and searches that are there"
        )


def _unfinished(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts) or path.name.endswith(".part")
