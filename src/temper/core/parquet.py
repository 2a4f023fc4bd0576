"""Parquet tables with notes in JSON, as evidence is kept: pages carry checksums, so that damage is no wrong number."""

import json
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from temper.core.files import written
from temper.errors import DamagedError, EvidenceError


def write_table(
    path: Path, frame: pd.DataFrame, key: bytes, notes: object, compression: Literal["snappy", "zstd"] = "snappy"
) -> None:
    """Write a frame's columns, and under ``key`` the JSON-able notes."""
    content = pa.Table.from_pandas(frame, preserve_index=False)
    content = content.replace_schema_metadata({key: json.dumps(notes, sort_keys=True)})
    with written(path) as unfinished:
        pq.write_table(content, unfinished, compression=compression, write_page_checksum=True)


def read_table(path: Path, key: bytes, kind: str) -> tuple[pd.DataFrame, Any]:
    """What :func:`write_table` wrote: the frame and the notes.

    Args:
        path: of the file.
        key: of the notes.
        kind: what such a file is, for the message, as "not an evidence table" where it is none.

    Raises:
        DamagedError: the file was cut short or overwritten since it was written.
        EvidenceError: it is not there, may not be read, or is no such table.
    """
    try:
        content = pq.read_table(path, page_checksum_verification=True)
        noted = (content.schema.metadata or {}).get(key)
        frame = content.to_pandas()
    except FileNotFoundError:
        raise EvidenceError(f"{path}: is not there") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno:
            raise EvidenceError(f"{path}: cannot be read ({error.strerror})") from None
        raise _damaged(path, error) from None
    if noted is None:
        raise EvidenceError(f"{path}: is {kind} (temper's metadata is not in it)")
    try:
        return frame, json.loads(noted)
    except ValueError:
        raise DamagedError(f"{path}: is {kind} (temper's metadata in it is damaged)") from None


def _damaged(path: Path, error: Exception) -> DamagedError:
    """What says so; the reason without the file's name, which Arrow repeats."""
    reason = " ".join(str(error).split()).replace(f"Could not open Parquet input source '{path}': ", "")
    return DamagedError(f"{path}: cannot be read as Parquet ({reason[:100]}); restore it, or name another")
