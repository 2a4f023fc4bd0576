"""The search of learning rates and weight decays: random proposals, the weaker ones stopped early, on validation data.

The space is that of arXiv:2508.14079's search, and a trial goes on by successive halving (ASHA, Li et al. 2020,
arXiv:1810.05934) as Optuna does it. Otherwise than there, what is maximised is accuracy and not the negative loss, the
number of trials is given and each of them is really run, and every search starts from a point of its own. As in
arXiv:2509.23325, section 6, it is searched with a fixed epsilon, and what is found serves every schedule.
"""

import contextlib
import dataclasses
import logging
import math
import shutil
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from temper import data
from temper.attacks.apgd import APGD
from temper.attacks.attack import perturb
from temper.attacks.crafting import Pair, crafting, foldable
from temper.attacks.losses import predicted
from temper.benchmark.grid import Cell
from temper.benchmark.spec import Search
from temper.benchmark.store import Store
from temper.core import randomness
from temper.core.files import written
from temper.core.interrupt import Stop, Stopped
from temper.core.progress import progress_bar
from temper.core.threads import computing_with
from temper.data import Dataset
from temper.errors import MissingExtraError, NonFiniteLossError
from temper.evaluation import samples
from temper.models import Classifier
from temper.runs.finetune import load_backbone, make_fabric, make_schedule
from temper.training.config import FinetuneConfig, resolve
from temper.training.loop import train
from temper.training.sections.attack import ScheduleConfig
from temper.training.sections.images import DataConfig
from temper.training.sections.learning import OptimiserConfig
from temper.training.session import Task
from temper.training.splits import Splits, splits_of

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.storages import JournalStorage
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

LEARNING_RATES = (1e-6, 1e-1)  # log-uniform, as the weight decays (arXiv:2508.14079's published code)
WEIGHT_DECAYS = (1e-6, 1e-2)
LR_SCHEDULES = ("cosine", "constant")
STEPS = 10  # of the attack on validation images
BATCH = 256
POLL_SECONDS = 2.0
KIND = "searches"
JOURNAL = "trials.journal"
# Of all protocols; the name of a search does not depend on what a cell's configuration holds there.
_SEARCHED = ("backbone_lr", "head_lr", "backbone_weight_decay", "head_weight_decay", "lr_schedule")


def searched(cell: Cell, store: Store, folder: Path) -> FinetuneConfig:
    """The cell's configuration with the optimiser that was found; it is searched now, unless the store has the result.

    One process at a time is at a search, and the others wait for its result. A search that was stopped or killed
    repeats at most the trial that it was in.

    Args:
        cell: what hyper-parameters are wanted for; ``cell.search`` says how they are searched.
        store: keeps the result (searches/NAME.json): the best values, and every trial.
        folder: of the cell's work; the search works beside it.

    Raises:
        MissingExtraError: Optuna is not installed. Stopped: a signal asked to stop; the same command continues.
        ArgumentError, DataError, ModelError: data or model cannot be read.
    """
    name = search_name(cell)
    best = _result(cell, store, name, folder.with_name(f"search-{name}"))["best"]
    assert isinstance(best, dict)
    return _with_optimiser(cell.config, best)


def search_name(cell: Cell) -> str:
    """Name of the search that a cell needs: a hash of what it depends on.

    Cells that differ in schedule share a search, and so do those that differ in seed where their test data are the
    same.
    """
    defaults = OptimiserConfig().model_dump(include=set(_SEARCHED))
    config = _with_optimiser(_configuration(cell), defaults)
    return dataclasses.replace(cell, config=config).training


def _settings(cell: Cell) -> Search:
    assert cell.search is not None, "the cell's learning rates are not searched"
    return cell.search


