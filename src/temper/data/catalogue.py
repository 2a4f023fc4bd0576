"""Published data sets by name, divided as the two studies that Temper's benchmark repeats divide them.

The Guide (Heuillet et al., arXiv:2508.14079) has six, Epsilon-Scheduling (Ngnawé et al., arXiv:2509.23325) five, two of
which are the same. The division of the Guide's is its own, random states included. That of the other three was
published as a file that is no longer to be had: here it is a draw of our own with the published counts.

scikit-learn, scipy, torch and torchvision are imported when a set is loaded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from temper.data.dataset import Dataset
from temper.data.files import FileImages, FolderFiles
from temper.data.parts import SplitName, check_split
from temper.data.published import cub, dogs, uc_merced, with_files
from temper.data.root import NotThereError, default_root
from temper.errors import ArgumentError, DataError
from temper.text import nearest

Study = Literal["guide", "epsilon-scheduling"]
#: int64 positions among the images of a published part, by the parts that they go to.
Division = dict[SplitName, NDArray[np.int64]]

SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")
#: The Guide tests on at most so many images.
_TEST_IMAGES = 1000
#: Of our own draws.
_SEED = 0


@dataclass(frozen=True)
class PublishedPart:
    """Images that were published together.

    Attributes:
        part: what they were published for; None if the set was published undivided.
        images: how many there are.
        divide: from their labels (int64 [images]) to the parts that they go to.
    """

    part: SplitName | None
    images: int
    divide: Callable[[NDArray[np.int64]], Division]


@dataclass(frozen=True)
class PublishedFiles:
    """How a set was published.

    Attributes:
        archives: its files, and where they are.
        layout: what must be in the folder that the archives are unpacked into.
        read: from that folder and a published part to all of its images.
    """

    archives: str
    layout: str
    read: Callable[[Path, SplitName | None], Dataset]


@dataclass(frozen=True)
class PublishedSet:
    """One data set of the catalogue.

    Attributes:
        name: what it is called in the studies.
        classes: number of classes.
        counts: images in each part, after the division.
        rule: the division in words.
        studies: where it is used.
        published: the parts that it was published in.
        files: what it is read from.
    """

    name: str
    classes: int
    counts: Mapping[SplitName, int]
    rule: str
    studies: tuple[Study, ...]
    published: tuple[PublishedPart, ...]
    files: PublishedFiles


def published(name: str) -> PublishedSet:
    """The data set of that name.

    Raises:
        ArgumentError: there is none; the message gives the nearest names.

    """
    if name not in CATALOGUE:
        known = nearest_sets(name) or CATALOGUE
        raise ArgumentError("data", name, f"no such name in the catalogue, choose among {', '.join(known)}")
    return CATALOGUE[name]


def named_in(data: str) -> PublishedSet | None:
    """The set that a DATA names, alone or before a :ROOT; None where it names none."""
    return CATALOGUE.get(data.partition(":")[0])


def nearest_sets(name: str) -> list[str]:
    """At most three names of the catalogue that are spelt much like this one."""
    return nearest(name, CATALOGUE, 3)


def sizes(name: str) -> dict[SplitName, int]:
    """Images in each part of the set, known without reading it.

    Raises:
        ArgumentError: there is no set of that name.

    """
    return dict(published(name).counts)


def describe() -> list[dict[str, object]]:
    """One row per set, ready for a table: name, classes, images per part, rule, studies and archives."""
    return [
        {"name": known.name, "classes": known.classes}
        | dict(known.counts)
        | {"rule": known.rule, "studies": ", ".join(known.studies), "archives": known.files.archives}
        for known in CATALOGUE.values()
    ]


def published_parts(spec: str) -> tuple[SplitName, ...]:
    """The parts that every set of the catalogue is divided into."""
    return SPLITS


def load_published(spec: str, split: SplitName | None) -> Dataset:
    """A part of the set that ``NAME[:ROOT]`` names; see :func:`temper.data.load`.

    Ids are positions in the published part.

    Raises:
        ArgumentError: no such set or part.
        DataError: the set is not in ROOT, or other images are than were published: the message says what to do.

    """
    name, _, given = spec.partition(":")
    known = published(name)
    check_split(split, SPLITS, name)
    assert split is not None
    root = Path(given).expanduser() if given else default_root()
    # A part comes from the published part of its name; what was not published by itself, from the other one.
    source = next((part for part in known.published if part.part == split), known.published[0])
    try:
        whole = known.files.read(root, source.part)
    except (DataError, OSError, KeyError, IndexError, ValueError) as error:
        reason = " ".join(str(error.problem if isinstance(error, NotThereError) else error).split())
        raise DataError(
            f"{name}: not readable in {root} ({reason}): unpack {known.files.archives} so that there is"
            f" {root / known.files.layout}"
        ) from error
    _check(known, source, whole, root)
    chosen = np.sort(source.divide(whole.labels)[split])
    return replace(whole.subset(chosen), name=f"{name}/{split}")


def _check(known: PublishedSet, source: PublishedPart, whole: Dataset, root: Path) -> None:
    """Raise DataError unless the images of the published part are all there, and no others."""
    part = f"published {source.part} part" if source.part else "undivided images"
    again = f"the set may be half unpacked, or another version; unpack {known.files.archives} into {root} again"
    missing = _missing(whole)
    count = len(whole) - len(missing)
    if count != source.images:
        first = f" (the first that is missing is {missing[0]})" if missing else ""
        raise DataError(f"{known.name}: {part}: {count} images found{first}, {source.images} expected: {again}")
    if whole.num_classes != known.classes:
        raise DataError(f"{known.name}: {part}: {whole.num_classes} classes found, {known.classes} expected: {again}")


def _missing(whole: Dataset) -> list[Path]:
    """Files that the set's lists name but its folders do not hold."""
    files = whole.images.files if isinstance(whole.images, FileImages) else None
    if not isinstance(files, FolderFiles):  # a zip archive lists what it holds
        return []
    paths = [files.root / member for member in files.members]
    folders = {path.parent for path in paths}
    there = {folder: {entry.name for entry in folder.iterdir()} for folder in folders if folder.is_dir()}
    return [path for path in paths if path.name not in there.get(path.parent, ())]


