"""Result folders: what an evaluation or a fine-tuning run leaves, and the report of one or several."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from temper import data, evaluation, samples
from temper.brittleness.view import ENDS, brittleness_view
from temper.claims import in_turn, refuse_if_filled
from temper.data import Dataset
from temper.data.arrays import DAMAGE
from temper.errors import ArgumentError, DamagedError, DataError, EvidenceError, RunError, TemperError
from temper.evaluation import JOURNAL, TABLE, Evaluation, Example
from temper.files import check_writable, did_you_mean, made, read_json, unless_damaged, write_json, written
from temper.margins import EvidenceTable
from temper.models import Classifier
from temper.places import Place
from temper.report import EpochRow, RunView, SampleView, Value, write_report
from temper.samples import Samples
from temper.threat import NORMS, Norm, Threat, check_norm, format_eps, parse_threats
from temper.training.config import FinetuneConfig
from temper.training.run import CONFIG, Run
from temper.training.seen import untrained

log = logging.getLogger(__name__)

ABOUT, SAVING = "about.json", "saving"  # in the journal's folder: what it is about, and the claim of who saves
EXAMPLES, REPORT, SUMMARY = "samples.npz", "report.html", "evaluation.json"
BAND = 32  # steps in which a report shows intervals between the radii searched


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
) -> tuple[dict[str, Any], bool]:
    """Measure a model on data, keep the evidence in ``folder``, and write its report there.

    Evidence that is there already is continued.

    Returns:
        The summary of ``temper evaluate --json``, and whether every sample was searched at every radius.

    Raises:
        ArgumentError, ModelError, DataError: the call cannot work.
        EvidenceError: ``folder`` holds evidence on another model or other data.
    """
    wanted = parse_threats(threats)
    check_out(folder)
    classifier, dataset = load(model, data_spec, limit, seed, image_size)
    measured, names = samples.from_dataset(dataset, classifier), class_names(classifier, dataset)
    done = evaluate_loaded(
        folder, classifier, measured, names, wanted,
        suite=suite, seed=seed, batch_size=batch_size, time_budget=time_budget, precision=precision,
    )  # fmt: skip
    summary: dict[str, Any] = {
        "model": {"spec": model, **done.table.identity["model"]},
        "data": {"name": dataset.name, "n": len(dataset), "fingerprint": done.table.identity["data"]},
        "clean_accuracy": done.table.clean_accuracy().to_json(),
        "threats": [_threat_summary(done.table, threat, wanted, suite) for threat in wanted],
        "passes": done.table.passes(),
        "precision": done.table.provenance.precision,
        "seconds": done.seconds,
        "table": str(folder / TABLE),
    }
    if done.subset:
        summary["threats"][0] |= {
            "robust_accuracy": done.subset.test_set.to_json(),
            "subset": {
                "attacked": done.subset.attacked,
                "correct": done.subset.correct,
                "distribution": done.subset.distribution.to_json(),
            },
        }
    write_json(folder / SUMMARY, summary)
    report([folder], folder / REPORT, f"Temper: {model} on {dataset.name}")
    return summary, done.complete


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
    classifier = evaluation.load_classifier(model, image_size, samples.few_images(dataset))
    dataset = untrained(match_classes(dataset, data_spec, classifier, model), model)
    return classifier, dataset if limit is None else dataset.limit(limit, seed)


def class_names(classifier: Classifier, dataset: Dataset) -> list[str]:
    """A name for each output of the model: as it was trained, else the data's, and numbers for outputs beyond those."""
    beyond = map(str, range(dataset.num_classes, classifier.num_classes))
    return classifier.info.get("class_names") or [*dataset.class_names, *beyond]


