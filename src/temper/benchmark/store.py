"""Where results live: one folder, here or in an object store, of Parquet files that any number of runs write at once.

``runs/RUN.parquet`` is a result row (one line: factors, metrics with their intervals, configuration, state) and is
written last: a run is done when it is there. ``margins/RUN-SUITE.parquet`` and ``corruptions/RUN.parquet`` hold what
was found on every sample, so that a new metric needs no new run. ``claims/`` says who is at work, ``searches/`` which
hyper-parameters were found, ``work/`` holds checkpoints and weights.
"""

import contextlib
import io
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow.parquet as pq

from temper.errors import ArgumentError, MissingExtraError, RunError
from temper.files import written

FORMAT = 1
HEADER = "store.json"
BEAT_SECONDS = 10.0
STALE_SECONDS = 60.0
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
        self.place = str(place).rstrip("/")
        try:
            self._fs, self._root = fsspec.url_to_fs(self.place, **_options(self.place))
        except ImportError:
            raise MissingExtraError(f"store {self.place}", "s3") from None
        except ValueError as error:
            raise ArgumentError("store", self.place, f"is no folder or URL that can be read ({error})") from None
        self._root = self._root.rstrip("/")
        self.folder = Path(self._root) if "file" in _protocols(self._fs) else None
        self._check_header(create)

    def __reduce__(self) -> tuple[Any, ...]:
        # Where it travels to, the working folder may be another one.
        return Store, (str(self.folder) if self.folder else self.place,)

    def write_run(self, row: Mapping[str, Any]) -> None:
        """Put a result row down; there is one per run, and the last one stands."""
        frame = pd.DataFrame([row])
        self._write(f"runs/{row['run']}.parquet", frame.to_parquet(index=False))

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
        self._write(f"{kind}/{name}.parquet", path.read_bytes())

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
        self._write(f"{kind}/{name}.json", json.dumps(content, indent=1).encode())

    def noted(self, kind: str, name: str) -> Any:
        """What :meth:`note` kept; None where there is nothing."""
        try:
            return json.loads(self._fs.cat_file(self._path(f"{kind}/{name}.json")))
        except FileNotFoundError:
            return None

    def claim(self, name: str, owner: str) -> bool:
        """Take a piece of work, unless someone else who lives is at it. An owner may take its own again."""
        path = self._path(f"claims/{name}.json")
        content = json.dumps({"owner": owner, "time": time.time()}).encode()
        try:
            self._create(path, content)
        except FileExistsError:
            held = self.noted("claims", name)
            if held and held["owner"] != owner and time.time() - held["time"] < STALE_SECONDS:
                return False
            self._write(f"claims/{name}.json", content)
        return True

    def release(self, name: str) -> None:
        """Give a piece of work back."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(f"claims/{name}.json"))

    @contextlib.contextmanager
    def claimed(self, name: str, owner: str) -> Iterator[bool]:
        """Hold a claim, kept fresh by a thread of its own; the value says whether it was to be had."""
        if not self.claim(name, owner):
            yield False
            return
        try:
            with repeated(lambda: self.note("claims", name, {"owner": owner, "time": time.time()})):
                yield True
        finally:
            self.release(name)

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
            header = json.loads(self._fs.cat_file(self._path(HEADER)))
        except FileNotFoundError:
            if not create:
                raise RunError(f"{self.place}: holds no benchmark results; temper bench run SPEC makes them") from None
            self._write(HEADER, json.dumps({"format": FORMAT, "temper": metadata.version("temper")}).encode())
            return
        except (json.JSONDecodeError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
            raise RunError(f"{self.place}: is no store of benchmark results ({error}); name another place") from None
        if header.get("format") != FORMAT:
            raise RunError(
                f"{self.place}: written in format {header.get('format')} by Temper {header.get('temper')}, and this "
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

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _write(self, name: str, content: bytes) -> None:
        """Whole or not at all: an object appears when it is complete, a local file is moved into place."""
        if self.folder:
            with written(self.folder / name) as unfinished:
                unfinished.write_bytes(content)
        else:
            self._fs.pipe_file(self._path(name), content)

    def _create(self, path: str, content: bytes) -> None:
        """Write a file that must not be there yet, so that of two processes one succeeds."""
        if self.folder:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            # A link appears with its content, where creating and then writing would show an empty file.
            unfinished = Path(f"{path}.{uuid.uuid4().hex}.part")
            unfinished.write_bytes(content)
            try:
                os.link(unfinished, path)
            finally:
                unfinished.unlink()
        else:
            self._fs.pipe_file(path, content, mode="create")


def _options(place: str) -> dict[str, Any]:
    # Other workers write too: what a listing said a moment ago is not to be trusted.
    return {"use_listings_cache": False} if "://" in place and not place.startswith("file:") else {}


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol: str | tuple[str, ...] = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _unfinished(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts) or path.name.endswith(".part")


@contextlib.contextmanager
def repeated(action: Callable[[], None]) -> Iterator[None]:
    """Inside, do something every ``BEAT_SECONDS`` in a thread of its own."""
    done = threading.Event()

    def beat() -> None:
        while not done.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):  # a hiccup of the network or disk; the next beat comes
                action()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextlib.contextmanager
def _pool(count: int) -> Iterator[Any]:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(max(count, 1), 16)) as pool:
        yield pool.map
