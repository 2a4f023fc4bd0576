"""What a report shows of a result folder."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import pandas as pd

from temper.core.files import not_there, read_json, unless_damaged
from temper.data.arrays import DAMAGE
from temper.errors import ArgumentError, DamagedError, EvidenceError, RunError, TemperError
from temper.evaluation.measurement import TABLE, check_measured
from temper.margins import Estimate, EvidenceTable, union_robust_accuracy
from temper.margins.comparison import clean_change
from temper.report import AccuracyCurve, EpochRow, RunView, SampleView, Training, write_report
from temper.runs.brittleness import ENDS, brittleness_view
from temper.runs.run import CONFIG, GIVEN, Run
from temper.threat import NORMS, Norm, Threat, check_norm
from temper.training.config import FinetuneConfig
from temper.training.norms import in_words
from temper.training.objectives import OBJECTIVES
from temper.training.trained import Trained
from temper.training.transfer import task

log = logging.getLogger(__name__)

EXAMPLES, REPORT, SUMMARY = "samples.npz", "report.html", "evaluation.json"
CLEAN = "clean accuracy"  # in a view's table
BAND = 32  # steps in which a report shows intervals between the radii searched


class BudgetedAttack(TypedDict):
    """An attack of a suite, as the evidence notes it."""

    name: str
    runs: int
    steps: int
    norms: NotRequired[Sequence[Norm]]


class DataFacts(TypedDict):
    """What a run's record says of a part of its data."""

    name: str
    n: int


def view(folder: Path, name: str) -> RunView:
    """A folder as the report shows it.

    Raises:
        ArgumentError: the folder holds no evidence table. EvidenceError: it cannot be read.
    """
    check_measured(folder, "DIR")
    table = EvidenceTable.load(folder / TABLE)
    run = Run(folder) if (folder / CONFIG).exists() else None
    subset = _from_subset(folder, table)
    return RunView(
        name=name,
        facts=_facts(table, run),
        table=subset or headline(table),
        curves={} if subset else _curves(table),
        training=_training(run) if run else Training(),
        samples=_samples(folder / EXAMPLES),
        brittleness=brittleness_view(folder, table, _samples(folder / ENDS)),
    )


def report(folders: Sequence[Path], out: Path, title: str, lead: str = "") -> Path:
    """Write one HTML report of one or several folders; of several, those that cannot be read are left out and named.

    Raises:
        ArgumentError: one is not there, or none holds evidence. RunError, EvidenceError: none can be read.
    """
    for folder in folders:
        if not folder.exists():
            fix = not_there(folder, "name the folder of a finished run or evaluation")
            raise ArgumentError("DIR", str(folder), fix)
    distinct_folders = {folder.resolve(): folder for folder in folders}
    folders, names = [*distinct_folders.values()], [folder.name for folder in distinct_folders]
    distinct = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    views: dict[Path, RunView] = {}
    refused: list[TemperError] = []
    for folder, name in zip(folders, distinct, strict=True):
        try:
            views[folder] = view(folder, name)
        except (ArgumentError, RunError, EvidenceError) as error:
            refused.append(error)
    if not views:
        raise refused[0]
    for reason in refused:
        log.warning("left out of the report: %s", reason)
    return write_report(compared(views), out, title=title, lead=lead)


def compared(views: Mapping[Path, RunView]) -> list[RunView]:
    """Views of folders that are shown side by side: a run has its severity where one is standard fine-tuning of the
    same backbone on the same data, for as many epochs, measured on the same images."""
    runs = {folder: Run(folder).config for folder in views if (folder / CONFIG).exists()}
    if len({_attacked(config) for config in runs.values()}) < 2:  # nothing to compare: no table need be read again
        return [*views.values()]
    tables = {folder: EvidenceTable.load(folder / TABLE) for folder in runs}
    tasks = {at: (task(each.model_dump(mode="json")), tables[at].identity["data"]) for at, each in runs.items()}
    standard = {tasks[folder]: folder for folder, config in runs.items() if not _attacked(config)}
    lost = {
        folder: clean_change(tables[folder], tables[standard[tasks[folder]]])
        for folder, config in runs.items()
        if _attacked(config) and tasks[folder] in standard
    }
    return [replace(each, training=replace(each.training, severity=lost.get(at))) for at, each in views.items()]


def _attacked(config: FinetuneConfig) -> bool:
    return OBJECTIVES[config.objective.name].attacked


