"""SQL on a store, by DuckDB: reading only, of what the query names, as much at once as it needs."""

import contextlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from temper.benchmark.columns import SEVERITY, names
from temper.benchmark.parts import Parts, chunks
from temper.benchmark.store import Store
from temper.benchmark.transfer import NEEDED, with_severity
from temper.errors import ArgumentError

VIEWS = {"results": "runs", "margins": "margins", "corruptions": "corruptions"}  # to the store's folders


def query(store: Store, sql: str, *, limit: int | None = None) -> pd.DataFrame:
    """The answer to a SELECT on the views ``results`` (a row per run), ``margins`` (a row per run, sample, norm and
    suite) and ``corruptions`` (a row per run, sample and corruption). Nothing in the store can be changed by it, and
    no other file is read. Ctrl-C stops it.

    Args:
        store: that is asked.
        sql: one SELECT.
        limit: rows of the answer at most.

    Raises:
        ArgumentError: the SQL cannot be run, or is no SELECT; DuckDB's reason is told.
    """
    if limit is not None and limit < 1:
        raise ArgumentError("limit", limit, "give at least 1")
    with tempfile.TemporaryDirectory() as here, duckdb.connect() as connection, _told(sql):
        connection.execute("SET temp_directory=''")  # a query writes nothing, not even what memory cannot hold
        _check_reads(connection, sql)
        read = [
            path
            for view in VIEWS
            if view in sql.lower()  # what is surely not asked for is not looked at
            for path in _show(connection, store, view, Path(here), severities=SEVERITY in sql.lower() or "*" in sql)
        ]
        connection.execute("SET allowed_paths=?", [read])
        connection.execute("SET enable_external_access=false")  # a query reads the store, and no other file
        connection.execute("SET lock_configuration=true")
        return _answer(connection, sql, limit)


def _check_reads(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = connection.extract_statements(sql)
    if not statements:
        raise ArgumentError("SQL", sql, f"is empty; write a SELECT on {', '.join(VIEWS)}")
    if len(statements) > 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise ArgumentError("SQL", sql, "only reads results: write one SELECT; nothing in a store is changed by SQL")


def _show(connection: duckdb.DuckDBPyConnection, store: Store, view: str, here: Path, *, severities: bool) -> list[str]:
    """Make a view of what the store holds of a kind; its files are read when the query needs them. Returns those that
    DuckDB reads itself, which takes a fraction of the memory; it takes some names for patterns, and those not."""
    store.compact(VIEWS[view])
    parts = store.parts[VIEWS[view]]
    contents = parts.look()
    paths = [parts.place.path(part.name) for part in contents.parts]
    own = [path for path in paths if parts.place.folder and not set(path) & set("*?[")]
    others = [path for path in paths if path not in own]
    own += [str(path) for path in _copied(parts, contents.loose, here)]
    for number, path in enumerate(others):
        fs = None if parts.place.folder else parts.place.fs
        connection.register(f"{view}_{number}", pads.dataset(path, filesystem=fs, format="parquet"))
    for number, path in enumerate(own, start=len(others)):
        connection.read_parquet(path).create_view(f"{view}_{number}")
    if own or others:
        union = " UNION ALL BY NAME ".join(f"SELECT * FROM {view}_{n}" for n in range(len(own) + len(others)))
        beside = _severities(connection, store) if severities and VIEWS[view] == "runs" else ""
        connection.execute(f"CREATE VIEW {view} AS SELECT * FROM ({union}) {beside}")
    return own


def _severities(connection: duckdb.DuckDBPyConnection, store: Store) -> str:
    """Join the severities, which follow from several rows, to the rows; returns the SQL of it."""
    columns = ["run", *names(SEVERITY)]
    connection.register("severities", with_severity(store.rows([*NEEDED])).reindex(columns=columns))
    return "LEFT JOIN severities USING (run)"


def _copied(parts: Parts, loose: dict[str, str], here: Path) -> Iterator[Path]:
    for number, chunk in enumerate(chunks(loose)):
        table, whole = parts.joined(chunk)
        if whole:
            path = here / f"{parts.kind.folder}-{number}.parquet"
            pq.write_table(table, path)
            yield path


def _answer(connection: duckdb.DuckDBPyConnection, sql: str, limit: int | None) -> pd.DataFrame:
    """Run the query in a thread, so that this one hears Ctrl-C."""

    def run() -> pd.DataFrame:
        answer = connection.sql(sql)
        return (answer if limit is None else answer.limit(limit)).df()

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(run)
        try:
            return answer.result()
        except KeyboardInterrupt:
            while not answer.done():  # a query that has not quite begun does not hear the first
                connection.interrupt()
                wait([answer], timeout=0.05)
            raise


@contextlib.contextmanager
def _told(sql: str) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError("SQL", sql, f"{reason}; tables: {', '.join(VIEWS)}") from None
