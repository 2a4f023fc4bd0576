"""Robust fine-tuning from a configuration to a finished run folder."""

import importlib
import logging
import os
import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from temper import models
from temper.attacks.suites import get_suite
from temper.core.claims import alone, refuse_if_filled
from temper.core.files import unless_damaged
from temper.core.interrupt import Stopped
from temper.core.threads import computing_with
from temper.data import Dataset, Pixels
from temper.errors import ArgumentError, MissingExtraError, RunError, naming
from temper.evaluation import measurement, samples
from temper.evaluation.examples import examples
from temper.models import Classifier
from temper.models.model_text import parse_model
from temper.models.text_head import ZeroShot, choose_classes
from temper.runs import evaluate, views
from temper.runs.launching import together
from temper.runs.run import CONFIG, DELAY, TRAINED, Run, check_folder, open_run
from temper.runs.watch import watching
from temper.threat import Threat
from temper.training.config import FinetuneConfig, device_of, read_config, resolve
from temper.training.loop import train
from temper.training.objectives import OBJECTIVES
from temper.training.passes import trained
from temper.training.protocols import phases
from temper.training.rehearsal import rehearse
from temper.training.schedules import SCHEDULES, EpsilonSchedule, ramp_lost
from temper.training.sections.attack import ScheduleConfig
from temper.training.seen import SEEN, note_seen, read_seen
from temper.training.session import Task
from temper.training.splits import Splits, splits_of
from temper.training.transfer import Validation, delay
from temper.training.wings import statistical

log = logging.getLogger(__name__)

NO_EPS_RADIUS = 8 / 255  # what a run without a target epsilon is measured up to


# How a configuration calls the arguments of models.load.
MODEL_OPTIONS = {"model": "model.name", "model_args": "model.args", "mean": "model.mean", "std": "model.std"}
MODEL_OPTIONS |= {"weights": "model.weights", "image_size": "model.image_size"}

Schedule = EpsilonSchedule | Callable[[float, int], float]


@torch.inference_mode(False)
def finetune(
    config: FinetuneConfig | Mapping[str, object] | str | Path,
    *,
    schedule: Schedule | None = None,
    resume: bool = False,
    force: bool = False,
) -> Run:
    """Fine-tune a classifier as configured, measure it on the test data, and write its report.

    Args:
        config: a :class:`FinetuneConfig`, a mapping with its keys, or the path of a YAML file.
        schedule: takes the place of the configured one: an :class:`EpsilonSchedule`, or a callable from
            (epoch, epochs) to a share in [0, 1]. In one process only; several need ``schedule.function``.
        resume: continue the run in ``config.out`` where it stopped, on as many threads; on the CPU the weights end
            bit-identical to those of an uninterrupted run.
        force: replace a run that is in ``config.out``.

    Returns:
        The finished run.

    Raises:
        ArgumentError: the configuration cannot work, or ``resume`` and ``force`` are both given.
        DataError, ModelError: data or model cannot be read.
        RunError: the folder holds a run and neither ``resume`` nor ``force`` is given, or a part of one; or there is
            nothing to resume; or another process is filling it.
        NonFiniteLossError: the loss is not finite. Stopped: a signal asked to stop; ``resume`` continues.
    """
    config = read_config(config)
    refuse_if_filled(config.out)
    config = _resolved(config, resume=resume)
    check_folder(config.out, resume=resume, force=force)
    with alone(config.out), computing_with(config.threads):
        run, splits = _trained(config, schedule, resume=resume, force=force)
        if not run.finished:
            _evaluate(config, run, splits)
    return run


def train_only(config: FinetuneConfig) -> Run:
    """Fine-tune as configured, from where ``config.out`` stands, and save the model; nothing is measured.

    What was begun goes on with the threads it was begun with, whatever ``config`` says.

    Raises:
        See :func:`finetune`.
    """
    begun = (config.out / CONFIG).exists()
    config = _resolved(config.model_copy(update={"threads": None}) if begun else config, resume=begun)
    with computing_with(config.threads):
        return _trained(config, None, resume=begun, force=False)[0]


