"""What ``temper corruptions`` does: measure a model under corruptions into a folder that can be continued."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from temper.core.claims import alone
from temper.core.files import unless_damaged, write_json
from temper.corruptions.baseline import ALEXNET, TABLE, Baseline, mce, read_baseline
from temper.corruptions.catalogue import IMAGENET_C, STAND_INS
from temper.corruptions.figure import write_figure
from temper.corruptions.measure import Measurement, Plan, each_corruption, guide, measure
from temper.corruptions.parameters import SEVERITIES
from temper.corruptions.table import CorruptionTable
from temper.errors import ArgumentError, EvidenceError
from temper.runs.evaluate import check_out, load, measured_on
from temper.runs.results import CorruptionAccuracy, CorruptionsResult, CorruptionSummary

FIGURE, SUMMARY = "corruptions.svg", "corruptions.json"

Preset = Literal["imagenet-c", "guide"]
PRESETS: tuple[Preset, ...] = get_args(Preset)


def corruptions_into(
    folder: Path,
    model: str,
    data_spec: str,
    *,
    names: Sequence[str] = (),
    severities: Sequence[int] = (),
    preset: Preset = "imagenet-c",
    baseline: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    workers: int = 0,
    image_size: int | None = None,
) -> CorruptionsResult:
    """Measure a model's accuracy under corruptions and keep every prediction in ``folder``.

    What is there already, of the same model, data, preset and seed, is not computed again. Writes the table
    (``corruptions.parquet``) after every corruption and severity, and at the end the summary (``corruptions.json``)
    and a figure (``corruptions.svg``).

    Args:
        folder: made if it is not there, once there is something to keep.
        model, data_spec: see :func:`temper.models.load` and :func:`temper.data.load`.
        names, severities: of the preset imagenet-c; its 15 corruptions, and 1 to 5, if none are given.
        preset: ``imagenet-c``, or ``guide`` (see :func:`temper.corruptions.guide_preset`).
        baseline: what the mean corruption error is taken against, see
            :func:`temper.corruptions.baseline.read_baseline`; None: it is not given.
        limit: at most so many samples, drawn in the classes' proportions.
        seed: of the sample choice and of the corruptions.
        batch_size: images classified at once.
        workers: processes that corrupt images.
        image_size: height and width that corrupted images are brought to; None: the model's.

    Raises:
        ArgumentError, ModelError, DataError: the call cannot work.
        EvidenceError: ``folder`` holds the measurement of another model, or of other data.
        RunError: another process is filling ``folder``.
    """
    _check_call(names, severities, preset, baseline, limit)
    against = None if baseline is None else read_baseline(baseline)
    check_out(folder)
    classifier, dataset = load(model, data_spec, limit, seed, image_size)
    if against is ALEXNET and dataset.num_classes != 1000:
        fix = f"is of ImageNet's 1,000 classes, {data_spec} has {dataset.num_classes}: name a folder measured on it"
        raise ArgumentError("baseline", baseline, fix)
    if preset == "guide":
        plan = guide(dataset, seed)
    else:
        plan = each_corruption(dataset, names or IMAGENET_C, severities or SEVERITIES, seed)
    path = folder / TABLE
    with alone(folder):
        known = unless_damaged(CorruptionTable.load, path, "all of it is measured again")
        try:
            done = measure(
                classifier, dataset, plan,
                batch_size=batch_size, workers=workers, known=known, save=lambda table: table.save(path),
            )  # fmt: skip
        except EvidenceError as error:
            raise EvidenceError(f"{path}: {error}; name another folder for this measurement (--out)") from None
        if done.complete:
            write_figure(done.table, plan.cells(), folder / FIGURE)
        result = CorruptionsResult(
            measured_on(model, dataset, done.table),
            summarised(done, plan, against),
            sorted({name for name, _ in plan.cells()} & set(STAND_INS)),
            done.seconds,
            path,
            folder / FIGURE if done.complete else None,
            done.complete,
        )
        write_json(folder / SUMMARY, result.to_json())
    return result


def _check_call(
    names: Sequence[str], severities: Sequence[int], preset: str, baseline: str | None, limit: int | None
) -> None:
    if preset not in PRESETS:
        raise ArgumentError("preset", preset, f"give one of {', '.join(PRESETS)}")
    given = {"corruption": names, "severity": severities, "baseline": baseline}
    for argument, value in given.items():
        if preset == "guide" and value:
            raise ArgumentError(argument, value, "the preset guide has its own corruptions and severity, and no mCE")
    if limit is not None and limit < 1:
        raise ArgumentError("limit", limit, "give at least 1")


def summarised(done: Measurement, plan: Plan, baseline: Baseline | None) -> CorruptionSummary:
    """The numbers of a measurement; means only where everything was measured."""
    table, cells = done.table, plan.cells()
    return CorruptionSummary(
        preset=plan.preset,
        rule=plan.rule,
        seed=plan.seed,
        clean=table.clean_accuracy() if table.cells() else None,
        mean=table.mean_accuracy(cells) if done.complete else None,
        error=mce(table, baseline, cells) if baseline and done.complete else None,
        corruptions=_by_corruption(table, cells),
    )


def _by_corruption(table: CorruptionTable, planned: Sequence[tuple[str, int]]) -> dict[str, CorruptionAccuracy]:
    """What is measured of each corruption that is planned."""
    measured = [cell for cell in planned if cell in table.cells()]
    accuracies = {}
    for name in dict.fromkeys(name for name, _ in measured):
        own = [cell for cell in planned if cell[0] == name]
        severities = {severity: table.accuracy(name, severity) for other, severity in measured if other == name}
        mean = table.mean_accuracy(own) if set(own) <= set(measured) else None
        accuracies[name] = CorruptionAccuracy(severities, mean)
    return accuracies
