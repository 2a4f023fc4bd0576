"""What an evaluation leaves in its folder, so that others can go on from it."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from temper import data
from temper.core.claims import in_turn, refuse_if_filled
from temper.core.files import check_writable, made, read_json, unless_damaged, write_json, written
from temper.core.places import Place
from temper.corruptions.table import CorruptionTable
from temper.data import Dataset
from temper.errors import ArgumentError, DamagedError, DataError, EvidenceError
from temper.evaluation import measurement, samples
from temper.evaluation.examples import Example, examples
from temper.evaluation.expected import in_expectation
from temper.evaluation.measurement import JOURNAL, TABLE, Evaluation
from temper.evaluation.samples import Samples
from temper.margins import EvidenceTable
from temper.models import Classifier
from temper.models.known import OUTPUT_NAMES, outputs_called
from temper.runs.results import EvaluationResult, Robustness, SearchCost, Subject
from temper.runs.views import EXAMPLES, REPORT, SUMMARY, report
from temper.threat import Threat, parse_threats
from temper.training.seen import untrained

log = logging.getLogger(__name__)

ADVERSARIAL = "adversarial"  # folder of the adversarial images
ABOUT, SAVING = "about.json", "saving"  # in the journal's folder: what it is about, and the claim of who saves


def save_examples(path: Path, examples: Sequence[Example], class_names: Sequence[str]) -> None:
    """Write the examples of a report as arrays; images as float32 NCHW in [0, 1]."""
    if not examples:
        return
    arrays: dict[str, Any] = {
        "images": torch.stack([e.image for e in examples]).numpy(),
        "adversarial": torch.stack([e.adversarial for e in examples]).numpy(),
        "classes": np.array([[e.label, e.prediction, e.adversarial_prediction] for e in examples]),
        "distances": np.array([e.distance for e in examples]),
        "norms": np.array([e.norm for e in examples]),
        "class_names": np.array(class_names, dtype=np.str_),
    }
    with written(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, **arrays)


def evaluate_into(
    folder: Path,
    model: str,
    data_spec: str,
    threats: Sequence[str],
    *,
    suite: str,
    limit: int | None,
    seed: int,
    batch_size: int | None,
    time_budget: float,
    precision: float | None = None,
    image_size: int | None = None,
    save_adversarial: bool = False,
    eot: int | None = None,
) -> EvaluationResult:
    """Measure a model on data, keep the evidence in ``folder``, and write its report there.

    Evidence that is there already is continued. With ``save_adversarial`` each sample's nearest flip is kept, too.
    ``eot`` is the passes for an answer of a random model.

    Raises:
        ArgumentError, ModelError, DataError: the call cannot work.
        EvidenceError: ``folder`` holds evidence on another model or other data.
    """
    wanted = parse_threats(threats)
    check_out(folder)
    classifier, dataset = load(model, data_spec, limit, seed, image_size)
    measured, names = samples.from_dataset(dataset, classifier), class_names(classifier, dataset)
    asked = classifier if eot is None else in_expectation(classifier, eot, seed, measured.few())
    done = evaluate_loaded(
        folder, asked, measured, names, wanted,
        suite=suite, seed=seed, batch_size=batch_size, time_budget=time_budget, precision=precision,
        save_adversarial=save_adversarial,
    )  # fmt: skip
    result = EvaluationResult(
        measured_on(model, dataset, done.table),
        done.table.clean_accuracy(),
        tuple(_robustness(done, threat, wanted, suite) for threat in wanted),
        SearchCost.of(done, folder / TABLE),
        done.complete,
        done.pack(),
        done.table.identity.get("eot"),
    )
    write_json(folder / SUMMARY, result.to_json())
    report([folder], folder / REPORT, f"Temper: {model} on {dataset.name}")
    return result


def measured_on(model: str, dataset: Dataset, table: EvidenceTable | CorruptionTable) -> Subject:
    """What a table is about: a model, as a command named it, and the data set that it was measured on."""
    return Subject(model, table.identity["model"], dataset.name, len(dataset), table.identity["data"])


def load(
    model: str, data_spec: str, limit: int | None, seed: int, image_size: int | None = None
) -> tuple[Classifier, Dataset]:
    """A model and the test data that it is measured on, which go together.

    Images are brought to ``image_size``; None: to the size that the model has.

    Raises:
        ArgumentError, ModelError, DataError: one cannot be loaded, or they have different classes.
    """
    if limit is not None and limit < 1:
        raise ArgumentError("limit", limit, "give at least 1")
    parts = data.available_splits(data_spec)
    dataset = data.load(data_spec, split="test" if "test" in parts else None)
    classifier = measurement.load_classifier(model, image_size, samples.few_images(dataset))
    dataset = untrained(match_classes(dataset, data_spec, classifier, model), model)
    return classifier, dataset if limit is None else dataset.limit(limit, seed)


def class_names(classifier: Classifier, dataset: Dataset) -> list[str]:
    """A name for each output of the model: as it was trained, else as its source calls it where the data has only
    numbers or WordNet's ids, else the data's, and numbers for outputs beyond those."""
    info, beyond = classifier.info, map(str, range(dataset.num_classes, classifier.num_classes))
    theirs = [*dataset.class_names, *beyond]
    said = info.get(OUTPUT_NAMES) if dataset.numbered or outputs_called(info, dataset.class_names) else None
    return info.get("class_names") or said or theirs


def evaluate_loaded(
    folder: Path,
    model: nn.Module,
    measured: Samples,
    names: Sequence[str],
    wanted: Sequence[Threat],
    *,
    suite: str,
    seed: int,
    batch_size: int | None,
    time_budget: float,
    precision: float | None = None,
    save_adversarial: bool = False,
) -> Evaluation:
    """Measure and keep table, journal and pictures in ``folder``; see :func:`evaluate_into`.

    Args as there, but ``model`` is loaded, ``measured`` are the samples and ``names`` the classes'.
    """
    path, adversarial = folder / TABLE, folder / ADVERSARIAL if save_adversarial else None
    if adversarial:
        check_writable(adversarial, "out")
    known = known_evidence(path)
    about = {"identity": measurement.identity(model, measured), "seed": seed}
    try:
        with _only_about(folder / JOURNAL, about) if known is None else nullcontext():
            done = measurement.measure(
                model, measured, wanted, suite, seed,
                batch_size=batch_size, known=known, journal=journal(folder, suite, seed), time_budget=time_budget,
                precision=precision, adversarial=adversarial,
            )  # fmt: skip
    except DamagedError:  # says itself what mends it
        raise
    except EvidenceError as error:
        raise EvidenceError(f"{folder}: {error}; name another folder for this measurement (--out)") from None
    with in_turn(folder / JOURNAL, SAVING):  # another process may have searched with another suite meanwhile
        known = known_evidence(path)
        (done.table if known is None else known.merge(done.table)).save(path)
    if done.complete:
        norms = dict.fromkeys(threat.norm for threat in wanted)
        shown = [e for norm in norms for e in examples(model, measured, done.table, norm, suite, seed)]
        save_examples(folder / EXAMPLES, shown, names)
    return done


@contextmanager
def _only_about(folder: Path, about: Mapping[str, object]) -> Iterator[None]:
    """Inside, a folder without a table says what its evidence is about, to those that begin there meanwhile.

    Raises:
        EvidenceError: it is about something else.
    """
    path, mine = folder / ABOUT, False
    with made(folder):
        try:
            Place(folder).create(ABOUT, json.dumps(about).encode())
            mine = True
        except FileExistsError:
            there = unless_damaged(read_json, path, "it is written again")
            if there is None:
                write_json(path, about)
            elif there != about:
                raise EvidenceError("the search under way there is of another model, data set, seed or eot") from None
        try:
            yield
        except BaseException:
            if mine:
                path.unlink(missing_ok=True)
            raise


def known_evidence(path: Path) -> EvidenceTable | None:
    """The evidence to go on from; None where there is none yet, or the file is damaged: the journal has it, too."""
    otherwise = (
        "it is made again from the journal, with other suites when they are run again, and other tools' images when "
        "they are merged again"
    )
    return unless_damaged(EvidenceTable.load, path, otherwise)


def journal(folder: Path, suite: str, seed: int) -> Path:
    """Where the outcomes of a search are written down as they come; one folder per suite and seed."""
    return folder / JOURNAL / f"{suite}-{seed}"


def check_out(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, before hours are spent on what goes into it; none is made.

    Raises:
        ArgumentError: see above.
        RunError: another process is filling it, and shares it with none.
    """
    refuse_if_filled(folder)
    check_writable(folder, "out")


