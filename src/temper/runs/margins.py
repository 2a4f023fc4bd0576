"""``temper margins``: input margins, how well scores stand in for them, and a detector, in a folder."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from temper import data
from temper.core.claims import in_turn
from temper.core.files import WRONG_PLACE, read_json, unless_damaged, write_json, written
from temper.data import Dataset
from temper.detection.defence import RESTARTS, STEPS, TARGETS, Defence, attack_detectors, calibration_half
from temper.detection.evasion import Scored
from temper.detection.pseudo import PseudoMargin
from temper.detection.scoring import FEATURE, features, head_weight, score, scorers
from temper.errors import ArgumentError, EvidenceError, ModelError, naming
from temper.evaluation.examples import examples
from temper.evaluation.measurement import JOURNAL, TABLE, Evaluation
from temper.evaluation.samples import Samples, from_dataset, on_device
from temper.margins import EvidenceTable
from temper.margins.consistency import margin_consistency
from temper.margins.decisions import Brittleness, brittleness
from temper.margins.detection import DetectionQuality, detection, eps_sweep
from temper.margins.detector import DETECTOR, BrittlenessDetector, check_alpha, single_threat
from temper.margins.scores import equidistance
from temper.models import Classifier
from temper.models.features import features_and_logits
from temper.runs.brittleness import ENDS, SCORES, SUITE, SUMMARY, WEIGHTS
from temper.runs.evaluate import REPORT, check_out, class_names, evaluate_loaded, load, measured_on, save_examples
from temper.runs.results import (
    BrittlenessResult,
    Decisions,
    FittedDetector,
    MarginsResult,
    Refused,
    SearchCost,
    estimates,
)
from temper.runs.run import CONFIG
from temper.runs.views import report
from temper.threat import Threat
from temper.training.seen import unseen

log = logging.getLogger(__name__)

PSEUDO_MARGIN, ADAPTIVE = "pseudo_margin.safetensors", "adaptive.json"
LEARNT_FROM = 4000  # training images whose margins the pseudo-margin is learned from; the paper takes 5,000
SWEEP = (0.25, 0.5, 1.0, 1.5, 2.0)  # radii of the sweep, as multiples of eps


@dataclass(frozen=True)
class Asked:
    """How to measure; see ``temper margins --help``."""

    threat: Threat
    alpha: float
    adaptive: bool
    seed: int
    batch_size: int | None
    time_budget: float


def margins_into(
    folder: Path,
    model: str,
    data_spec: str,
    threat: str,
    *,
    alpha: float = 0.05,
    adaptive: bool = False,
    pseudo_margin: bool = False,
    train_data: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    time_budget: float = float("inf"),
    image_size: int | None = None,
) -> MarginsResult:
    """Measure the input margins of a model's decisions on data and what follows from them, and write the report.

    Evidence that is in ``folder`` already is continued.

    Raises:
        ArgumentError, ModelError, DataError: the call cannot work.
        EvidenceError: ``folder`` holds evidence on another model or other data, or no margin is known.
    """
    chosen = single_threat(threat)
    check_alpha(alpha)
    if train_data is not None and not pseudo_margin:
        raise ArgumentError("train-data", train_data, "is what the pseudo-margin learns from: add --pseudo-margin")
    asked = Asked(chosen, alpha, adaptive, seed, batch_size, time_budget)
    training = _training_spec(data_spec, train_data) if pseudo_margin else None
    check_out(folder)
    classifier, dataset = load(model, data_spec, limit, seed, image_size)
    learnt_from = None if training is None else _training_data(training, dataset.digests(), seed)
    measured, names = from_dataset(dataset, classifier), class_names(classifier, dataset)
    done = _search(folder, classifier, measured, names, asked)
    result = MarginsResult(measured_on(model, dataset, done.table), chosen, SearchCost.of(done, folder / TABLE))
    if not done.complete:
        return result
    pseudo = None
    if learnt_from is not None:
        pseudo = _pseudo_margin(folder / "pseudo-margin", classifier, learnt_from, asked)
        if pseudo is None:
            return result
        pseudo.save(folder / PSEUDO_MARGIN)
    with in_turn(folder / JOURNAL, "analysing"):  # scores, detector and summary are of one call
        result = replace(result, brittleness=analyse(folder, classifier, measured, done.table, asked, pseudo))
        ends = examples(classifier, measured, done.table, chosen.norm, SUITE, seed, ends=True)
        save_examples(folder / ENDS, ends, names)
        if (Path(model) / CONFIG).exists() and (folder / DETECTOR).exists():
            _put_beside_weights(folder / DETECTOR, Path(model))
        write_json(folder / SUMMARY, result.to_json())
        report([folder], folder / REPORT, f"Temper: {model} on {dataset.name}")
    return result


def _put_beside_weights(detector: Path, run: Path) -> None:
    """Copy a detector to the run it belongs to; of a run that may only be read, a warning says that it stays here."""
    try:
        BrittlenessDetector.load(detector).save(run / DETECTOR)
    except OSError as error:
        if error.errno not in WRONG_PLACE:
            raise
        log.warning(
            "%s: may not be written to, so predict and export do not find the new detector there; copy %s into a copy "
            "of the run, or give it to temper export --detector", run, detector,
        )  # fmt: skip


def analyse(
    folder: Path,
    classifier: Classifier,
    measured: Samples,
    table: EvidenceTable,
    asked: Asked,
    pseudo: PseudoMargin | None,
) -> BrittlenessResult:
    """Everything that follows from known margins; the scores and the detector are written to ``folder``."""
    norm, eps, seed = asked.threat.norm, asked.threat.eps, asked.seed
    scored = scorers(classifier, norm, pseudo, linear_head=_ends_in_linear(classifier, measured))
    scores = score(classifier, measured, scored)
    with written(folder / SCORES) as unfinished:
        scores.to_parquet(unfinished, write_page_checksum=True)
    (folder / WEIGHTS).unlink(missing_ok=True)
    if FEATURE in scored:
        with written(folder / WEIGHTS) as unfinished, unfinished.open("wb") as file:
            np.save(file, equidistance(head_weight(classifier), norm).numpy())
    decisions = brittleness(table, norm, eps, SUITE)
    columns = {name: scores[name].to_numpy(np.float64) for name in scores.columns if name != "sample"}
    return BrittlenessResult(
        Decisions(
            known=int(np.isfinite(decisions.margin).sum()),
            unknown=int((~np.isfinite(decisions.margin)).sum()),
            brittle=int(decisions.brittle.sum()),
            robust=int(decisions.robust.sum()),
        ),
        {name: margin_consistency(table, norm, SUITE, scores=values) for name, values in columns.items()},
        {name: _detection(decisions, values, seed) for name, values in columns.items()},
        eps_sweep(table, norm, [eps * share for share in SWEEP], SUITE),
        _detector(folder, table, asked),
        _defences(folder, classifier, measured, table, decisions, scores, scored, asked) if asked.adaptive else None,
    )


def _ends_in_linear(classifier: Classifier, measured: Samples) -> bool:
    """Whether features make the logits, so that there is a feature margin; else that is said once."""
    x = next(iter(on_device(classifier, measured.batches(2))))[0]
    try:
        with torch.no_grad():
            features_and_logits(classifier, x)
            head_weight(classifier)
    except ModelError as error:
        log.warning("no feature margin: %s", error)
        return False
    return True


def _detector(folder: Path, table: EvidenceTable, asked: Asked) -> FittedDetector | Refused:
    """Fit on half of the samples, judge on the other half; a refusal is a result, too."""
    ids = np.unique(table.frame["sample"].to_numpy(np.int64))
    half = calibration_half(ids, asked.seed)
    (folder / DETECTOR).unlink(missing_ok=True)
    try:
        detector = BrittlenessDetector.fit(table.take(ids[half]), str(asked.threat), asked.alpha, SUITE)
        held_out = detector.detect(table.take(ids[~half]))
    except EvidenceError as error:
        log.warning("no detector: %s", error)
        return Refused(str(error))
    detector.save(folder / DETECTOR)
    return FittedDetector(
        detector.threshold,
        detector.alpha,
        detector.calibration.brittle,
        detector.calibration.flag_rate,
        detector.missed_at_most(),
        held_out,
        folder / DETECTOR,
    )


def _defences(
    folder: Path,
    classifier: Classifier,
    measured: Samples,
    table: EvidenceTable,
    decisions: Brittleness,
    scores: pd.DataFrame,
    scored: Mapping[str, Scored],
    asked: Asked,
) -> dict[str, Defence] | Refused:
    """Attacks on the detectors, each kept as soon as it is done: they take longer than all the rest."""
    norm, eps = asked.threat.norm, asked.threat.eps
    key = {"identity": dict(table.identity), "threat": [norm, eps], "alpha": asked.alpha, "seed": asked.seed}
    key |= {"n": len(scores), "budget": [TARGETS, RESTARTS, STEPS]}
    kept = unless_damaged(read_json, folder / ADAPTIVE, "the detectors are attacked again") or {}
    earlier = kept["defences"] if kept.get("key") == key else {}
    done = {name: Defence(**estimates(values)) for name, values in earlier.items()}
    open_ = {name: each for name, each in scored.items() if name not in done}
    try:
        for defence in attack_detectors(
            classifier, measured, decisions, scores, open_, norm, eps, alpha=asked.alpha, seed=asked.seed
        ):
            done[defence.score] = defence
            write_json(
                folder / ADAPTIVE, {"key": key, "defences": {name: each.to_json() for name, each in done.items()}}
            )
    except EvidenceError as error:
        log.warning("no attack on the detector: %s", error)
        return Refused(str(error))
    return {name: done[name] for name in scored}


def _training_data(spec: str, measured_on: NDArray[np.uint64], seed: int) -> Dataset:
    """Training images to learn a margin from, none of which it is measured on."""
    with naming({"data": "train-data"}):
        parts = data.available_splits(spec)
        whole = data.load(spec, split="train" if "train" in parts else None)
    dataset = unseen(whole, measured_on, "that the margins are measured on")
    return dataset.limit(min(LEARNT_FROM, len(dataset)), seed)


def _pseudo_margin(folder: Path, classifier: Classifier, dataset: Dataset, asked: Asked) -> PseudoMargin | None:
    """What is learned from the margins of training images; None where the search for those was stopped."""
    measured = from_dataset(dataset, classifier)
    done = _search(folder, classifier, measured, class_names(classifier, dataset), asked)
    if not done.complete:
        return None
    margins = torch.tensor(done.table.frame.sort_values("sample")["upper"].to_numpy(np.float64))
    return PseudoMargin.fit(*features(classifier, measured), margins, seed=asked.seed)


def _search(folder: Path, classifier: Classifier, measured: Samples, names: Sequence[str], asked: Asked) -> Evaluation:
    """The input margins of samples, kept in ``folder``."""
    return evaluate_loaded(
        folder, classifier, measured, names, [asked.threat],
        suite=SUITE, seed=asked.seed, batch_size=asked.batch_size, time_budget=asked.time_budget,
    )  # fmt: skip


def _training_spec(data_spec: str, train_data: str | None) -> str:
    """Where training images come from."""
    if train_data is not None:
        return train_data
    if "train" in data.available_splits(data_spec):
        return data_spec
    raise ArgumentError("train-data", None, f"{data_spec} has no training part; name the data to learn from")


def _detection(decisions: Brittleness, values: NDArray[np.float64], seed: int) -> DetectionQuality | str:
    """How well a score detects, or why that is not defined."""
    try:
        return detection(decisions, values, seed=seed)
    except EvidenceError as error:
        return str(error)