def _resolved(config: FinetuneConfig, *, resume: bool) -> FinetuneConfig:
    """The configuration with every default filled in; a run that goes on keeps its number of threads."""
    if resume and config.threads is None and (config.out / CONFIG).exists():
        config = config.model_copy(update={"threads": Run(config.out).config.threads})
    return resolve(config)


def _trained(config: FinetuneConfig, schedule: Schedule | None, *, resume: bool, force: bool) -> tuple[Run, Splits]:
    """The run of a resolved configuration with its training done, and its data."""
    check_folder(config.out, resume=resume, force=force)
    given, schedule = schedule is not None, _check(config, schedule)
    splits = splits_of(config)
    classifier = load_backbone(config, splits)
    if not resume:
        _check_readable(splits.validation, splits.test)
    if not (resume and (config.out / "model.json").exists()):
        smallest = _smallest_part(config, len(splits.train))
        bf16_on_cpu = config.precision == "bf16" and device_of(config) == "cpu"
        rehearse(classifier, _few(splits.train, classifier), smallest, bf16_on_cpu=bf16_on_cpu)
    run = open_run(config, schedule.name if given else None, resume=resume, force=force)
    _note_data(run, splits, config.model.name)
    if not (run.folder / "model.json").exists():
        with torch.random.fork_rng():
            _train(config, run, splits, classifier, schedule)
    _note_delay(run, splits.validation)
    return run, splits


def _check(config: FinetuneConfig, schedule: Schedule | None) -> EpsilonSchedule:
    """Say what cannot work before anything is read or written; returns the schedule."""
    get_suite(config.evaluation.suite)
    phases(config.protocol, config.epochs)
    if config.accelerator == "gpu" and not torch.cuda.is_available():
        raise ArgumentError("accelerator", "gpu", "there is no GPU that torch can use; choose cpu or auto")
    if config.protocol.name == "lora" and not find_spec("peft"):
        raise MissingExtraError("protocol lora", "lora")
    for name in config.loggers:
        if not find_spec(name) or (name != "tensorboard" and not find_spec("pytorch_lightning")):
            raise MissingExtraError(f"logger {name}", name)
    if schedule is not None and config.devices > 1:
        raise ArgumentError("schedule", schedule, "several processes need schedule.function, as module:function")
    if schedule is None:
        schedule = make_schedule(config.schedule, config.seed)
        _tell_lost_ramp(config)
    elif not isinstance(schedule, EpsilonSchedule):
        schedule = EpsilonSchedule.custom(schedule)
    if schedule.individual and OBJECTIVES[config.objective.name].labels == "none":  # one given in Python
        fix = f"objective {config.objective.name} looks at no label, and so at no margin; take another"
        raise ArgumentError("schedule", schedule.name, fix)
    hinges = SCHEDULES.get(schedule.name, {}).keys() & {"start", "end"}
    if hinges and schedule.fraction(config.epochs, config.epochs) < 1:
        fix = f"never reaches eps in {config.epochs} epochs; give shares of the training, or train longer"
        raise ArgumentError("schedule.end", config.schedule.end, fix)
    return schedule


def _tell_lost_ramp(config: FinetuneConfig) -> None:
    own = config.schedule
    if own.end is not None and OBJECTIVES[config.objective.name].attacked:
        lost = ramp_lost(own.start or 0.0, own.end, config.epochs)
        if lost is not None:
            log.warning("%s: %s", config.out, lost)


def _check_readable(*parts: Dataset) -> None:
    """Decode every image once: a damaged one is told now, not when hours of training are done."""
    for part in parts:
        for index in range(len(part)):
            part.images[index]


def _note_data(run: Run, splits: Splits, model: str) -> None:
    """Record the split, and what was seen in training; a run that goes on must find the very same data."""
    record = splits.record()
    if run.record.get("data", record) != record:
        raise RunError(f"{run.folder}: the data changed since the run was started; restore them, or begin with --force")
    if unless_damaged(read_seen, run.folder / SEEN, "it is written again") is None:
        note_seen(run.folder, splits.seen, model)
    run.note(data=record)


