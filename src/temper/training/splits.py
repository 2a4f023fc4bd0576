"""Training, validation and test data of a run, and the record of how they were divided."""

from dataclasses import dataclass
from typing import Any

from temper import data
from temper.data import Dataset
from temper.errors import ArgumentError
from temper.training.config import DataConfig


@dataclass(frozen=True)
class Splits:
    """The three parts of a run's data; no sample is in two of them."""

    train: Dataset
    validation: Dataset
    test: Dataset

    def record(self) -> dict[str, Any]:
        """What the run's folder says of the split: names, fingerprints, and the ids of every part."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part.describe() | {"ids": part.ids.tolist()} for name, part in parts.items()}


def load_splits(config: DataConfig, seed: int) -> Splits:
    """Load a run's data; parts that are not given are held out of the training data, stratified by class.

    Raises:
        ArgumentError, DataError: the data cannot be read, or the parts do not have the same classes.
    """
    parts = data.available_splits(config.train)
    train = data.load(config.train, split="train" if parts else None, classes=config.classes)
    test = _given(config.test, config) or _own(config, parts, "test")
    validation = _given(config.validation, config) or _own(config, parts, "validation")
    if test and validation and test.images.where(0) == validation.images.where(0):
        validation = None  # a source without a test part is tested on its validation part
    if test is None:
        rest, held_out = data.split(train, fraction=config.test_fraction, seed=seed)
        train, test = train.subset(rest), train.subset(held_out)
    if validation is None:
        rest, held_out = data.split(train, fraction=config.validation_fraction, seed=seed + 1)
        train, validation = train.subset(rest), train.subset(held_out)
    for argument, part in (("data.validation", validation), ("data.test", test)):
        if part.class_names != train.class_names:
            raise ArgumentError(argument, part.name, f"its classes differ from those of the training data {train.name}")
    if config.train_limit is not None:
        train = train.limit(config.train_limit, seed)
    if config.test_limit is not None:
        test = test.limit(config.test_limit, seed)
    return Splits(train, validation, test)


def _given(spec: str | None, config: DataConfig) -> Dataset | None:
    if spec is None:
        return None
    parts = data.available_splits(spec)
    return data.load(spec, split="test" if "test" in parts else None, classes=config.classes)


def _own(config: DataConfig, parts: tuple[data.SplitName, ...], part: data.SplitName) -> Dataset | None:
    return data.load(config.train, split=part, classes=config.classes) if part in parts else None
