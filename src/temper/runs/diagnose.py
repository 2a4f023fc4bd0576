"""Short paired runs that foretell whether fixed epsilon fails on a backbone and data, and which schedule to take."""

import logging
from collections.abc import Mapping
from pathlib import Path

from temper.attacks.losses import cross_entropy
from temper.core.files import check_writable, write_json
from temper.core.interrupt import Stopped
from temper.data import available_splits
from temper.errors import ArgumentError, RunError
from temper.evaluation.measurement import TABLE
from temper.margins import Estimate, EvidenceTable
from temper.margins.comparison import changes, clean_change
from temper.runs.diagnosis import FIXED, HALF, SCHEDULED, STANDARD, Diagnosis, Foretold, Scale, ShortRun
from temper.runs.finetune import finetune, load_backbone
from temper.runs.run import CONFIG, Run
from temper.runs.views import CLEAN, REPORT, report
from temper.threat import Threat
from temper.training import inner_attacks
from temper.training.config import FinetuneConfig, completed, read_config
from temper.training.diagnosis import Hinges, hinges, verdict
from temper.training.objectives import OBJECTIVES
from temper.training.sections.images import DataConfig
from temper.training.splits import Splits, splits_of
from temper.training.transfer import Validation

log = logging.getLogger(__name__)

SUMMARY = "diagnosis.json"
EPOCHS, PIXELS, STEPS, BATCH = 10, 64, 3, 32
IMAGES, PER_CLASS, VALIDATION, TEST = 600, 5, 400, 300  # where there are more
LARGEST_SHARE = 0.25  # of the training images, to validate


def diagnose(out: Path, config: FinetuneConfig, *, epochs: int = EPOCHS, images: int | None = None) -> Diagnosis:
    """Fine-tune briefly in four ways (standard, fixed at half of epsilon and at all of it, scheduled) and compare.

    The runs are those of :func:`temper.runs.finetune.finetune`, in folders below ``out``; started again, it goes on.

    Args:
        out: folder of the runs and of ``diagnosis.json``.
        config: of the training that is planned: its model, data, norm, epsilon, objective, protocol, optimiser and seed
            hold. Images are no larger than 64 pixels unless it says how large they are; the attack is PGD with 3 steps,
            the batch 32 images.
        epochs: of each run.
        images: to train on at most; by default 800, or 5 of each class where that is more.

    Raises:
        See :func:`temper.runs.finetune.finetune`. RunError: ``out`` holds runs with other settings.
    """
    if len(config.threats) > 1:
        raise ArgumentError("norm", config.norm, "is diagnosed in one norm; name one, with its eps")
    check_writable(out, "out")
    short, splits = _shortened(config.model_copy(update={"epochs": epochs}), images)
    log.info(
        "%s: up to four runs of %d epochs on %d images of %d classes, then the schedule to take",
        out, epochs, len(splits.train), splits.train.num_classes,
    )  # fmt: skip
    (threat,) = config.threats
    attacked = config.objective.name if OBJECTIVES[config.objective.name].attacked else "at"
    runs: dict[str, ShortRun] = {}

    def run(name: str, objective: str, schedule: Mapping[str, object], parts: int = 1) -> None:
        own = {"out": out / name, "eps": threat.eps / parts, "schedule": schedule}
        beta = config.objective.beta if objective == config.objective.name else None
        settings = short.model_dump() | own | {"objective": {"name": objective, "beta": beta}}
        runs[name] = _carried_out(read_config(settings), Threat(threat.norm, threat.eps / parts))

    run(STANDARD, "standard", {"name": "fixed"})
    run(HALF, attacked, {"name": "fixed"}, parts=2)
    run(FIXED, attacked, {"name": "fixed"})
    tables = {name: EvidenceTable.load(out / name / TABLE) for name in runs}
    lost = {name: clean_change(tables[name], tables[STANDARD]) for name in (HALF, FIXED)}
    told, gained = Foretold(verdict(runs[STANDARD].delay, runs[FIXED].delay, lost[FIXED])), None
    if told.verdict != "untold":
        found = hinges(
            [row["validation_accuracy"] for row in Run(out / STANDARD).history()],
            [runs[name].delay for name in (STANDARD, HALF, FIXED)],
            Validation.of(splits.validation.labels),
        )
        run(SCHEDULED, attacked, {"name": "hinge", "start": found.start, "end": found.end})
        told = Foretold(told.verdict, found, _passes(config, found))
        gained = changes(tables[FIXED], EvidenceTable.load(out / SCHEDULED / TABLE), threat)
    train, validation, test = (len(part) for part in (splits.train, splits.validation, splits.test))
    scale = Scale(train, validation, test, splits.train.num_classes, epochs, short.model.image_size, STEPS)
    done = Diagnosis(threat, scale, runs, lost, gained, told)
    report([each.folder for each in runs.values()], out / REPORT, f"Temper: diagnosis at {threat}")
    write_json(out / SUMMARY, done.to_json())
    return done