def _note_delay(run: Run, validation: Dataset) -> None:
    """Record how long a finished training took to adapt, unless an epoch's accuracy is lost."""
    if DELAY in run.record:
        return
    rows = run.history()
    epochs = run.trained.epochs if run.trained else run.config.epochs
    if [row["epoch"] for row in rows] == [*range(1, epochs + 1)]:
        accuracies = [row["validation_accuracy"] for row in rows]
        run.note(**{DELAY: delay(accuracies, Validation.of(validation.labels)).to_json()})


def _evaluate(config: FinetuneConfig, run: Run, splits: Splits) -> None:
    """Measure the finished model on the test data and write the report; picks up what was measured before."""
    classifier = models.load(run.folder)
    if device_of(config) == "cuda":
        classifier = classifier.cuda()
    test = samples.from_dataset(splits.test, classifier, config.data.workers)
    points, suite = config.evaluation.points, config.evaluation.suite
    ends = [Threat(each.norm, each.eps or NO_EPS_RADIUS) for each in config.threats]
    threats = [Threat(end.norm, end.eps * (k + 1) / points) for end in ends for k in range(points)]
    path = run.folder / measurement.TABLE
    done = measurement.measure(
        classifier, test, threats, suite, config.seed,
        batch_size=config.evaluation.batch_size,
        known=evaluate.known_evidence(path),
        journal=evaluate.journal(run.folder, suite, config.seed),
    )  # fmt: skip
    done.table.save(path)
    if not done.complete:
        raise Stopped(f"{run.folder}: stopped while measuring; --resume continues")
    shown = [e for end in ends for e in examples(classifier, test, done.table, end.norm, suite, config.seed)]
    evaluate.save_examples(run.folder / evaluate.EXAMPLES, shown, splits.test.class_names)
    results = {name: vars(value) for name, value in views.headline(done.table).items()}
    views.report([run.folder], run.folder / views.REPORT, f"Temper: {run.folder.name}")
    run.note(results=results, finished=True)


def load_backbone(config: FinetuneConfig, splits: Splits) -> Classifier:
    """The configured backbone with a fresh head for the data's classes; a run folder on the same classes keeps its, and
    so does a factory whose head has as many."""
    with naming(MODEL_OPTIONS):
        model = parse_model(config.model.name)
        classifier = models.load(
            config.model.name,
            num_classes=None if model.brings_classes else splits.train.num_classes,
            weights=config.model.weights,
            mean=_statistic(config.model.mean),
            std=_statistic(config.model.std),
            image_size=config.model.image_size,
            model_args=config.model.args or None,
            seed=config.seed,
            example=samples.few_images(splits.train),
        )
    if model.brings_classes:
        choose_classes(classifier, splits.train.class_names)
    if not classifier.head_parameters() and "head" in {
        phase.trained for phase in phases(config.protocol, config.epochs)
    }:
        fix = "the head is made of texts and stays as it is; choose full or lora"
        raise ArgumentError("protocol.name", config.protocol.name, fix)
    _check_suits(config.objective.name, classifier)
    known = classifier.info.get("class_names")
    own = known is None and model.builds_heads
    if not own and known != list(splits.train.class_names):  # another task may happen to have as many classes
        models.refresh_head(classifier, config.seed)
    return classifier


def _check_suits(objective: str, classifier: Classifier) -> None:
    """Say where a backbone lacks what the objective is about."""
    asks = OBJECTIVES[objective].asks
    if asks == "embeddings" and not isinstance(classifier.network, ZeroShot):
        fix = "matches the embeddings of an image tower; take model.name clip:NAME+TEXTS.safetensors"
        raise ArgumentError("objective.name", objective, fix)
    if asks == "wings" and not statistical(classifier):
        fix = f"keeps batch-norm statistics, and {classifier.info.get('spec')} has none; take at, or another model.name"
        raise ArgumentError("objective.name", objective, fix)


