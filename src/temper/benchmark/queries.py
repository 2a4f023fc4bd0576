"""SQL on a store, by DuckDB."""

import tempfile
from pathlib import Path

import duckdb
import pandas as pd

from temper.benchmark.store import Store
from temper.errors import ArgumentError

# Views by name: files of the store, and the columns that their names hold.
VIEWS = {
    "results": ("runs/*.parquet", "*"),
    "margins": (
        "margins/*.parquet",
        "regexp_extract(filename, '([0-9a-f]+)-[^/]*$', 1) AS run, * EXCLUDE (filename)",
    ),
    "corruptions": (
        "corruptions/*.parquet",
        "regexp_extract(filename, '([0-9a-f]+)[.]parquet$', 1) AS run, * EXCLUDE (filename)",
    ),
}


def query(store: Store, sql: str) -> pd.DataFrame:
    """The answer to a SELECT on the views ``results`` (a row per run), ``margins`` (a row per run, sample, norm and
    suite) and ``corruptions`` (a row per run, sample and corruption). Nothing in the store can be changed by it.

    Raises:
        ArgumentError: the SQL cannot be run; DuckDB's reason is told.
    """
    with tempfile.TemporaryDirectory() as here, duckdb.connect() as connection:
        for name, (pattern, columns) in VIEWS.items():
            files = store.local(pattern, Path(here))
            if any(Path(files).parent.glob(Path(files).name)):
                source = f"read_parquet('{files.replace(chr(39), chr(39) * 2)}', union_by_name=true"
                named = ", filename=true" if "filename" in columns else ""
                connection.execute(f"CREATE TABLE {name} AS SELECT {columns} FROM {source}{named})")
        connection.execute("SET enable_external_access=false")  # a query reads the store, and no other file
        try:
            return connection.execute(sql).df()
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise ArgumentError("SQL", sql, f"{reason}; tables: {', '.join(VIEWS)}") from None