def match_classes(dataset: Dataset, data_spec: str, classifier: Classifier, model: str) -> Dataset:
    """The data with class k at output k of the model: by names where both have some, else by number.

    Names are those that the model was trained with, or what its source calls the outputs.

    Raises:
        ArgumentError: a name that the model was not trained on, or without names another number of classes.
    """
    trained = classifier.info.get("class_names")
    if trained and not dataset.numbered:
        try:
            return dataset.named_as(trained)
        except DataError as error:
            raise ArgumentError("data", data_spec, f"model {model} was trained on other classes: {error}") from None
    outputs = None if trained or dataset.numbered else outputs_called(classifier.info, dataset.class_names)
    if outputs:
        return dataset.named_as(outputs)
    few = dataset.num_classes < classifier.num_classes and not dataset.numbered  # numbers: the last may lack samples
    if few or dataset.num_classes > classifier.num_classes:
        fix = f"has {dataset.num_classes} classes, model {model} has {classifier.num_classes}; they must be the same"
        raise ArgumentError("data", data_spec, fix)
    return dataset


def _robustness(done: Evaluation, threat: Threat, wanted: Sequence[Threat], suite: str) -> Robustness:
    table, norm, eps = done.table, threat.norm, threat.eps
    grid = sorted(other.eps for other in wanted if other.norm == norm and other.eps <= eps)
    return Robustness(
        threat,
        done.subset.test_set if done.subset else table.robust_accuracy(norm, eps, suite),
        table.expected_robustness(norm, eps, suite),
        table.expected_robustness(norm, eps, suite, grid=grid),
        done.subset,
    )