def headline(table: EvidenceTable) -> dict[str, Estimate]:
    """Clean accuracy; per norm robust accuracy at the largest radius and expected robustness up to it, both ways; and
    of several norms that one suite searched robust accuracy in all of them."""
    columns = {CLEAN: table.clean_accuracy()}
    for norm, suite, radii in _searched(table):
        threat, by = Threat(norm, radii[-1]), f" ({suite})" if len(table.provenance.radii) > 1 else ""
        expected = f"expected robustness up to {threat}"
        columns[f"robust accuracy at {threat}{by}"] = table.robust_accuracy(norm, threat.eps, suite)
        columns[f"{expected}{by}"] = table.expected_robustness(norm, threat.eps, suite)
        if len(radii) > 1:
            trapezoid = table.expected_robustness(norm, threat.eps, suite, grid=radii)
            columns[f"{expected}, trapezoid of {len(radii) + 1} points{by}"] = trapezoid
    for suite, norms in table.provenance.radii.items():
        ends = sorted(Threat(check_norm(norm), radii[-1]) for norm, radii in norms.items())
        if len(ends) > 1:
            by = f" ({suite})" if len(table.provenance.radii) > 1 else ""
            union = f"robust accuracy at {', '.join(map(str, ends))} at once{by}"
            columns[union] = union_robust_accuracy(table, ends, suite)
    return columns


def _from_subset(folder: Path, table: EvidenceTable) -> dict[str, Estimate]:
    """Clean accuracy, and robust accuracy from the samples that were drawn, where a precision was asked for: of the
    others nothing is known, and no other radius or curve. Else empty."""
    path = folder / SUMMARY
    try:
        threats = read_json(path)["threats"] if path.exists() else []
    except (DamagedError, KeyError):
        raise RunError(f"{path}: is damaged; the same temper evaluate writes it again") from None
    values = {
        f"robust accuracy at {Threat(each['norm'], each['eps'])}, from attacks on {each['subset']['attacked']:,}"
        f" of {each['subset']['correct']:,} correct samples": Estimate(**each["robust_accuracy"])
        for each in threats
        if "subset" in each
    }
    return {CLEAN: table.clean_accuracy()} | values if values else {}


def _searched(table: EvidenceTable) -> list[tuple[Norm, str, list[float]]]:
    """Norm, suite and rising radii of every search in the table."""
    radii = table.provenance.radii
    return sorted((check_norm(norm), suite, asked) for suite, norms in radii.items() for norm, asked in norms.items())


def curves_in(folder: Path, model: Mapping[str, str], more: Sequence[float]) -> dict[str, AccuracyCurve]:
    """The accuracy curves of a folder's evidence, by norm, with these radii among their points where they reach so far;
    none without a table, or where it is from a subset.

    Raises:
        EvidenceError: the table cannot be read, or is of another model than that of these fingerprints.
    """
    if not (folder / TABLE).exists():
        return {}
    table = EvidenceTable.load(folder / TABLE)
    if table.identity.get("model") != model:
        raise EvidenceError(
            f"{folder / TABLE}: is of another model than the folder's; temper evaluate measures this one"
        )
    return {} if _from_subset(folder, table) else _curves(table, more)


def _curves(table: EvidenceTable, more: Sequence[float] = ()) -> dict[str, AccuracyCurve]:
    """One curve per norm; of several suites, that of the one that searched at most radii."""
    curves = {}
    for norm, suite, radii in sorted(_searched(table), key=lambda search: len(search[2])):
        steps = [radii[-1] * step / BAND for step in range(1, BAND)] + [eps for eps in more if 0 < eps < radii[-1]]
        curves[norm] = AccuracyCurve(
            _accuracies(table, norm, suite, [0.0, *radii]), _accuracies(table, norm, suite, steps)
        )
    return {norm: curves[norm] for norm in sorted(curves)}


def _accuracies(table: EvidenceTable, norm: Norm, suite: str, radii: Sequence[float]) -> dict[float, Estimate]:
    return dict(zip(radii, table.accuracy_curve(norm, radii, suite), strict=True))


def _training(run: Run) -> Training:
    took = run.trained
    return Training(
        _history(run),
        run.config.threats[0].norm,
        delay=str(run.delay or ""),
        warnings=run.warnings,
        kept=took.kept if took else None,
        passes=_passes(took) if took else "",
    )