def _shortened(config: FinetuneConfig, images: int | None) -> tuple[FinetuneConfig, Splits]:
    """The configuration that all short runs share, and its data."""
    unlimited = dict.fromkeys(("train_limit", "test_limit", "validation_limit"))
    whole = config.model_copy(update={"data": config.data.model_copy(update=unlimited)})
    splits = splits_of(whole)
    data = _few(config.data, splits, images)
    model = config.model
    if model.image_size is None and (load_backbone(whole, splits).image_size or 0) > PIXELS:
        model = model.model_copy(update={"image_size": PIXELS})
    settings = config.model_dump() | {
        "model": model.model_dump(),
        "data": data.model_dump(),
        "attack": {"name": "pgd", "steps": STEPS},
        "batch_size": BATCH,
        "micro_batch": None,
        "evaluation": {"suite": "apgd", "points": 2},
        "validation": {},  # all runs are trained to their end
    }
    short = read_config(settings)
    return short, splits_of(short)


def _few(data: DataConfig, whole: Splits, images: int | None) -> DataConfig:
    """The data with as many images as short runs take; what is held out to validate is enough to judge by."""
    classes, rest = whole.train.num_classes, len(whole.train) + len(whole.validation)
    most = max(IMAGES, PER_CLASS * classes) if images is None else images
    fewer = {"train_limit": min(most, data.train_limit or most), "test_limit": min(TEST, data.test_limit or TEST)}
    fewer["test_limit"] = max(fewer["test_limit"], classes)
    if data.validation is None and "validation" not in available_splits(data.train):
        held_out = min(max(VALIDATION, 2 * classes) / rest, LARGEST_SHARE)
        return data.model_copy(update=fewer | {"validation_fraction": held_out})
    return data.model_copy(update=fewer)


def _carried_out(config: FinetuneConfig, threat: Threat) -> ShortRun:
    """A run, from where its folder stands."""
    try:
        run = finetune(config, resume=(config.out / CONFIG).exists())
    except Stopped:
        raise Stopped(f"{config.out.parent}: stopped, everything is saved; the same command continues") from None
    if run.delay is None:
        fix = "remove this folder, and the same command trains it again"
        raise RunError(f"{run.folder}: the metrics of some of its epochs are lost; {fix}")
    results = {name: Estimate(**numbers) for name, numbers in run.record["results"].items()}
    return ShortRun(
        run.folder,
        run.delay,
        results[CLEAN],
        results[f"robust accuracy at {threat}"],
        results[f"expected robustness up to {threat}"],
        sum(row["seconds"] for row in run.history()),
    )


def _passes(config: FinetuneConfig, found: Hinges) -> float:
    """Passes of a training with the schedule, as a share of those with fixed epsilon: no attack before T1."""
    attack = completed(config).attack
    crafting = sum(inner_attacks.make(attack.name, attack.length, attack.step_size, cross_entropy).passes())
    return (2 + (1 - found.start) * crafting) / (2 + crafting)
