"""Data sets in Parquet files, or in the Arrow files that ``datasets.save_to_disk`` writes."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from temper.data.dataset import Dataset, numbered_classes
from temper.data.files import FileImages
from temper.data.parts import SplitName, check_split, files_of_parts, find_parts
from temper.errors import ArgumentError, DataError

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "target", "class", "fine_label")


@dataclass(frozen=True, eq=False)
class TableFiles:
    """Encoded images in the cells of an Arrow column of bytes, or of structs with a field ``bytes``."""

    column: pa.ChunkedArray
    rows: NDArray[np.int64]
    source: str

    def __len__(self) -> int:
        return len(self.rows)

    def open(self, index: int) -> IO[bytes]:
        """See :class:`temper.data.files.Files`."""
        cell = self.column[int(self.rows[index])]
        if isinstance(cell, pa.StructScalar) and cell.is_valid:
            cell = cell["bytes"]
        if not cell.is_valid:
            raise DataError(f"{self.where(index)}: holds no image bytes: store the images in the file itself")
        stream: IO[bytes] = pa.BufferReader(cell.as_buffer())  # no copy: a mapped file is read only as asked
        return stream

    def where(self, index: int) -> str:
        """See :class:`temper.data.files.Files`."""
        return f"{self.source} row {self.rows[index]}"

    def take(self, indices: NDArray[np.int64]) -> "TableFiles":
        """See :class:`temper.data.files.Files`."""
        return TableFiles(self.column, self.rows[indices], self.source)


def load_table(path: Path, split: SplitName | None) -> Dataset:
    """The data set in a Parquet file or a folder of Parquet or Arrow files; see :func:`temper.data.load`.

    Parquet is held in memory (encoded), Arrow files are mapped. Labels are class numbers or strings; class
    names come from the file's Hugging Face metadata, or from the labels of the training part.
    """
    parts = _part_files(path)
    check_split(split, tuple(part for part in parts if part), str(path))
    name = "/".join(filter(None, (path.resolve().name, split)))
    schema = _schema(parts[split][0])
    columns = [_image_column(schema, str(path)), _label_column(schema, str(path))]
    return of_table(
        _read(parts[split], columns).replace_schema_metadata(schema.metadata),
        str(path),
        name,
        (lambda label: _read(parts["train"], [label])) if "train" in parts else None,
    )


def of_table(table: pa.Table, where: str, name: str, training: Callable[[str], pa.Table] | None = None) -> Dataset:
    """The data set in an Arrow table with one column of images and one of labels.

    Args:
        table: with the metadata that Hugging Face's libraries write in its schema, where they wrote it.
        where: how a message to people names it.
        name: of the data set.
        training: from the label column's name to the training part's table, which numbers labels without metadata.
    """
    image, label = _image_column(table.schema, where), _label_column(table.schema, where)
    values = _plain(table.column(label))
    if values.null_count:
        row = values.is_null().to_pylist().index(True)
        raise DataError(f"{where}: row {row} of {name} has no {label}: add it or remove the row")
    names = _stored_names(table.schema, label)
    if names is None:
        names = _names_from(_plain(training(label).column(label)) if training else values, where)
    return Dataset(
        images=FileImages(TableFiles(table.column(image), np.arange(len(table), dtype=np.int64), where)),
        labels=_numbers(values, names, where),
        class_names=names,
        ids=np.arange(len(table), dtype=np.int64),
        name=name,
    )


def table_parts(path: Path) -> tuple[SplitName, ...]:
    """The parts that the source is divided into."""
    return tuple(part for part in _part_files(path) if part)


def _part_files(path: Path) -> dict[SplitName | None, tuple[Path, ...]]:
    """The files of each part; of the one part None if the source is not divided.

    Raises:
        ArgumentError: no such file or folder.
        DataError: no Parquet files, nor a saved data set.

    """
    if path.is_file():
        return {None: (path,)}
    if not path.is_dir():
        raise ArgumentError("data", f"parquet:{path}", "no such file or folder: give parquet:DIR")
    if (path / "dataset_dict.json").is_file():
        saved = find_parts(_json(path / "dataset_dict.json")["splits"])
        return {part: _arrow_files(_inside(path, folder)) for part, folder in saved.items()}
    if (path / "state.json").is_file():
        return {None: _arrow_files(path)}
    files = sorted(path.rglob("*.parquet"))
    if not files:
        raise DataError(f"{path}: holds no .parquet files, nor a folder that datasets.save_to_disk wrote")
    return files_of_parts(files, path)


def _arrow_files(folder: Path) -> tuple[Path, ...]:
    return tuple(_inside(folder, entry["filename"]) for entry in _json(folder / "state.json")["_data_files"])


def _inside(folder: Path, name: object) -> Path:
    """The file or folder of that name in a folder; what a saved data set names lies nowhere else."""
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
        raise DataError(f"{folder}: names {name!r}, which is no file in it: refused, save the data set anew")
    return folder / name


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error}): save the data set anew") from error


def _schema(file: Path) -> pa.Schema:
    with _explained(file):
        return _stream(file).schema if file.suffix == ".arrow" else pq.read_schema(file)


def _read(files: tuple[Path, ...], columns: list[str]) -> pa.Table:
    tables = []
    for file in files:
        with _explained(file):
            if file.suffix == ".arrow":
                tables.append(_stream(file).read_all().select(columns))
            else:
                tables.append(pq.read_table(file, columns=columns))
    with _explained(files[0].parent):
        return pa.concat_tables(tables)


def _stream(file: Path) -> pa.ipc.RecordBatchStreamReader:
    return pa.ipc.open_stream(pa.memory_map(str(file)))


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn Arrow's errors into a DataError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not readable ({reason}): replace it or write it anew") from error


def _plain(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Labels as integers or strings, also where they are stored as a dictionary (pandas' categories)."""
    return labels.cast(labels.type.value_type) if pa.types.is_dictionary(labels.type) else labels


