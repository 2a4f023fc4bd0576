"""One run of a benchmark: train, measure, write the row down. Done twice it is done once; stopped, it continues."""

import contextlib
import errno
import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from temper import models
from temper.benchmark.columns import RunEvidence, as_columns, columns
from temper.benchmark.costs import Cost, Sizes, cost
from temper.benchmark.grid import Cell
from temper.benchmark.progress import damaged
from temper.benchmark.spec import NEAREST
from temper.benchmark.store import RUN_DONE, RUN_FAILED, Ending, Store
from temper.core.claims import repeated
from temper.core.files import unless_damaged
from temper.core.interrupt import Stopped
from temper.core.threads import computing_with
from temper.corruptions.measure import guide
from temper.corruptions.measure import measure as measure_corruptions
from temper.corruptions.table import CorruptionTable
from temper.data import Dataset
from temper.errors import EvidenceError, MissingExtraError, TemperError, TemperWarning, UnreachableError
from temper.evaluation import measurement, samples
from temper.margins import EvidenceTable
from temper.models import Classifier
from temper.runs import evaluate
from temper.runs.finetune import train_only
from temper.runs.run import Run
from temper.threat import Threat
from temper.training.splits import splits_of

PUSH_SECONDS = 10.0
MAX_ERROR = 500  # characters of an error that are kept


def execute(cell: Cell, store: Store, owner: str) -> Ending:
    """Carry a run out, unless it is done or someone else is at it.

    A run that cannot be carried out is recorded with its error. What is the machine's fault is not: a full disk, a
    signal.

    Returns:
        done, failed, or elsewhere (another ``owner`` holds it).

    Raises:
        Stopped: a signal asked to stop; what is done is kept. OSError: the disk is full. MissingExtraError: what the
            grid asks for is not installed.
    """
    with store.claimed(cell.training, owner) as mine:  # two grids may ask for one training, measured otherwise
        if not mine:
            return "elsewhere"
        if _whole(cell, store):  # another process may have just ended it
            return "done"
        started = time.monotonic()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", TemperWarning)
                row = {"status": RUN_DONE, "error": "", **_carry_out(cell, store)}
            messages = [str(each.message) for each in caught if issubclass(each.category, TemperWarning)]
            row["warnings"] = "\n".join(dict.fromkeys([*messages, *str(row["warnings"]).splitlines()]))
        except (Stopped, MissingExtraError, UnreachableError):  # no fault of this run: all would end alike
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            row = failed_row(error)
        seconds = time.monotonic() - started
        store.write_run(cell.describe() | {"config": _configuration(cell)} | row | {"seconds": seconds})
    return "done" if row["status"] == RUN_DONE else "failed"


