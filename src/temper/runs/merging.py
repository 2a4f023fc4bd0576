"""``temper merge``: evidence tables of one model on one data set, and other tools' adversarial images, as one table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from temper.core.files import not_there
from temper.data import Dataset
from temper.data.adversarial import load_adversarial
from temper.errors import ArgumentError, EvidenceError
from temper.evaluation.expected import in_expectation
from temper.evaluation.measurement import TABLE, check_measured, identity
from temper.evaluation.samples import from_dataset
from temper.evaluation.verifying import Checked, Given, check, check_source
from temper.margins import EvidenceTable
from temper.runs.evaluate import load
from temper.threat import check_norm


@dataclass(frozen=True)
class MadeFrom:
    """What adversarial images were made from, as a command names it; see :func:`temper.runs.evaluate.evaluate_into`."""

    model: str
    data: str
    limit: int | None = None
    seed: int = 0
    image_size: int | None = None
    eot: int | None = None


@dataclass(frozen=True)
class AdversarialFile:
    """Adversarial images in a file.

    Attributes:
        path: of the file, see :func:`temper.data.adversarial.load_adversarial`.
        norm: to measure them in.
        source: the tool that made them.
        made_from: model and data.
    """

    path: Path
    norm: str
    source: str
    made_from: MadeFrom


def merged_tables(places: Sequence[Path]) -> EvidenceTable:
    """Evidence tables, named as files or as folders that hold one, as one.

    Raises:
        ArgumentError: one is not there.
        EvidenceError: a table cannot be read, or is of another model, data set or suite of one name; names the file.
    """
    for place in places:
        if not place.exists():
            raise ArgumentError("TABLE", str(place), not_there(place, f"name a {TABLE}, or a folder that holds one"))
        if place.is_dir():
            check_measured(place, "TABLE")
    paths = [place / TABLE if place.is_dir() else place for place in places]
    merged = EvidenceTable.load(paths[0])
    for path in paths[1:]:
        try:
            merged = merged.merge(EvidenceTable.load(path))
        except EvidenceError as error:
            raise EvidenceError(f"{path} does not go with {paths[0]}: {error}") from None
    return merged


def check_file(file: AdversarialFile, known: EvidenceTable | None = None) -> Checked:
    """Check adversarial images that another tool made, before they are merged with what is known.

    Without ids in the file, its images are those of all samples in their order. What belongs to samples that a limit
    leaves out is left aside.

    Raises:
        ArgumentError, DataError, ModelError: the call cannot work.
        EvidenceError: ``known`` is about another model or other data.
    """
    norm, source, of = check_norm(file.norm), check_source(file.source), file.made_from
    images, ids = load_adversarial(file.path)
    classifier, whole = load(of.model, of.data, None, of.seed, of.image_size)
    dataset = whole if of.limit is None else whole.limit(of.limit, of.seed)
    samples = from_dataset(dataset, classifier)
    model = classifier if of.eot is None else in_expectation(classifier, of.eot, of.seed, samples.few())
    if known is not None:
        try:
            known.check_identity(identity(model, samples))
        except EvidenceError as error:
            fix = "name the tables' MODEL and DATA, with the same --limit, --seed, --image-size and --eot"
            raise EvidenceError(f"{of.model} on {of.data} does not go with the tables: {error}; {fix}") from None
    given = Given(images, _ids(file.path, len(images), ids, (dataset, whole)), norm, source)
    return check(model, samples, given.take(~np.isin(given.sample, np.setdiff1d(whole.ids, dataset.ids))))


def _ids(path: Path, images: int, ids: NDArray[np.int64] | None, either: Sequence[Dataset]) -> NDArray[np.int64]:
    """Whose images these are: as the file says, or those of one of the data sets in its order."""
    if ids is not None:
        return ids
    for dataset in either:
        if len(dataset) == images:
            return dataset.ids
    fix = f"holds {images:,} images of {len(either[0]):,} samples: say whose they are in an array sample, int64 ids"
    raise ArgumentError("adversarial", str(path), fix)


def nearer(known: EvidenceTable, checked: Checked) -> int:
    """How many samples have a nearer flip by the images than in the table."""
    theirs = checked.table.nearest(checked.given.norm)
    own = known.nearest(checked.given.norm).reindex(theirs.index).fillna(np.inf)
    return int((theirs < own).sum())
