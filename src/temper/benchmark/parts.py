"""Compact copies of a store's files: hundreds of runs in one Parquet file, so that thousands are read quickly.

The files of the single runs stay what counts. A part names those that it was made of, each with a stamp of its content,
and holds only while all of them are there as they were; otherwise it is as if there were none. So a part may be
written, lost, damaged or removed at any moment, twice or by several processes at once, and nothing is lost or doubled.
"""

import hashlib
import io
import json
import warnings
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from temper.core.places import Place
from temper.errors import DamagedError, TemperWarning, UnreachableError

SIZE = 256  # files in a part
FOLDER = "parts"
SOURCES = b"temper-sources"
READERS = 16  # of an object store's files at once


@dataclass(frozen=True)
class Kind:
    """What a store keeps of each run in files of its own.

    Attributes:
        folder: where they lie; a run's file is named as the run.
        is_result: whether the file is the run's result row, which says itself whose it is.
        by_suite: whether there is a file for each suite, RUN-SUITE.
    """

    folder: str
    is_result: bool = False
    by_suite: bool = False


KINDS = {
    kind.folder: kind for kind in (Kind("runs", is_result=True), Kind("margins", by_suite=True), Kind("corruptions"))
}


@dataclass(frozen=True)
class Part:
    """A file of many runs.

    Attributes:
        name: in the store.
        sources: names of the files that it was made of, with their stamps.
    """

    name: str
    sources: dict[str, str]


@dataclass(frozen=True)
class Contents:
    """Where the runs of one kind are to be read: in parts, and for the others in files of their own."""

    parts: list[Part]
    loose: dict[str, str]
    useless: list[str]