# --- divisions ------------------------------------------------------------------------------------


def _whole(split: SplitName, labels: NDArray[np.int64]) -> Division:
    return {split: np.arange(len(labels), dtype=np.int64)}


def _guide_test(labels: NDArray[np.int64]) -> Division:
    """At most 1,000 images, in the classes' proportions (the Guide, random state 0)."""
    positions = np.arange(len(labels), dtype=np.int64)
    if len(positions) > _TEST_IMAGES:
        from sklearn.model_selection import train_test_split

        positions, _ = train_test_split(positions, train_size=_TEST_IMAGES, stratify=labels, random_state=0)
    return {"test": positions}


def _guide_validation(labels: NDArray[np.int64]) -> Division:
    """15 % for validation (the Guide, random state 42)."""
    train, validation = _held_out(np.arange(len(labels), dtype=np.int64), labels, 0.15)
    return {"train": train, "validation": validation}


def _guide_undivided(labels: NDArray[np.int64]) -> Division:
    """20 % for the test, of which 1,000 are used, then 15 % of the rest for validation (the Guide)."""
    rest, test = _held_out(np.arange(len(labels), dtype=np.int64), labels, 0.2)
    train, validation = _held_out(rest, labels, 0.15)
    return {"train": train, "validation": validation, "test": test[_guide_test(labels[test])["test"]]}