def _passes(took: Trained) -> str:
    """What a training took, and what measuring its robustness came to beside that."""
    words = f"{took.passes.total:,.0f}, {took.per_image:.3g} per image and update"
    extra = took.validation.total
    return f"{words}; + {extra / took.passes.total:.1%} for validation" if extra else words


def _history(run: Run) -> list[EpochRow]:
    return [
        EpochRow(
            epoch=row["epoch"],
            eps=row["eps"],
            train_loss=row["train_loss"],
            train_accuracy=row["train_accuracy"],
            validation_accuracy=row["validation_accuracy"],
            lr=row["lr"],
            robust_validation_accuracy=row.get("robust_validation_accuracy"),
        )
        for row in run.history()
    ]


def _samples(path: Path) -> list[SampleView]:
    otherwise = "the report shows no images from it, until the same measurement makes it again"
    return unless_damaged(_read_samples, path, otherwise) or []


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
    facts = _run_facts(run) if run else {}
    for name, suite in table.provenance.suites.items():
        if table.is_given(name):
            facts[f"adversarial images of {name}"] = _flips(table, name)
        else:
            facts[f"suite {suite['name']}"] = ", ".join(map(_budget, suite["attacks"]))
    passes = table.passes()
    facts["passes of the evaluation"] = f"{passes['forward']:,} forward, {passes['backward']:,} backward"
    if "eot" in table.identity:
        facts["random model"] = f"{table.identity['eot']} passes for an answer, decisions by the majority of draws"
    facts["weights (SHA-256)"] = table.identity["model"]["weights"]
    facts["data (SHA-256)"] = table.identity["data"]
    return facts


def _flips(table: EvidenceTable, source: str) -> str:
    """How many flips another tool's images are, and how many of them are the nearest known."""
    rows = table.frame[np.isfinite(table.frame["upper"])]
    own = rows[rows["suite"] == source]
    known = rows[rows["suite"] != source].groupby(["norm", "sample"])["upper"].min()
    others = known.reindex(pd.MultiIndex.from_frame(own[["norm", "sample"]])).fillna(np.inf)
    nearest = int((own["upper"].to_numpy() < others.to_numpy()).sum())
    return f"{len(own):,} flips, each checked, of which {nearest:,} are nearer than any other known"


def _budget(attack: BudgetedAttack) -> str:
    """An attack of a suite as people write it."""
    runs = f"{attack['runs']} x " if attack["runs"] > 1 else ""
    norms = attack.get("norms", NORMS)
    where = f" in {' and '.join(norms)}" if len(norms) < len(NORMS) else ""
    return f"{attack['name']} {runs}{attack['steps']}{where}"


def _run_facts(run: Run) -> dict[str, str]:
    config, took = run.config, run.trained
    data: Mapping[str, DataFacts] = run.record["data"]
    versions: Mapping[str, str] = run.record["versions"]
    schedule = config.schedule.model_dump(exclude_none=True)
    sizes = ", ".join(f"{data[part]['n']} {part}" for part in ("train", "validation", "test"))
    attacked = OBJECTIVES[config.objective.name].attacked
    step = f", step {config.attack.step_size} of epsilon" if config.attack.step_size else ""
    options = ", ".join(f"{key} {value}" for key, value in schedule.items() if key != "name")
    given = f"{run.record[GIVEN]}, given in Python" if GIVEN in run.record else None
    return {
        "model": config.model.name,
        "data": f"{data['train']['name']}: {sizes}",
        "objective": config.objective.name,
        "target epsilon": in_words(config.threats) if attacked else "none",
        **({"several norms": config.attack.union} if config.attack.union and attacked else {}),
        "schedule": (given or f"{config.schedule.name} ({options})") if attacked else "none",
        "inner attack": f"{config.attack.name}, {config.attack.length} steps{step}" if attacked else "none",
        "protocol": config.protocol.name,
        "epochs": _epochs(config, took),
        "passes of the training": _passes(took) if took else "not counted",
        "learning rate": f"backbone {config.optimiser.backbone_lr:g}, head {config.optimiser.head_lr:g}",
        "augmentation": config.data.augmentation,
        "seed": str(config.seed),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _epochs(config: FinetuneConfig, took: Trained | None) -> str:
    """How many there were, and whose weights were kept."""
    early = f", stopped early after {took.epochs}" if took and took.epochs < config.epochs else ""
    best = f", weights of epoch {took.kept} kept" if took and config.validation.keep == "best" else ""
    return f"{config.epochs}{early}, batch {config.batch_size}{best}"