def _whole(cell: Cell, store: Store) -> bool:
    """Whether a run has a row, and no evidence that cannot be read; whoever chose the run was told of that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TemperWarning)
        return store.has_run(cell.run) and not damaged([cell], store)


def failed_row(error: Exception) -> dict[str, object]:
    """What a result row says of an error."""
    name = "" if isinstance(error, TemperError) else f"{type(error).__name__}: "
    return {"status": RUN_FAILED, "error": f"{name}{error}"[:MAX_ERROR]}


def record_failure(cell: Cell, store: Store, error: Exception) -> None:
    """Write down that a run could not be carried out."""
    store.write_run(cell.describe() | {"config": _configuration(cell), "seconds": 0.0} | failed_row(error))


def _configuration(cell: Cell) -> str:
    return json.dumps(cell.config.model_dump(mode="json", exclude={"out"}))


def _carry_out(cell: Cell, store: Store) -> dict[str, object]:
    """Train and measure; returns the metrics and facts of the result row."""
    with _workspace(store, cell.training, keep=cell.keep_weights) as folder:
        config = cell.config
        if cell.search:
            from temper.benchmark.search import searched

            config = searched(cell, store, folder)
        run = train_only(config.model_copy(update={"out": folder / "training"}))
        threads = run.config.threads
        classifier = measurement.load_classifier(run.folder)
        splits = splits_of(config)
        test = splits.test if cell.measure.limit is None else splits.test.limit(cell.measure.limit, 0)
        with computing_with(threads):
            tables = _measured(cell, store, folder, classifier, test)
            corrupted = _corruptions(cell, store, folder, classifier, test)
            row = metrics(RunEvidence(cell.measure, tables, corrupted, run.delay))
        spent = cost(cell, Sizes(len(splits.train), len(test), len(splits.validation)))
        passes, trained = [table.passes() for table in tables.values()], _training_passes(run, spent)
        return row | {
            "train_n": len(splits.train),
            "classes": splits.train.num_classes,
            "training_seconds": _training_seconds(run),
            "delay_censored": run.delay.censored if run.delay else None,
            "warnings": "\n".join(run.warnings),
            "history": json.dumps(run.history()),
            "training_passes": trained,
            "passes": trained + sum(each["forward"] + each["backward"] for each in passes),
            "loaded": float(classifier.info.get("loaded", np.nan)),
            "weights": models.weights_fingerprint(classifier.network),
            "data": test.fingerprint(),
            "threads": threads,
            "versions": json.dumps(run.record["versions"]),
        }


def _measured(
    cell: Cell, store: Store, folder: Path, classifier: Classifier, test: Dataset
) -> dict[str, EvidenceTable]:
    """Evidence by suite: of the threats and the curve, and of the nearest flips."""
    measure, seed = cell.measure, cell.config.seed
    by_suite = {suite: (test, threats) for suite, threats in measure.searched.items()}
    if measure.tau:
        few = test.limit(min(measure.tau, len(test)), seed)
        by_suite[NEAREST] = (few, [measure.curve or Threat("Linf", cell.config.threats[0].eps)])
    tables = {}
    for suite, (part, wanted) in by_suite.items():
        path = folder / f"{cell.run}-{suite}.parquet"
        done = measurement.measure(
            classifier, samples.from_dataset(part, classifier), wanted, suite, seed,
            batch_size=measure.batch_size, journal=evaluate.journal(folder, f"{cell.run}-{suite}", seed),
        )  # fmt: skip
        if not done.complete:
            raise Stopped(f"{cell.label}: stopped while measuring; the same command continues")
        done.table.save(path)
        store.write_evidence("margins", f"{cell.run}-{suite}", path)
        tables[suite] = done.table
    return tables


def _corruptions(
    cell: Cell, store: Store, folder: Path, classifier: Classifier, test: Dataset
) -> CorruptionTable | None:
    if not cell.measure.corruptions:
        return None
    path = folder / f"{cell.run}-corruptions.parquet"
    done = measure_corruptions(
        classifier, test, guide(test), batch_size=cell.measure.batch_size,
        known=unless_damaged(CorruptionTable.load, path, "all of it is measured again"),
        save=lambda table: table.save(path),
    )  # fmt: skip
    if not done.complete:
        raise Stopped(f"{cell.label}: stopped while measuring; the same command continues")
    store.write_evidence("corruptions", cell.run, path)
    return done.table


def metrics(left: RunEvidence) -> dict[str, object]:
    """The metrics of a result row, each with its 95 % interval, number of samples and unknown share."""
    row: dict[str, object] = {}
    missing: dict[str, object] = {}
    for column in columns(left.measure):
        if column.estimate is None:
            continue
        try:
            row |= as_columns(column.key, column.estimate(left))
        except EvidenceError as error:
            if column.always:
                raise
            missing[f"{column.key}_missing"] = str(error)
    return missing | row


def _training_passes(run: Run, planned: Cost) -> int:
    """As they were counted, with those of measuring robustness; as planned where a training began before they were."""
    took = run.trained
    if took is None:
        return planned.train_forward + planned.train_backward
    return round(took.passes.total + took.validation.total)


def _training_seconds(run: Run) -> float:
    return float(sum(row["seconds"] for row in run.history()))


@contextlib.contextmanager
def _workspace(store: Store, name: str, *, keep: bool) -> Iterator[Path]:
    """The folder that a run works in: the store's own, or one here whose checkpoints the store gets as they come."""
    if store.folder:
        folder = store.folder / "work" / name
        yield folder
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        return
    with tempfile.TemporaryDirectory(prefix="temper-") as here:
        folder = Path(here) / name
        store.pull(name, folder)
        with _pushing(lambda: store.push(name, folder) if folder.exists() else None):
            yield folder
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        store.push(name, folder)


@contextlib.contextmanager
def _pushing(push: Callable[[], None]) -> Iterator[None]:
    """Keep the store up to date while work goes on; whatever ends the work, its last state is kept."""
    try:
        with repeated(push, PUSH_SECONDS):
            yield
    except BaseException:
        push()
        raise