def _few(dataset: Dataset, classifier: Classifier) -> Tensor:
    """A few images as the classifier takes them, float [N, C, H, W] in [0, 1]."""
    pixels = Pixels(dataset, classifier.image_size, classifier.channels)
    return torch.stack([pixels[place][0] for place in range(min(4, len(pixels)))]).float() / 255


def _smallest_part(config: FinetuneConfig, count: int) -> int:
    """Images in the smallest part of a batch that goes through the model at once."""
    batch = count // -(-count // config.batch_size) // config.devices
    part = max(batch // -(-batch // (config.micro_batch or batch)), 1) if batch else 1
    return -(-part // 2) if OBJECTIVES[config.objective.name].asks == "wings" else part


def _statistic(values: tuple[float, ...] | None) -> float | tuple[float, ...] | None:
    """One number stands for all channels."""
    return values[0] if values and len(values) == 1 else values


def _train(config: FinetuneConfig, run: Run, splits: Splits, classifier: Classifier, schedule: EpsilonSchedule) -> None:
    fabric = make_fabric(config, run.folder)
    if config.devices == 1:
        _train_here(fabric, config, run.folder, splits, classifier, schedule)
    else:
        together(fabric, run.folder, _train_process, config, run.folder)


def _train_process(fabric: Fabric, config: FinetuneConfig, folder: Path) -> None:
    """One of several processes: each loads data and backbone for itself."""
    splits = splits_of(config)
    schedule = make_schedule(config.schedule, config.seed)
    with computing_with(config.threads):
        _train_here(fabric, config, folder, splits, load_backbone(config, splits), schedule)


def _train_here(
    fabric: Fabric,
    config: FinetuneConfig,
    folder: Path,
    splits: Splits,
    classifier: Classifier,
    schedule: EpsilonSchedule,
) -> None:
    """One process's part of the training; the first one saves the model."""
    watch = watching(Run(folder), schedule, Validation.of(splits.validation.labels))
    task = Task(config, schedule, folder, splits, watch=watch)
    progress = train(fabric, task, classifier)
    if fabric.is_global_zero:
        if took := trained(task, progress):
            Run(folder).note(**{TRAINED: took.to_json()})
        classifier.cpu()
        models.check_restores(classifier, _few(splits.validation, classifier))
        models.save(classifier, folder, extra={"class_names": list(splits.train.class_names)})


def make_fabric(config: FinetuneConfig, folder: Path) -> Fabric:
    """lightning-fabric with the configured devices, precision and experiment trackers."""
    return Fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        # Processes that are spawned get the task handed over; they need no command line to run again.
        strategy="ddp_spawn" if config.devices > 1 else "auto",
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        loggers=[_logger(name, folder) for name in config.loggers],
    )


def _logger(name: str, folder: Path) -> Any:
    if name == "tensorboard":
        from lightning_fabric.loggers import TensorBoardLogger

        return TensorBoardLogger(folder / "tensorboard", name="", version="")
    from pytorch_lightning import loggers

    if name == "wandb":
        return loggers.WandbLogger(name=folder.name, save_dir=folder)
    store = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder.resolve()}/mlflow.db")
    return loggers.MLFlowLogger(run_name=folder.name, tracking_uri=store)


def make_schedule(config: ScheduleConfig, seed: int) -> EpsilonSchedule:
    """The configured epsilon schedule; options that are not given take the schedule's own defaults."""
    given = {option: value for option in SCHEDULES[config.name] if (value := getattr(config, option)) is not None}
    if config.name == "uniform":
        return EpsilonSchedule.uniform(seed)
    if config.name == "custom":
        return EpsilonSchedule.custom(_function(str(config.function)))
    make: Callable[..., EpsilonSchedule] = getattr(EpsilonSchedule, config.name)
    return make(**given)


def _function(name: str) -> Callable[[float, int], float]:
    module, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function: Callable[[float, int], float] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ArgumentError("schedule.function", name, f"write module:function ({error})") from None
    return function
