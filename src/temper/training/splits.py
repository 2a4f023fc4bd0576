"""Training, validation and test data of a run, and the record of how they were divided."""

from dataclasses import dataclass, replace

import numpy as np

from temper import data
from temper.data import Dataset
from temper.errors import ArgumentError, DataError, naming
from temper.text import listed
from temper.training.config import FinetuneConfig
from temper.training.sections.images import DataConfig
from temper.training.seen import unseen, untrained


@dataclass(frozen=True)
class Splits:
    """The three parts of a run's data; no sample is in two of them.

    ``extra`` are further images to train on, such as generated ones, none of which is held out.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    extra: Dataset | None = None

    @property
    def seen(self) -> tuple[Dataset, ...]:
        """The parts that training looks at: none of their images is a test image ever after."""
        return (self.train, self.validation, *([self.extra] if self.extra else []))

    def record(self) -> dict[str, object]:
        """What the run's folder says of the split: names, fingerprints, and the ids of every part."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        parts |= {"extra": self.extra} if self.extra else {}
        return {name: part.describe() | {"ids": part.ids.tolist()} for name, part in parts.items()}


def splits_of(config: FinetuneConfig) -> Splits:
    """A run's data; images that the run it begins with was trained on are none of its test data.

    Raises:
        See :func:`load_splits`. DataError: that run was trained on all of the test data.
    """
    splits = load_splits(config.data, config.seed)
    return replace(splits, test=untrained(splits.test, config.model.name))


def load_splits(config: DataConfig, seed: int) -> Splits:
    """Load a run's data; parts that are not given are held out of the training data, stratified by class.

    Raises:
        ArgumentError, DataError: the data cannot be read, or the parts do not have the same classes.
    """
    seed = seed if config.split_seed is None else config.split_seed
    with naming({"data": "data.train", "classes": "data.classes", "split": "data.train"}):
        parts = data.available_splits(config.train)
        train = data.load(config.train, split="train" if parts else None, classes=config.classes)
    test = _given(config, "test") or _own(config, parts, "test")
    validation = _given(config, "validation") or _own(config, parts, "validation")
    if config.validation is None and test and validation and _same(test, validation):
        validation = None  # a source without a test part is tested on its validation part
    if test is None:
        train, test = _hold_out(train, config.test_fraction, seed, "data.test_fraction")
    if validation is None:
        train, validation = _hold_out(train, config.validation_fraction, seed + 1, "data.validation_fraction")
    validation = _as_trained("data.validation", validation, train, config.classes)
    test = _as_trained("data.test", test, train, config.classes)
    train = _limited(train, config.train_limit, seed)
    test = _limited(test, config.test_limit, seed)
    validation = _limited(validation, config.validation_limit, seed)
    return Splits(train, validation, test, _extra(config, train, (validation, test)))


def _limited(part: Dataset, most: int | None, seed: int) -> Dataset:
    return part if most is None else part.limit(most, seed)


def _extra(config: DataConfig, train: Dataset, held_out: tuple[Dataset, ...]) -> Dataset | None:
    """The extra images to train on, without those that are held out; their classes are the training data's."""
    if config.extra is None:
        return None
    if config.extra == config.train:
        raise ArgumentError("data.extra", config.extra, "is the training data; name other images, or leave it out")
    with naming({"data": "data.extra", "split": "data.extra"}):
        parts = data.available_splits(config.extra)
        extra = data.load(config.extra, split="train" if "train" in parts else next(iter(parts), None))
    theirs, ours = extra.class_names, train.class_names
    missing = [name for name in ours if name not in theirs]
    strangers = [] if config.classes else [name for name in theirs if name not in ours]
    differences = {"lacks": missing, "has beside them": strangers}
    told = "; ".join(f"{what} {listed(names)}" for what, names in differences.items() if names)
    if told:
        fix = f"its classes must be those of the training data {train.name}, but it {told}; rename or remove them"
        raise ArgumentError("data.extra", config.extra, fix)
    extra = _as_trained("data.extra", extra, train, config.classes)
    return unseen(extra, np.concatenate([part.digests() for part in held_out]), "that are held out to measure on")


def _given(config: DataConfig, part: data.SplitName) -> Dataset | None:
    """The data that the configuration names for a part; of a divided source, that very part where it has one."""
    spec = config.test if part == "test" else config.validation
    if spec is None:
        return None
    with naming({"data": f"data.{part}", "split": f"data.{part}"}):
        parts = data.available_splits(spec)
        if spec == config.train and part not in parts:
            raise ArgumentError("data", spec, "is the training data; leave it out to hold out a share of them")
        wanted = next((name for name in (part, "test", "train") if name in parts), None)
        return data.load(spec, split=wanted)  # which of its classes are the training data's is told by their names


def _as_trained(argument: str, part: Dataset, train: Dataset, classes: int | None) -> Dataset:
    """A part with the training data's classes, told by their names; a class may have no sample in it."""
    if part.class_names == train.class_names:
        return part
    try:
        shared = [name for name in part.class_names if name in train.class_names]
        return (part.keep_classes(shared) if classes and shared else part).named_as(train.class_names)
    except DataError as error:
        fix = f"its classes differ from those of the training data {train.name}: {error}"
        raise ArgumentError(argument, part.name, fix) from None


def _own(config: DataConfig, parts: tuple[data.SplitName, ...], part: data.SplitName) -> Dataset | None:
    return data.load(config.train, split=part, classes=config.classes) if part in parts else None


def _same(one: Dataset, other: Dataset) -> bool:
    """Whether two data sets are one and the same, judged by labels and first image."""
    return np.array_equal(one.labels, other.labels) and one.images.content(0) == other.images.content(0)


def _hold_out(whole: Dataset, fraction: float, seed: int, argument: str) -> tuple[Dataset, Dataset]:
    try:
        rest, held_out = data.split(whole, fraction=fraction, seed=seed)
    except ArgumentError as error:
        raise ArgumentError(argument, fraction, str(error).split(": ", 1)[-1]) from None
    return whole.subset(rest), whole.subset(held_out)