def _configuration(cell: Cell) -> FinetuneConfig:
    """What all trials have in common."""
    config = cell.config
    return config.model_copy(
        update={
            "seed": _settings(cell).seed if _same_test(config.data) else config.seed,
            "schedule": ScheduleConfig(name="fixed"),
            # One device takes the part of all: as much at once, and the same batches.
            "micro_batch": config.micro_batch or -(-config.batch_size // config.devices),
            "devices": 1,
            "checkpoint_seconds": math.inf,
            "loggers": (),
        }
    )


def _same_test(config: DataConfig) -> bool:
    """Whether runs of all seeds have the same test data; otherwise one's would be among what another one trains on."""
    given = config.split_seed is not None or config.test is not None
    return given or "test" in data.available_splits(config.train)


def _with_optimiser(config: FinetuneConfig, values: dict[str, object]) -> FinetuneConfig:
    return config.model_copy(update={"optimiser": config.optimiser.model_copy(update=values)})


def _result(cell: Cell, store: Store, name: str, folder: Path) -> dict[str, object]:
    """What the store keeps of a search, once it does."""
    owner = uuid.uuid4().hex
    with Stop() as stop:
        while (result := store.noted(KIND, name)) is None:
            with store.claimed(f"search-{name}", owner) as mine:
                if mine and store.noted(KIND, name) is None:  # another process may have just ended it
                    store.note(KIND, name, _search(cell, store, name, folder, stop))
                    _clear(store, folder)
            if not mine:
                time.sleep(POLL_SECONDS)
            if stop.requested:
                raise Stopped(f"{cell.label}: stopped at its search; the same command continues")
    assert isinstance(result, dict)
    return result


def _clear(store: Store, folder: Path) -> None:
    """Remove what the search worked in, here and where the store is."""
    shutil.rmtree(folder)
    folder.mkdir()
    store.push(folder.name, folder)
    folder.rmdir()


def _search(cell: Cell, store: Store, name: str, folder: Path, stop: Stop) -> dict[str, object]:
    """Run the trials that are still to do; returns the best values, and what became of each trial.

    Proposal n is drawn from a stream of (seed, name, n), so that no two searches propose the same, and one that goes
    on proposes what it would have without the break.
    """
    try:
        from optuna.samplers import RandomSampler
    except ImportError:
        raise MissingExtraError("a search of hyper-parameters", "search") from None
    search, config = _settings(cell), resolve(_configuration(cell))
    folder.mkdir(parents=True, exist_ok=True)
    store.pull(folder.name, folder)
    splits, space = splits_of(config), _space(config.protocol.name)
    with _quiet():
        study = _study(folder / JOURNAL, search.reduction)
        with progress_bar(f"search {name}", search.trials, len(study.trials)) as bar:
            for number in range(len(study.trials), search.trials):
                if stop.requested:
                    raise Stopped(f"{cell.label}: stopped after trial {number}; the same command continues")
                seed = randomness.number(search.seed, "search", name, number) % 2**32  # NumPy takes no larger one
                study.sampler = RandomSampler(seed)
                trial = study.ask(space)
                with _scratch(folder, number) as scratch:
                    ended = _run(study, trial, config, splits, search, scratch, stop)
                _save(study, folder / JOURNAL)
                with contextlib.suppress(OSError):  # a hiccup of the network; the next trial's comes
                    store.push(folder.name, folder)
                state, value = _describe(ended)["state"], ended.value
                log.info(f"search {name}, trial {number + 1}/{search.trials}: {state} at {value:.3f}")
                bar.advance(f"best {_best(study.trials).value:.3f}")
        best = _best(study.trials)
    return {
        "of": {key: cell.factors[key] for key in ("backbone", "dataset", "objective", "protocol")},
        "search": search.model_dump(),
        "best": best.params,
        "value": best.value,
        "trials": [_describe(trial) for trial in study.trials],
    }


def _space(protocol: str) -> "dict[str, BaseDistribution]":
    """What is searched, by name; a frozen backbone has neither learning rate nor weight decay."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    parts = ("head",) if protocol == "linear" else ("backbone", "head")
    space: dict[str, BaseDistribution] = {}
    for part in parts:
        space[f"{part}_lr"] = FloatDistribution(*LEARNING_RATES, log=True)
        space[f"{part}_weight_decay"] = FloatDistribution(*WEIGHT_DECAYS, log=True)
    return space | {"lr_schedule": CategoricalDistribution(LR_SCHEDULES)}


def _study(journal: Path, reduction: int) -> "Study":
    """The study with the trials that the journal holds.

    It lives in memory, and only trials that ended come into the journal: one that is killed leaves no trace that would
    count as a trial or as a competitor.
    """
    import optuna

    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=reduction)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    if journal.exists():
        try:
            study.add_trials(optuna.load_study(study_name=None, storage=_storage(journal)).trials)
        except (ValueError, LookupError, TypeError) as error:
            log.warning("%s: is damaged (%s); its trials are run again", journal, type(error).__name__)
    return study


def _save(study: "Study", journal: Path) -> None:
    import optuna

    with written(journal) as unfinished:
        kept = optuna.create_study(study_name="search", storage=_storage(unfinished), direction="maximize")
        kept.add_trials(study.trials)


def _storage(path: Path) -> "JournalStorage":
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(path)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna logs to stderr, and warns of what may change in it."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


@contextlib.contextmanager
def _scratch(folder: Path, number: int) -> Iterator[Path]:
    """A folder of the trial's own; a store elsewhere does not get what is hidden."""
    hidden = folder / ".trials"
    shutil.rmtree(hidden, ignore_errors=True)  # what a killed process left
    scratch = hidden / f"trial-{number + 1}"
    scratch.mkdir(parents=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _run(
    study: "Study", trial: "Trial", config: FinetuneConfig, splits: Splits, search: Search, scratch: Path, stop: Stop
) -> "FrozenTrial":
    """Train with what the trial proposes, until the end or until it falls behind; one that diverges is worth 0."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    config = _with_optimiser(config, trial.params)
    fabric = make_fabric(config, scratch)
    last = 0.0

    def after_epoch(classifier: Classifier, epoch: int) -> None:
        nonlocal last
        with fabric.autocast():
            clean, robust = accuracies(classifier, splits.validation, config, attacked=search.robust_weight > 0)
        last = (1 - search.robust_weight) * clean + search.robust_weight * robust
        trial.report(last, epoch)
        if epoch < config.epochs and trial.should_prune():
            raise TrialPruned

    with torch.random.fork_rng(), computing_with(config.threads):
        classifier = load_backbone(config, splits)
        schedule = make_schedule(config.schedule, config.seed)
        task = Task(config, schedule, scratch, splits, after_epoch)
        try:
            train(fabric, task, classifier, stop)
        except TrialPruned:
            return study.tell(trial, state=TrialState.PRUNED)
        except NonFiniteLossError:
            trial.set_user_attr("diverged", True)
            last = 0.0
    return study.tell(trial, last)


@torch.no_grad()
def accuracies(
    classifier: Classifier, validation: Dataset, config: FinetuneConfig, *, attacked: bool
) -> tuple[float, float]:
    """Shares of the validation data that are right, and right still after an APGD of 10 steps on cross-entropy.

    Args:
        classifier: as it is in training; lent to the attack and given back.
        validation: the samples.
        config: norm and eps of the attack; no more samples go through the model at once than in training.
        attacked: otherwise nothing is attacked, and the second share is the first.
    """
    held = samples.from_dataset(validation, classifier, config.data.workers)
    size = min(BATCH, config.micro_batch or config.batch_size)
    clean = robust = 0
    pairs = None
    for x, y, ids in samples.on_device(classifier, held.batches(size)):
        pairs = _pairs(classifier, x[:2]) if pairs is None else pairs
        with crafting(classifier, pairs) as model:
            right = _right(model, x, y)
            clean += int(right.sum())
            for threat in config.threats if attacked else ():  # robust are those that are right in every norm
                if threat.eps and right.any():
                    x, y, ids = x[right], y[right], ids[right]
                    keys = randomness.sample_keys(config.seed, ids, "search")
                    moved = perturb(APGD(STEPS), model, x, y, threat.eps, threat.norm, keys=keys, keep_flips=True)
                    right = _right(model, moved, y)
            robust += int(right.sum())
    return clean / len(held), robust / len(held)


def _pairs(classifier: Classifier, example: Tensor) -> list[Pair]:
    """What can be folded; a network that is beyond finite numbers cannot be compared with its folded self."""
    with crafting(classifier) as model:
        finite = bool(torch.isfinite(model(example)).all())
    return foldable(classifier, example) if finite else []


def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whether the prediction is the label, bool [N]; logits that are not finite predict nothing."""
    logits = model(x)
    return (predicted(logits) == y) & torch.isfinite(logits).all(1)


def _best(trials: "list[FrozenTrial]") -> "FrozenTrial":
    """The first of the highest value among those that trained to the end; else among the stopped, then the diverged."""
    from optuna.trial import TrialState

    return max(trials, key=lambda each: (not _diverged(each), each.state == TrialState.COMPLETE, each.value))


def _diverged(trial: "FrozenTrial") -> bool:
    return "diverged" in trial.user_attrs


def _describe(trial: "FrozenTrial") -> dict[str, object]:
    """A trial as the store keeps it; ``epochs`` holds the value after each."""
    return {
        "number": trial.number,
        "state": "diverged" if _diverged(trial) else trial.state.name.lower(),
        "value": trial.value,
        "params": trial.params,
        "epochs": {str(epoch): value for epoch, value in sorted(trial.intermediate_values.items())},
    }