def evaluate_loaded(
    folder: Path,
    classifier: Classifier,
    measured: Samples,
    names: Sequence[str],
    wanted: Sequence[Threat],
    *,
    suite: str,
    seed: int,
    batch_size: int | None,
    time_budget: float,
    precision: float | None = None,
) -> Evaluation:
    """Measure and keep table, journal and pictures in ``folder``; see :func:`evaluate_into`.

    Args as there, but ``measured`` are the samples and ``names`` the classes'.
    """
    path = folder / TABLE
    known = known_evidence(path)
    about = {"identity": evaluation.identity(classifier, measured), "seed": seed}
    try:
        with _only_about(folder / JOURNAL, about) if known is None else nullcontext():
            done = evaluation.measure(
                classifier, measured, wanted, suite, seed,
                batch_size=batch_size, known=known, journal=journal(folder, suite, seed), time_budget=time_budget,
                precision=precision,
            )  # fmt: skip
    except EvidenceError as error:
        raise EvidenceError(f"{folder}: {error}; name another folder for this measurement (--out)") from None
    with in_turn(folder / JOURNAL, SAVING):  # another process may have searched with another suite meanwhile
        known = known_evidence(path)
        (done.table if known is None else known.merge(done.table)).save(path)
    if done.complete:
        norms = dict.fromkeys(threat.norm for threat in wanted)
        found = [e for norm in norms for e in evaluation.examples(classifier, measured, done.table, norm, suite, seed)]
        save_examples(folder / EXAMPLES, found, names)
    return done


@contextmanager
def _only_about(folder: Path, about: dict[str, Any]) -> Iterator[None]:
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
                raise EvidenceError("the search under way there is of another model, data set or seed") from None
        try:
            yield
        except BaseException:
            if mine:
                path.unlink(missing_ok=True)
            raise


def known_evidence(path: Path) -> EvidenceTable | None:
    """The evidence to go on from; None where there is none yet, or the file is damaged: the journal has it, too."""
    told = "it is made again from the journal, with other suites when they are run again"
    return unless_damaged(EvidenceTable.load, path, told)


