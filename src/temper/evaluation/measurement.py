"""Measuring a model: from images and threats to an evidence table, stoppable and resumable at any moment."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from temper import distribution, models
from temper.attacks.crafting import foldable
from temper.attacks.engine import AttackEngine
from temper.attacks.suites import Suite, get_suite
from temper.core.files import check_writable
from temper.core.interrupt import Stop
from temper.core.precision import half
from temper.errors import ArgumentError, EvidenceError
from temper.evaluation import fitness
from temper.evaluation.clean import Clean, clean_batch, clean_pass
from temper.evaluation.expected import in_expectation
from temper.evaluation.journal import Journal
from temper.evaluation.kept import Kept
from temper.evaluation.memory import fitting_batch
from temper.evaluation.samples import Samples, device_of, from_arrays
from temper.evaluation.search import Findings
from temper.evaluation.searching import Records, Searched, Searching, evidence_rows
from temper.margins.subset import SubsetEstimate
from temper.margins.table import EvidenceTable, Provenance
from temper.models import Classifier
from temper.models.expectation import Expectation
from temper.threat import Norm, Threat, parse_threats

log = logging.getLogger(__name__)

TABLE = "margins.parquet"
JOURNAL = "journal"


def check_measured(folder: Path, argument: str) -> None:
    """Refuse a folder in which no measurement has ended.

    Raises:
        ArgumentError: about ``argument``.
    """
    if not (folder / TABLE).exists():
        fix = f"holds no {TABLE}; name the folder of a finished run or evaluation"
        raise ArgumentError(argument, str(folder), fix)


@dataclass(frozen=True)
class Evaluation:
    """What came out of a measurement.

    Attributes:
        table: the evidence.
        complete: whether every sample was searched at every radius, or as many as the precision asked for takes.
        seconds: time spent, in this call.
        subset: robust accuracy from the samples that were drawn, where a precision was asked for.
        kept: the adversarial images, where they were asked for; :meth:`pack` brings them into one file per norm.
    """

    table: EvidenceTable
    complete: bool
    seconds: float
    subset: SubsetEstimate | None = None
    kept: Kept | None = None

    def pack(self) -> dict[Norm, Path]:
        """Bring what is kept into one file per norm, and return their paths; see :meth:`Kept.pack`."""
        return self.kept.pack(self.table.frame) if self.kept else {}


@torch.inference_mode(False)
def evaluate(
    model: nn.Module | str | Path,
    images: NDArray[np.uint8] | Tensor,
    labels: NDArray[np.int64] | Tensor | Sequence[int],
    threats: str | Sequence[str],
    suite: str = "fast",
    seed: int = 0,
    *,
    batch_size: int | None = None,
    save_adversarial: str | Path | None = None,
    eot: int | None = None,
) -> EvidenceTable:
    """Search for evidence on a model's margins.

    Args:
        model: a module from float NCHW images in [0, 1] to logits, or what :func:`temper.models.load` reads.
        images: uint8 NHWC array, or float NCHW tensor in [0, 1].
        labels: int64 [N].
        threats: such as ``"Linf:2/255,4/255"``, or a list of such texts.
        suite: which attacks; see :data:`temper.attacks.suites.SUITES`.
        seed: of the random starts; the same seed gives the same table.
        batch_size: samples attacked at once, chosen from size and memory by default; it does not change what is found.
        save_adversarial: a folder in which each sample's nearest flip is kept, as ``Linf.npz`` and so on
            (:mod:`temper.evaluation.packed`); of flips of these samples that are there already the nearer ones stay.
        eot: passes for each answer of a random model, whose decisions are then those that most draws agree on; None
            takes one pass, and warns of such a model.

    Raises:
        ArgumentError: images, labels, threats or suite cannot be used, or ``save_adversarial`` cannot be written to.
        EvidenceError: ``save_adversarial`` holds images of another model or other data.
        ModelError: the model cannot be loaded or gives no usable logits, or no gradient reaches the pixels and every
            attack of the suite climbs one; or its random numbers cannot be given to each image from its own stream.
    """
    samples = from_arrays(images, labels)
    network = network_for(model, samples)
    folder = None if save_adversarial is None else Path(save_adversarial)
    if folder is not None:
        check_writable(folder, "save_adversarial")
    if eot is not None:
        network = in_expectation(network, eot, seed, samples.few())
    done = measure(network, samples, parse_threats(threats), suite, seed, batch_size=batch_size, adversarial=folder)
    done.pack()
    if not done.complete:  # nothing but Ctrl-C stops it, and the caller is to hear of that
        raise KeyboardInterrupt
    return done.table


def network_for(model: nn.Module | str | Path, samples: Samples) -> nn.Module:
    """A module, or what :func:`temper.models.load` reads, as one from images of these samples' shape to logits.

    Raises:
        ArgumentError: it takes images of another shape. ModelError: it cannot be loaded, or gives no usable logits.
    """
    few = samples.few()
    network = models.adapted(model, few) if isinstance(model, nn.Module) else load_classifier(model, example=few)
    if isinstance(network, Classifier):
        _check_size(network, samples.shape)
    return network


def load_classifier(model: str | Path, image_size: int | None = None, example: Tensor | None = None) -> Classifier:
    """What :func:`temper.models.load` reads, on the GPU where there is one."""
    classifier = models.load(model, image_size=image_size, example=example)
    return classifier.to("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode(False)
def measure(
    model: nn.Module,
    samples: Samples,
    threats: Sequence[Threat],
    suite: str | Suite,
    seed: int,
    *,
    batch_size: int | None = None,
    known: EvidenceTable | None = None,
    journal: Path | None = None,
    time_budget: float = float("inf"),
    precision: float | None = None,
    adversarial: Path | None = None,
) -> Evaluation:
    """Search every sample at every radius that the evidence has not settled yet.

    One clean pass over all samples comes first, always. Then it stops early, with what was found so far, at Ctrl-C
    or when ``time_budget`` seconds are spent.

    Args:
        model: a module from float NCHW images in [0, 1] to logits.
        samples: what to measure it on.
        threats: norms and radii.
        suite: which attacks, by name or as they are.
        seed: of the random starts.
        batch_size: samples attacked at once; by default that goes by their size and the memory.
        known: evidence to go on from.
        journal: folder where outcomes are written down as they come, and read back; several processes may share it.
        time_budget: seconds.
        precision: search only as many samples, drawn by their logit margins, as it takes to know robust accuracy to
            plus or minus this (95 %); for one threat.
        adversarial: folder where each sample's nearest flip is kept, on the disk before the journal knows of it, in
            files that :meth:`Evaluation.pack` brings together; several processes may share it.

    Raises:
        EvidenceError: ``known``, the journal or the images kept are of another model, data, seed or suite of that name.
        ModelError: the model gives no logits, or non-finite ones, or computes in less than full precision.
        ArgumentError: no such suite, labels that the model has no class for, or a precision for several threats or for
            a suite that looks for the nearest flips.
    """
    started = time.monotonic()
    chosen, random = get_suite(suite) if isinstance(suite, str) else suite, isinstance(model, Expectation)
    chosen = chosen.in_expectation() if random else chosen
    radii = {norm: sorted(t.eps for t in threats if t.norm == norm) for norm in dict.fromkeys(t.norm for t in threats)}
    about = identity(model, samples)
    _check_call(chosen, threats, batch_size, precision)
    kept = None if adversarial is None else Kept(adversarial, about, samples.shape, list(radii))
    if known is not None and known.provenance.seeds and seed not in known.provenance.seeds:
        raise EvidenceError(f"the evidence was found with seed {known.provenance.seeds[0]}, not {seed}")
    low = half(device_of(model).type)
    clean = clean_pass(model, samples, batch_size or clean_batch(samples), chosen)
    fitness.note_few_classes(chosen, clean.classes)
    provenance = _provenance(chosen, radii, seed, low, clean)
    if kept:
        kept.announce(len(samples) if chosen.nearest else int(clean.correct.sum()))
    findings = {norm: Findings(chosen.in_norm(norm), clean.columns["sample"], clean.gaps, norm) for norm in radii}

    def table() -> EvidenceTable:
        rows = pd.concat([evidence_rows(clean, own, norm, seed) for norm, own in findings.items()])
        evidence = EvidenceTable(rows, about, provenance)
        return evidence if known is None else known.merge(evidence)

    if known is not None:
        table()  # refuses what does not belong together before anything is searched
    deadline = started + time_budget
    header = {"identity": about, "suite": chosen.describe(), "seed": seed}
    with Stop() as stop, nullcontext() if journal is None else closing(Journal(journal, header)) as record:

        def interrupted() -> bool:
            return stop.requested or time.monotonic() > deadline

        def engine(x: Tensor) -> AttackEngine:
            size = batch_size or fitting_batch(model, x[:1])
            return AttackEngine(model, foldable(model, x), size, half=low, interrupted=interrupted)

        records = Records(record, kept)
        searching = Searching(Searched(model, samples, clean), radii, findings, seed, records, interrupted, engine)
        if known is not None:
            searching.recall(known)
        complete, subset = (searching.run(), None) if precision is None else searching.run_subset(precision)
    fitness.warn_if_not_finite(searching.not_finite)
    if complete:
        _warn_of_signs(table(), findings, threats, chosen, random=random)
    return Evaluation(table(), complete, time.monotonic() - started, subset, kept)


def _check_call(suite: Suite, threats: Sequence[Threat], batch_size: int | None, precision: float | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise ArgumentError("batch_size", batch_size, "must be at least 1")
    if precision is not None and (not precision > 0 or len(threats) != 1 or suite.nearest):
        fix = "must be above 0, as 0.01 for +-1 point, and takes one threat and a suite that searches a radius"
        raise ArgumentError("precision", precision, fix)


def _provenance(
    suite: Suite, radii: Mapping[Norm, Sequence[float]], seed: int, low: torch.dtype | None, clean: Clean
) -> Provenance:
    """Where the evidence of a search comes from; ``low`` is the lower precision that this machine searches in."""
    searched_in = [
        f"{low} search".removeprefix("torch.") if low in stage.bears else "float32 search" for stage in suite.stages
    ]
    return Provenance(
        suites={suite.name: suite.describe()},
        radii={suite.name: {str(norm): list(eps) for norm, eps in radii.items()}},
        seeds=[seed],
        versions=[distribution.version()],
        precision=sorted({*searched_in, *(f"{lower} inside the model" for lower in clean.inside)}),
    )


def identity(model: nn.Module, samples: Samples) -> dict[str, object]:
    """Fingerprints of model and data, which evidence belongs to, and the passes for an answer of a random model."""
    if isinstance(model, Expectation):
        return {**identity(model.network, samples), "eot": model.draws}
    return {"model": _model_identity(model), "data": samples.fingerprint}


def _warn_of_signs(
    table: EvidenceTable, findings: Mapping[Norm, Findings], threats: Sequence[Threat], suite: Suite, *, random: bool
) -> None:
    for norm, own in findings.items():
        fitness.warn_if_masked(own, norm)
        if not random:  # whose noise shows every sign
            fitness.warn_of_signs(own, norm)
        if not suite.nearest:
            rising = sorted(threat for threat in threats if threat.norm == norm)
            curve = [table.robust_accuracy(norm, threat.eps, suite.name).value for threat in rising]
            fitness.warn_if_flat(curve, rising)


def _check_size(classifier: Classifier, shape: tuple[int, ...]) -> None:
    size = classifier.image_size
    takes = (classifier.channels, *((size, size) if size else shape[1:]))
    if shape != takes:
        raise ArgumentError("images", shape, f"the model takes {takes} (channels, height, width): resize them first")


def _model_identity(model: nn.Module) -> dict[str, str]:
    if isinstance(model, Classifier):
        return models.fingerprint(model)
    return {"weights": models.weights_fingerprint(model), "preprocessing": "inside the model"}