class Parts:
    """The files of one kind in a store, and the parts made of them.

    Args:
        place: of the store.
        kind: the folder in it, of :data:`KINDS`.
    """

    def __init__(self, place: Place, kind: str) -> None:
        self.place, self.kind = place, KINDS[kind]

    def look(self) -> Contents:
        """What holds at this moment; no run is in it twice."""
        files = _parquet(self.place.stamps(self.kind.folder))
        whole, loose, useless = [], dict(files), []
        for name in sorted(_parquet(self.place.stamps(FOLDER))):
            if not name.startswith(f"{self.kind.folder}-"):
                continue
            part = Part(f"{FOLDER}/{name}.parquet", self._sources(f"{FOLDER}/{name}.parquet"))
            if part.sources and all(loose.get(name) == stamp for name, stamp in part.sources.items()):
                whole.append(part)
                for source in part.sources:
                    del loose[source]
            else:
                useless.append(part.name)
        return Contents(whole, loose, useless)

    def compact(self) -> None:
        """Write parts of all files that can fill one, and remove those that hold no longer."""
        contents = self.look()
        for name in contents.useless:
            self.place.remove(name)
        for chunk in chunks(contents.loose):
            if len(chunk) == SIZE:
                self._write(chunk)

    def tables(self, contents: Contents, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All that there is, a table at a time, without columns that are not there; of damaged files it is told."""
        for part in contents.parts:
            try:
                yield self.open(part.name, columns)
            except (OSError, pa.ArrowException) as error:
                if isinstance(error, UnreachableError):
                    raise
                yield self.joined(part.sources, columns)[0]
        for chunk in chunks(contents.loose):
            yield self.joined(chunk, columns)[0]

    def joined(self, sources: dict[str, str], columns: Sequence[str] | None = None) -> tuple[pa.Table, dict[str, str]]:
        """Files of single runs as one table with the column ``run``, and which of them are in it."""
        if self.place.folder:
            read = [self._read(name, columns) for name in sources]
        else:
            with ThreadPoolExecutor(READERS) as pool:
                read = list(pool.map(lambda name: self._read(name, columns), sources))
        whole = {name: table for name, table in zip(sources, read, strict=True) if table is not None}
        return join(list(whole.values())), {name: sources[name] for name in whole}

    def whole(self, name: str) -> bool:
        """Whether a run's file is there and can be read; of a damaged one it is told."""
        return self._read(name, ["run"]) is not None

    def damaged(self, names: Collection[str]) -> set[str]:
        """Which of these files are there and cannot be read, which a warning says of each."""
        names = set(names)
        if len(names) > SIZE:  # what is in a part was read when that was made
            names &= self.look().loose.keys()
        with ThreadPoolExecutor(1 if self.place.folder else READERS) as pool:
            errors = [error for error in pool.map(self._damage, names) if error is not None]
        for _, error in errors:
            effect = "its run counts as not done, and temper bench run does it again"
            warnings.warn(f"{error}; {effect}", TemperWarning, stacklevel=2)
        return {name for name, _ in errors}

    def _damage(self, name: str) -> tuple[str, DamagedError] | None:
        try:
            self._load(name, None)
        except FileNotFoundError:
            return None
        except DamagedError as error:
            return name, error
        return None

    def open(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file of the store."""
        file = pq.ParquetFile(self._file(name), page_checksum_verification=True)
        return file.read(None if columns is None else [c for c in columns if c in file.schema_arrow.names])

    def _read(self, name: str, columns: Sequence[str] | None) -> pa.Table | None:
        try:
            return self._load(name, columns)
        except FileNotFoundError:  # removed just now
            return None
        except DamagedError as error:
            effect = "counts as not done, and temper bench run does it again" if self.kind.is_result else "is left out"
            warnings.warn(f"{error}; it {effect}", TemperWarning, stacklevel=2)
            return None

    def _load(self, name: str, columns: Sequence[str] | None) -> pa.Table:
        """A single run's file with the column ``run``; DamagedError where it cannot be read."""
        path = f"{self.kind.folder}/{name}.parquet"
        place = f"{self.place.location}/{path}"
        try:
            table = self.open(path, columns)
        except (FileNotFoundError, UnreachableError):
            raise
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DamagedError(f"{place}: damaged ({' '.join(str(error).split())[:100]})") from None
        if self.kind.is_result:
            wanted = {"run", "status"} & set(columns or ("run", "status"))
            if table.num_rows != 1 or not wanted <= set(table.column_names):
                raise DamagedError(f"{place}: damaged (no result row)")
            return table
        run = name.rpartition("-")[0] if self.kind.by_suite else name
        return table.add_column(0, "run", pa.array([run] * table.num_rows, pa.string()))

    def _write(self, chunk: dict[str, str]) -> None:
        table, sources = self.joined(chunk)
        if not sources:
            return
        noted = json.dumps(sources, sort_keys=True).encode()
        content = io.BytesIO()
        pq.write_table(
            table.replace_schema_metadata({SOURCES: noted}), content, compression="zstd", write_page_checksum=True
        )
        name = f"{FOLDER}/{self.kind.folder}-{hashlib.sha256(noted).hexdigest()[:16]}.parquet"
        self.place.write(name, content.getvalue())

    def _sources(self, name: str) -> dict[str, str]:
        """The files that a part names; none where it cannot be read."""
        try:
            noted = pq.ParquetFile(self._file(name)).schema_arrow.metadata[SOURCES]
            sources: dict[str, str] = json.loads(noted)
            return sources
        except UnreachableError:
            raise
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return {}

    def _file(self, name: str) -> object:
        return self.place.path(name) if self.place.folder else self.place.open(name)


def chunks(files: dict[str, str]) -> Iterator[dict[str, str]]:
    """Files in the order of their names, as many at a time as a part holds."""
    ordered = sorted(files.items())
    for start in range(0, len(ordered), SIZE):
        yield dict(ordered[start : start + SIZE])


def join(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables one below the other; a column that is not of one type in all of them becomes text."""
    tables = [table.replace_schema_metadata(None) for table in tables]
    try:
        return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({"run": []})
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return pa.concat_tables(_as_text(tables), promote_options="permissive")


def _as_text(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """The tables, with those columns as text whose types do not fit."""
    types: dict[str, pa.DataType] = {}
    text = set()
    for field in (field for table in tables for field in table.schema):
        before = types.setdefault(field.name, field.type)
        try:
            pair = [pa.schema([(field.name, before)]), pa.schema([field])]
            types[field.name] = pa.unify_schemas(pair, promote_options="permissive").field(0).type
        except (pa.ArrowTypeError, pa.ArrowInvalid):
            text.add(field.name)
    return [
        table.cast(pa.schema([pa.field(f.name, pa.string()) if f.name in text else f for f in table.schema]))
        for table in tables
    ]


def _parquet(stamps: dict[str, str]) -> dict[str, str]:
    return {
        name.removesuffix(".parquet"): stamp
        for name, stamp in stamps.items()
        if name.endswith(".parquet") and not name.startswith(".")
    }