def _held_out(
    positions: NDArray[np.int64], labels: NDArray[np.int64], share: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    from sklearn.model_selection import train_test_split

    rest, held_out = train_test_split(positions, test_size=share, stratify=labels[positions], random_state=42)
    return rest, held_out


def _per_class(labels: NDArray[np.int64], *, validation: int, train: int | None = None) -> Division:
    """So many images of each class for validation and training (None: all others), what is left for the test.

    A draw of our own: every class is shuffled with the same generator, class after class.
    """
    generator = np.random.default_rng(_SEED)
    drawn: dict[SplitName, list[NDArray[np.int64]]] = {part: [] for part in SPLITS}
    for label in np.unique(labels):
        shuffled = generator.permutation(np.flatnonzero(labels == label))
        end = None if train is None else validation + train
        drawn["validation"].append(shuffled[:validation])
        drawn["train"].append(shuffled[validation:end])
        drawn["test"].append(shuffled[len(shuffled) if end is None else end :])
    return {part: np.concatenate(pieces).astype(np.int64) for part, pieces in drawn.items()}


# --- layouts --------------------------------------------------------------------------------------


def _torchvision(set_name: str, root: Path, part: SplitName | None) -> Dataset:
    """A set of torchvision, downloaded where that is possible; its images stay files."""
    from temper.data.torchvision_sets import image_paths, load_torchvision

    whole = load_torchvision(f"{set_name}:{root}", part)
    return with_files(whole, root, image_paths(whole))


# --- the sets -------------------------------------------------------------------------------------

_TEST_CUT = "test cut to 1,000 (stratified, random_state 0)"
_SHARE = "15 % of the official training images for validation (scikit-learn, stratified, random_state 42)"
_UNDIVIDED = (
    "20 % for the test, then 15 % of the rest for validation (scikit-learn, stratified, random_state 42 both times)"
)
_OWN = "the division that was published with RoLI is not to be had, so this is a draw of our own with its counts"

_SETS = (
    PublishedSet(
        name="caltech101",
        classes=101,
        counts={"train": 5899, "validation": 1042, "test": 1000},
        rule=f"{_UNDIVIDED}; {_TEST_CUT}; without the background class",
        studies=("guide",),
        published=(PublishedPart(None, 8677, _guide_undivided),),
        files=PublishedFiles(
            archives="caltech-101.zip of data.caltech.edu/records/mzrjq-6wc02 (and 101_ObjectCategories.tar.gz in it)",
            layout="caltech101/101_ObjectCategories",
            read=partial(_torchvision, "Caltech101"),
        ),
    ),
    PublishedSet(
        name="fgvc-aircraft-2013b",
        classes=100,
        counts={"train": 3334, "validation": 3333, "test": 1000},
        rule=f"the official parts, by variant; {_TEST_CUT}",
        studies=("guide", "epsilon-scheduling"),
        published=(
            PublishedPart("train", 3334, partial(_whole, "train")),
            PublishedPart("validation", 3333, partial(_whole, "validation")),
            PublishedPart("test", 3333, _guide_test),
        ),
        files=PublishedFiles(
            archives="fgvc-aircraft-2013b.tar.gz of www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
            layout="fgvc-aircraft-2013b/data/images",
            read=partial(_torchvision, "FGVCAircraft"),
        ),
    ),
    PublishedSet(
        name="flowers-102",
        classes=102,
        counts={"train": 1020, "validation": 1020, "test": 1000},
        rule=f"the official parts; {_TEST_CUT}",
        studies=("guide",),
        published=(
            PublishedPart("train", 1020, partial(_whole, "train")),
            PublishedPart("validation", 1020, partial(_whole, "validation")),
            PublishedPart("test", 6149, _guide_test),
        ),
        files=PublishedFiles(
            archives="102flowers.tgz, imagelabels.mat and setid.mat of www.robots.ox.ac.uk/~vgg/data/flowers/102",
            layout="flowers-102/jpg",
            read=partial(_torchvision, "Flowers102"),
        ),
    ),
    PublishedSet(
        name="oxford-iiit-pet",
        classes=37,
        counts={"train": 3128, "validation": 552, "test": 1000},
        rule=f"{_SHARE}; {_TEST_CUT}",
        studies=("guide",),
        published=(PublishedPart("train", 3680, _guide_validation), PublishedPart("test", 3669, _guide_test)),
        files=PublishedFiles(
            archives="images.tar.gz and annotations.tar.gz of www.robots.ox.ac.uk/~vgg/data/pets",
            layout="oxford-iiit-pet/images",
            read=partial(_torchvision, "OxfordIIITPet"),
        ),
    ),
    PublishedSet(
        name="stanford_cars",
        classes=196,
        counts={"train": 6922, "validation": 1222, "test": 1000},
        rule=f"{_SHARE}; {_TEST_CUT}",
        studies=("guide", "epsilon-scheduling"),
        published=(PublishedPart("train", 8144, _guide_validation), PublishedPart("test", 8041, _guide_test)),
        files=PublishedFiles(
            archives=(
                "cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat (their page at"
                " Stanford is gone; a copy is rickyyyyyyy/torchvision-stanford-cars on Kaggle)"
            ),
            layout="stanford_cars/{cars_train,cars_test,devkit,cars_test_annos_withlabels.mat}",
            read=partial(_torchvision, "StanfordCars"),
        ),
    ),
    PublishedSet(
        name="uc-merced-land-use-dataset",
        classes=21,
        counts={"train": 1428, "validation": 252, "test": 420},
        rule=_UNDIVIDED,
        studies=("guide",),
        published=(PublishedPart(None, 2100, _guide_undivided),),
        files=PublishedFiles(
            archives=(
                "UCMerced_LandUse.zip (md5 5b7ec56793786b6dc8a908e8854ac0e4) of weegee.vision.ucmerced.edu/datasets or"
                " torchgeo/ucmerced on the Hugging Face hub"
            ),
            layout="UCMerced_LandUse/Images",
            read=uc_merced,
        ),
    ),
    PublishedSet(
        name="cub-200-2011",
        classes=200,
        counts={"train": 5394, "validation": 600, "test": 5794},
        rule=f"3 official training images of each class for validation, the official test; {_OWN}",
        studies=("epsilon-scheduling",),
        published=(
            PublishedPart("train", 5994, partial(_per_class, validation=3)),
            PublishedPart("test", 5794, partial(_whole, "test")),
        ),
        files=PublishedFiles(
            archives="CUB_200_2011.tgz (md5 97eceeb196236b17998738112f37df78) of data.caltech.edu/records/65de6-vp158",
            layout="CUB_200_2011/images",
            read=cub,
        ),
    ),
    PublishedSet(
        name="stanford-dogs",
        classes=120,
        counts={"train": 10800, "validation": 1200, "test": 8580},
        rule=f"10 official training images of each class for validation, the official test; {_OWN}",
        studies=("epsilon-scheduling",),
        published=(
            PublishedPart("train", 12000, partial(_per_class, validation=10)),
            PublishedPart("test", 8580, partial(_whole, "test")),
        ),
        files=PublishedFiles(
            archives="images.tar and lists.tar of vision.stanford.edu/aditya86/ImageNetDogs",
            layout="stanford-dogs/{Images,train_list.mat,test_list.mat}",
            read=dogs,
        ),
    ),
    PublishedSet(
        name="caltech256",
        classes=257,
        counts={"train": 14649, "validation": 771, "test": 15187},
        rule=f"57 images of each class to train on, 3 for validation, the rest for the test; {_OWN}",
        studies=("epsilon-scheduling",),
        published=(PublishedPart(None, 30607, partial(_per_class, validation=3, train=57)),),
        files=PublishedFiles(
            archives="256_ObjectCategories.tar of data.caltech.edu/records/nyy15-4j048",
            layout="caltech256/256_ObjectCategories",
            read=partial(_torchvision, "Caltech256"),
        ),
    ),
)

CATALOGUE: Mapping[str, PublishedSet] = {known.name: known for known in _SETS}
"""Every data set by name: the Guide's six, then the other three of Epsilon-Scheduling."""
