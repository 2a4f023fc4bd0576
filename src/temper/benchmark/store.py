"""Where results live: one folder, here or in an object store, of Parquet files that any number of runs write at once.

``runs/RUN.parquet`` is a result row (one line: factors, metrics with their intervals, configuration, state) and is
written last: a run is done when it is there. ``margins/RUN-SUITE.parquet`` and ``corruptions/RUN.parquet`` hold what
was found on every sample, so that a new metric needs no new run. ``claims/`` says who is at work, ``searches/`` which
hyper-parameters were found, ``work/`` holds checkpoints and weights.
"""

import contextlib
import io
import json
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from temper.claims import Claims
from temper.errors import RunError
from temper.places import Place

FORMAT = 1
HEADER = "store.json"
DONE, FAILED = "done", "failed"


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
        self._claims = Claims(self._files, "claims")
        self._check_header(create)

    def __reduce__(self) -> tuple[Any, ...]:
        # Where it travels to, the working folder may be another one.
        return Store, (str(self.folder or self.place),)

    def write_run(self, row: Mapping[str, Any]) -> None:
        """Put a result row down; there is one per run, and the last one stands."""
        frame = pd.DataFrame([row])
        self._files.write(f"runs/{row['run']}.parquet", frame.to_parquet(index=False))

    def rows(self) -> pd.DataFrame:
        """All result rows, in order of their runs' names; empty where there are none."""
        names = sorted(self._names("runs", ".parquet"))
        with _pool(len(names)) as each:
            frames = list(each(self._frame, [f"runs/{name}.parquet" for name in names]))
        if not frames:
            return pd.DataFrame(columns=["run", "status"])
        columns = list(dict.fromkeys(column for frame in frames for column in frame.columns))
        records = [record for frame in frames for record in frame.to_dict("records")]
        return pd.DataFrame.from_records(records, columns=columns)

    def finished(self) -> set[str]:
        """Names of the runs that have a row, failed ones too."""
        return self._names("runs", ".parquet")

    def remove_run(self, run: str) -> None:
        """Forget a run's row, so that it is started again."""
        self._fs.rm(self._path(f"runs/{run}.parquet"))

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
            raise RunError(f"{self.place}: holds no {kind}/{name}.parquet; the store is not whole, run it again")
        if self.folder:
            yield Path(target)
            return
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / f"{name}.parquet"
            self._fs.get_file(target, str(local))
            yield local

    def has(self, kind: str, name: str) -> bool:
        """Whether such a file is kept."""
        return bool(self._fs.exists(self._path(f"{kind}/{name}.parquet")))

    def note(self, kind: str, name: str, content: Any) -> None:
        """Keep something JSON-able."""
        self._files.write(f"{kind}/{name}.json", json.dumps(content, indent=1).encode())

    def noted(self, kind: str, name: str) -> Any:
        """What :meth:`note` kept; None where there is nothing."""
        try:
            return json.loads(self._files.read(f"{kind}/{name}.json"))
        except FileNotFoundError:
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

    def local(self, pattern: str, into: Path) -> str:
        """A pattern of local files for a query: the store's own, or copies in ``into`` where it is elsewhere."""
        if self.folder:
            return str(self.folder / pattern)
        for path in self._fs.glob(self._path(pattern)):
            copy = into / path.removeprefix(f"{self._root}/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            self._fs.get_file(path, str(copy))
        return str(into / pattern)

    def _check_header(self, create: bool) -> None:
        try:
            header = json.loads(self._files.read(HEADER))
        except FileNotFoundError:
            if not create:
                raise RunError(f"{self.place}: holds no benchmark results; temper bench run SPEC makes them") from None
            self._files.write(HEADER, json.dumps({"format": FORMAT, "temper": metadata.version("temper")}).encode())
            return
        except (ValueError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
            raise RunError(f"{self.place}: is no store of benchmark results ({error}); name another place") from None
        if not isinstance(header, dict) or "format" not in header:
            raise RunError(f"{self.place}: is no store of benchmark results ({HEADER}); name another place")
        if header["format"] != FORMAT:
            raise RunError(
                f"{self.place}: written in format {header['format']} by Temper {header.get('temper')}, and this "
                f"Temper {metadata.version('temper')} reads {FORMAT}; use that version, or name another place"
            )

    def _frame(self, name: str) -> pd.DataFrame:
        try:
            return pq.read_table(io.BytesIO(self._fs.cat_file(self._path(name)))).to_pandas()
        except (OSError, ValueError) as error:
            raise RunError(f"{self.place}/{name}: damaged ({error}); remove it, and run again") from None

    def _names(self, kind: str, suffix: str) -> set[str]:
        try:
            self._fs.invalidate_cache()
            paths = self._fs.ls(self._path(kind), detail=False)
        except FileNotFoundError:
            return set()
        names = (str(path).rpartition("/")[2] for path in paths)
        return {name.removesuffix(suffix) for name in names if name.endswith(suffix) and not name.startswith(".")}


def _unfinished(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts) or path.name.endswith(".part")


@contextlib.contextmanager
def _pool(count: int) -> Iterator[Any]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(max(count, 1), 16)) as pool:
        yield pool.map
