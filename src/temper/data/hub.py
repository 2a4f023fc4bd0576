"""Data sets of the Hugging Face hub: ``hf:ORG/NAME``, with the extra ``hub``."""

from typing import TYPE_CHECKING

from temper.core.hub import prompt_hub
from temper.data.dataset import Dataset
from temper.data.parts import SplitName, check_split, find_parts
from temper.data.tables import of_table
from temper.errors import DataError, MissingExtraError
from temper.text import first_line

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa


def load_hub(name: str, split: SplitName | None) -> Dataset:
    """The data set of that name, ``ORG/NAME`` or ``ORG/NAME:CONFIGURATION``, from the cache where it is there; see
    :func:`temper.data.load`. No code of a data set's own is executed.

    Raises:
        MissingExtraError: ``datasets`` is not installed.
        DataError: it cannot be had, or has no images with one label each.
    """
    whole = _whole(name)
    parts = find_parts(whole)
    check_split(split, parts, f"hf:{name}")
    if split is None:
        raise DataError(f"hf:{name}: has the parts {', '.join(whole)}, none of which is for training or testing")
    label = "/".join([name.partition(":")[0].strip("/").rpartition("/")[2], split])
    training = (lambda _: _table(whole[parts["train"]])) if "train" in parts else None
    return of_table(_table(whole[parts[split]]), f"hf:{name}", label, training)


def hub_parts(name: str) -> tuple[SplitName, ...]:
    """The parts that it is divided into."""
    return tuple(find_parts(_whole(name)))


def _whole(name: str) -> "datasets.DatasetDict":
    place, _, configuration = name.partition(":")
    if not place:
        raise DataError(f"hf:{name}: names no data set; write it as hf:ORG/NAME")
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(f"data hf:{name}", "hub") from None
    try:
        with prompt_hub():
            return datasets.load_dataset(place, configuration or None)
    except Exception as error:  # the hub's client and the readers of files raise what they like
        raise DataError(
            f"hf:{name}: cannot be had ({type(error).__name__}: {first_line(error)[:200]}): copy it to this machine"
            " (datasets.save_to_disk, or its Parquet files) and give parquet:DIR"
        ) from error


def _table(part: "datasets.Dataset") -> "pa.Table":
    """Its rows, with the class names in the schema's metadata."""
    return part.data.table.replace_schema_metadata(part.features.arrow_schema.metadata)