def _is_label(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _image_column(schema: pa.Schema, where: str) -> str:
    columns = [
        field.name
        for field in schema
        if pa.types.is_binary(field.type)
        or pa.types.is_large_binary(field.type)
        or (pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
    ]
    return _only(columns, _IMAGE_COLUMNS, "image (bytes, or struct with bytes)", schema, where)


def _label_column(schema: pa.Schema, where: str) -> str:
    columns = [field.name for field in schema if _is_label(field.type)]
    return _only(columns, _LABEL_COLUMNS, "label (integers or strings)", schema, where)


def _only(columns: list[str], usual: tuple[str, ...], what: str, schema: pa.Schema, where: str) -> str:
    """The column found, or that of several which has the usual name."""
    for name in usual:
        if name in columns:
            return name
    if len(columns) == 1:
        return columns[0]
    raise DataError(f"{where}: which column is the {what}? It has {', '.join(schema.names)}: name it {usual[0]}")


def _stored_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """The class names in the metadata that Hugging Face's libraries write."""
    metadata = (schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    feature = json.loads(metadata).get("info", {}).get("features", {}).get(label, {})
    return tuple(feature["names"]) if feature.get("_type") == "ClassLabel" and "names" in feature else None


def _names_from(labels: pa.ChunkedArray, where: str) -> tuple[str, ...]:
    if pa.types.is_integer(labels.type):
        return numbered_classes(labels.to_numpy(), where)
    return tuple(sorted(set(labels.to_pylist())))


def _numbers(labels: pa.ChunkedArray, names: tuple[str, ...], where: str) -> NDArray[np.int64]:
    if pa.types.is_integer(labels.type):
        return labels.to_numpy().astype(np.int64)
    number_of = {name: number for number, name in enumerate(names)}
    values = labels.to_pylist()
    strangers = [row for row, value in enumerate(values) if value not in number_of]
    if strangers:
        row = strangers[0]
        raise DataError(f"{where}: row {row} has label {values[row]!r}, which the training part has not")
    return np.array([number_of[value] for value in values], dtype=np.int64)
