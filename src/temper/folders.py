"""Result folders: what an evaluation or a fine-tuning run leaves, and the report of one or several."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from temper import data, evaluation, models
from temper.errors import ArgumentError, RunError
from temper.evaluation import TABLE, Example
from temper.files import write_json, written
from temper.margins import EvidenceTable
from temper.report import CurvePoint, EpochRow, RunView, SampleView, Value, write_report
from temper.threat import Norm, Threat, format_eps, parse_threats
from temper.training.config import FinetuneConfig
from temper.training.run import CONFIG, Run

EXAMPLES, REPORT = "samples.npz", "report.html"


def save_examples(folder: Path, examples: Sequence[Example], class_names: Sequence[str]) -> None:
    """Write the examples of a report as arrays; images as float32 NCHW in [0, 1]."""
    if not examples:
        return
    arrays = {
        "images": torch.stack([e.image for e in examples]).numpy(),
        "adversarial": torch.stack([e.adversarial for e in examples]).numpy(),
        "classes": np.array([[e.label, e.prediction, e.adversarial_prediction] for e in examples]),
        "distances": np.array([e.distance for e in examples]),
        "norms": np.array([e.norm for e in examples]),
        "class_names": np.array(class_names, dtype=np.str_),
    }
    with written(folder / EXAMPLES) as unfinished, unfinished.open("wb") as file:
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
    classifier = models.load(model)
    if torch.cuda.is_available():
        classifier = classifier.cuda()
    parts = data.available_splits(data_spec)
    dataset = data.load(data_spec, split="test" if "test" in parts else None)
    if limit is not None:
        dataset = dataset.limit(limit, seed)
    if dataset.labels.max() >= classifier.num_classes:
        raise ArgumentError(
            "data", data_spec, f"has {dataset.num_classes} classes, model {model} has {classifier.num_classes}"
        )
    images = evaluation.from_dataset(dataset, classifier)
    path = folder / TABLE
    done = evaluation.measure(
        classifier, images, wanted, suite, seed,
        batch_size=batch_size or evaluation.batch_size_for(classifier.image_size),
        known=EvidenceTable.load(path) if path.exists() else None,
        save=lambda table: table.save(path),
        time_budget=time_budget,
    )  # fmt: skip
    found = [
        example
        for norm in dict.fromkeys(threat.norm for threat in wanted)
        for example in evaluation.examples(classifier, images, done.table, norm, suite, seed)
    ]
    save_examples(folder, found, dataset.class_names)
    summary = {
        "model": {"spec": model, **done.table.identity["model"]},
        "data": {"name": dataset.name, "n": len(dataset), "fingerprint": images.fingerprint},
        "clean_accuracy": done.table.clean_accuracy().to_json(),
        "threats": [
            {
                "norm": threat.norm,
                "eps": threat.eps,
                "robust_accuracy": done.table.robust_accuracy(threat.norm, threat.eps, suite).to_json(),
                "expected_robustness": done.table.expected_robustness(threat.norm, threat.eps, suite).to_json(),
            }
            for threat in wanted
        ],
        "passes": done.table.passes(),
        "seconds": done.seconds,
        "table": str(path),
    }
    write_json(folder / "evaluation.json", summary)
    report([folder], folder / REPORT, f"Temper: {model} on {dataset.name}")
    return summary, done.complete


def view(folder: Path, name: str) -> RunView:
    """A folder as the report shows it.

    Raises:
        RunError: the folder holds no evidence table.
    """
    if not (folder / TABLE).exists():
        raise RunError(f"{folder}: holds no {TABLE}; name the folder of a finished run or evaluation")
    table = EvidenceTable.load(folder / TABLE)
    run = Run(folder) if (folder / CONFIG).exists() else None
    return RunView(
        name=name,
        facts=_facts(table, run),
        table=headline(table),
        curves=_curves(table),
        history=_history(run) if run else (),
        samples=_samples(folder),
        training_norm=run.config.norm if run else "Linf",
    )


def report(folders: Sequence[Path], out: Path, title: str) -> Path:
    """Write one HTML report of one or several folders."""
    names = [folder.resolve().name for folder in folders]
    distinct = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    views = [view(folder, name) for folder, name in zip(folders, distinct, strict=True)]
    return write_report(views, out, title=title)


def headline(table: EvidenceTable) -> dict[str, Value]:
    """Clean accuracy, robust accuracy at the largest radius, expected robustness up to it, both ways, per norm."""
    columns = {"clean accuracy": Value(**table.clean_accuracy().to_json())}
    for norm, radii, suite in _searched(table):
        threat = Threat(norm, max(radii))
        columns[f"robust accuracy at {threat}"] = Value(**table.robust_accuracy(norm, threat.eps, suite).to_json())
        exact = table.expected_robustness(norm, threat.eps, suite)
        columns[f"expected robustness up to {threat}"] = Value(**exact.to_json())
        if len(radii) > 1 and np.allclose(radii, np.linspace(0, threat.eps, len(radii) + 1)[1:]):
            trapezoid = table.expected_robustness(norm, threat.eps, suite, points=len(radii))
            columns[f"expected robustness up to {threat}, trapezoid of {len(radii) + 1} points"] = Value(
                **trapezoid.to_json()
            )
    return columns


def _searched(table: EvidenceTable) -> list[tuple[Norm, list[float], str]]:
    """Norm, radii and suite of every search in the table."""
    pairs = table.frame[["norm", "suite"]].drop_duplicates().sort_values(["norm", "suite"])
    return [(norm, table.provenance["radii"][norm], suite) for norm, suite in pairs.itertuples(index=False)]


def _curves(table: EvidenceTable) -> dict[str, list[CurvePoint]]:
    curves = {}
    for norm, radii, suite in _searched(table):
        points = zip([0.0, *radii], table.accuracy_curve(norm, [0.0, *radii], suite), strict=True)
        curves[norm] = [CurvePoint(eps, e.value, e.low, e.high, e.unknown) for eps, e in points]
    return curves


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


def _samples(folder: Path) -> list[SampleView]:
    if not (folder / EXAMPLES).exists():
        return []
    with np.load(folder / EXAMPLES, allow_pickle=False) as arrays:
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


def _facts(table: EvidenceTable, run: Run | None) -> dict[str, str]:
    facts = _run_facts(run.config, run.record) if run else {}
    for suite in table.provenance["suites"].values():
        attacks = ", ".join(f"{attack['name']} with {attack['steps']} steps" for attack in suite["attacks"])
        facts[f"suite {suite['name']}"] = f"{attacks}; {suite['bisections']} bisections of the margin"
    passes = table.passes()
    facts["passes of the evaluation"] = f"{passes['forward']:,} forward, {passes['backward']:,} backward"
    facts["weights (SHA-256)"] = table.identity["model"]["weights"]
    facts["data (SHA-256)"] = table.identity["data"]
    return facts


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