def merge_tables(places: Sequence[Path], out: Path) -> EvidenceTable:
    """Merge evidence tables, named as files or as folders that hold one, and write the result.

    Raises:
        EvidenceError: a table cannot be read, or is of another model, data set or suite of one name; names the file.
    """
    for place in places:
        if not place.exists():
            raise EvidenceError(f"{place}: is not there{did_you_mean(place)}")
    paths = [place / TABLE if place.is_dir() else place for place in places]
    merged = EvidenceTable.load(paths[0])
    for path in paths[1:]:
        try:
            merged = merged.merge(EvidenceTable.load(path))
        except EvidenceError as error:
            raise EvidenceError(f"{path} does not go with {paths[0]}: {error}") from None
    merged.save(out)
    return merged


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

    Raises:
        ArgumentError: a name that the model was not trained on, or without names another number of classes.
    """
    trained = classifier.info.get("class_names")
    if trained and not dataset.numbered:
        try:
            return dataset.named_as(trained)
        except DataError as error:
            raise ArgumentError("data", data_spec, f"model {model} was trained on other classes: {error}") from None
    few = dataset.num_classes < classifier.num_classes and not dataset.numbered  # numbers: the last may lack samples
    if few or dataset.num_classes > classifier.num_classes:
        fix = f"has {dataset.num_classes} classes, model {model} has {classifier.num_classes}; they must be the same"
        raise ArgumentError("data", data_spec, fix)
    return dataset


def _threat_summary(table: EvidenceTable, threat: Threat, wanted: Sequence[Threat], suite: str) -> dict[str, Any]:
    norm, eps = threat.norm, threat.eps
    grid = sorted(other.eps for other in wanted if other.norm == norm and other.eps <= eps)
    return {
        "norm": norm,
        "eps": eps,
        "robust_accuracy": table.robust_accuracy(norm, eps, suite).to_json(),
        "expected_robustness": table.expected_robustness(norm, eps, suite).to_json(),
        "expected_robustness_trapezoid": table.expected_robustness(norm, eps, suite, grid=grid).to_json(),
    }


def view(folder: Path, name: str) -> RunView:
    """A folder as the report shows it.

    Raises:
        RunError: the folder holds no evidence table.
    """
    if not folder.exists():
        raise RunError(f"{folder}: is not there{did_you_mean(folder)}")
    if not (folder / TABLE).exists():
        raise RunError(f"{folder}: holds no {TABLE}; name the folder of a finished run or evaluation")
    table = EvidenceTable.load(folder / TABLE)
    run = Run(folder) if (folder / CONFIG).exists() else None
    subset = _from_subset(folder, table)
    return RunView(
        name=name,
        facts=_facts(table, run),
        table=subset or headline(table),
        curves={} if subset else _curves(table),
        bands={} if subset else _curves(table, BAND),
        history=_history(run) if run else (),
        samples=_samples(folder / EXAMPLES),
        brittleness=brittleness_view(folder, table, _samples(folder / ENDS)),
        training_norm=run.config.norm if run else "Linf",
    )


def report(folders: Sequence[Path], out: Path, title: str) -> Path:
    """Write one HTML report of one or several folders; of several, those that cannot be read are left out and named.

    Raises:
        RunError, EvidenceError: one is not there, or none can be read.
    """
    folders = list(dict.fromkeys(folder.resolve() for folder in folders))
    names = [folder.name for folder in folders]
    distinct = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    views: list[RunView] = []
    refused: list[TemperError] = []
    for folder, name in zip(folders, distinct, strict=True):
        try:
            views.append(view(folder, name))
        except (RunError, EvidenceError) as error:
            if not folder.exists():
                raise
            refused.append(error)
    if not views:
        raise refused[0]
    for reason in refused:
        log.warning("left out of the report: %s", reason)
    return write_report(views, out, title=title)


def headline(table: EvidenceTable) -> dict[str, Value]:
    """Clean accuracy, robust accuracy at the largest radius, expected robustness up to it, both ways, per norm."""
    columns = {"clean accuracy": table.clean_accuracy()}
    for norm, suite, radii in _searched(table):
        threat, by = Threat(norm, radii[-1]), f" ({suite})" if len(table.provenance.suites) > 1 else ""
        expected = f"expected robustness up to {threat}"
        columns[f"robust accuracy at {threat}{by}"] = table.robust_accuracy(norm, threat.eps, suite)
        columns[f"{expected}{by}"] = table.expected_robustness(norm, threat.eps, suite)
        if len(radii) > 1:
            trapezoid = table.expected_robustness(norm, threat.eps, suite, grid=radii)
            columns[f"{expected}, trapezoid of {len(radii) + 1} points{by}"] = trapezoid
    return {name: Value(**vars(estimate)) for name, estimate in columns.items()}


def _from_subset(folder: Path, table: EvidenceTable) -> dict[str, Value]:
    """Clean accuracy, and robust accuracy from the samples that were drawn, where a precision was asked for: of the
    others nothing is known, and no other radius or curve. Else empty."""
    path = folder / SUMMARY
    try:
        threats = read_json(path)["threats"] if path.exists() else []
    except (DamagedError, KeyError):
        raise RunError(f"{path}: is damaged; the same temper evaluate writes it again") from None
    values = {
        f"robust accuracy at {Threat(each['norm'], each['eps'])}, from attacks on {each['subset']['attacked']:,}"
        f" of {each['subset']['correct']:,} correct samples": Value(**each["robust_accuracy"])
        for each in threats
        if "subset" in each
    }
    return {"clean accuracy": Value(**vars(table.clean_accuracy()))} | values if values else {}


def _searched(table: EvidenceTable) -> list[tuple[Norm, str, list[float]]]:
    """Norm, suite and rising radii of every search in the table."""
    radii = table.provenance.radii
    return sorted((check_norm(norm), suite, found) for suite, norms in radii.items() for norm, found in norms.items())


def _curves(table: EvidenceTable, even: int = 0) -> dict[str, dict[float, Value]]:
    """One curve per norm; of several suites, that of the one that searched at most radii.

    Its points are 0 and the radii searched, or ``even`` steps up to the largest of them.
    """
    curves = {}
    for norm, suite, radii in sorted(_searched(table), key=lambda search: len(search[2])):
        grid = [radii[-1] * step / even for step in range(1, even)] if even else [0.0, *radii]
        points = zip(grid, table.accuracy_curve(norm, grid, suite), strict=True)
        curves[norm] = {eps: Value(**vars(estimate)) for eps, estimate in points}
    return {norm: curves[norm] for norm in sorted(curves)}


def _history(run: Run) -> list[EpochRow]:
    return [
        EpochRow(
            epoch=row["epoch"],
            eps=row["eps"],
            train_loss=row["train_loss"],
            train_accuracy=row["train_accuracy"],
            validation_accuracy=row["validation_accuracy"],
            lr=row["lr"],
        )
        for row in run.history()
    ]


def _samples(path: Path) -> list[SampleView]:
    told = "the report shows no images from it, until the same measurement makes it again"
    return unless_damaged(_read_samples, path, told) or []


def _read_samples(path: Path) -> list[SampleView]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = arrays["class_names"].tolist()
            return [
                SampleView(
                    image=np.rint(image.transpose(1, 2, 0) * 255).astype(np.uint8),
                    adversarial=adversarial.transpose(1, 2, 0),
                    label=names[classes[0]],
                    prediction=names[classes[1]],
                    adversarial_prediction=names[classes[2]],
                    distance=float(distance),
                    norm=str(norm),
                )
                for image, adversarial, classes, distance, norm in zip(
                    arrays["images"], arrays["adversarial"], arrays["classes"], arrays["distances"], arrays["norms"],
                    strict=True,
                )
            ]  # fmt: skip
    except DAMAGE as error:
        raise DamagedError(f"{path}: is damaged ({type(error).__name__})") from None


def _facts(table: EvidenceTable, run: Run | None) -> dict[str, str]:
    facts = _run_facts(run.config, run.record) if run else {}
    for suite in table.provenance.suites.values():
        facts[f"suite {suite['name']}"] = ", ".join(map(_budget, suite["attacks"]))
    passes = table.passes()
    facts["passes of the evaluation"] = f"{passes['forward']:,} forward, {passes['backward']:,} backward"
    facts["weights (SHA-256)"] = table.identity["model"]["weights"]
    facts["data (SHA-256)"] = table.identity["data"]
    return facts


def _budget(attack: dict[str, Any]) -> str:
    """An attack of a suite as people write it."""
    runs = f"{attack['runs']} x " if attack["runs"] > 1 else ""
    norms = attack.get("norms", NORMS)
    where = f" in {' and '.join(norms)}" if len(norms) < len(NORMS) else ""
    return f"{attack['name']} {runs}{attack['steps']}{where}"


def _run_facts(config: FinetuneConfig, record: dict[str, Any]) -> dict[str, str]:
    data, schedule = record["data"], config.schedule.model_dump(exclude_none=True)
    sizes = ", ".join(f"{data[part]['n']} {part}" for part in ("train", "validation", "test"))
    attacked = config.objective.name != "standard"
    step = f", step {config.attack.step_size} of epsilon" if config.attack.step_size else ""
    options = ", ".join(f"{key} {value}" for key, value in schedule.items() if key != "name")
    return {
        "model": config.model.name,
        "data": f"{data['train']['name']}: {sizes}",
        "objective": config.objective.name,
        "target epsilon": f"{config.norm} {format_eps(config.norm, config.eps)}" if attacked else "none",
        "schedule": f"{config.schedule.name} ({options})" if attacked else "none",
        "inner attack": f"{config.attack.name}, {config.attack.steps} steps{step}" if attacked else "none",
        "protocol": config.protocol.name,
        "epochs": f"{config.epochs}, batch {config.batch_size}",
        "learning rate": f"backbone {config.optimiser.backbone_lr:g}, head {config.optimiser.head_lr:g}",
        "augmentation": config.data.augmentation,
        "seed": str(config.seed),
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }
