"""Measuring a model: from images and threats to an evidence table, stoppable and resumable at any moment."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from temper import models
from temper.attacks.crafting import foldable
from temper.attacks.engine import Engine, Work
from temper.attacks.suites import Suite, get_suite
from temper.core.interrupt import Stop
from temper.core.precision import half
from temper.core.progress import Bar, progress_bar
from temper.errors import ArgumentError, EvidenceError
from temper.evaluation import fitness
from temper.evaluation.clean import Clean, clean_batch, clean_pass
from temper.evaluation.journal import Journal
from temper.evaluation.memory import fitting_batch
from temper.evaluation.samples import Samples, device_of, from_arrays, on_device
from temper.evaluation.search import Findings, search
from temper.margins.subset import SubsetEstimate, SubsetPlan
from temper.margins.table import EvidenceTable, Provenance
from temper.models import Classifier
from temper.threat import ROUNDING, Norm, Threat, parse_threats

log = logging.getLogger(__name__)

TABLE = "margins.parquet"
JOURNAL = "journal"
SHARD = 512  # samples that are loaded, and claimed by a process, at once
POLL_SECONDS = 0.5
BAR_SECONDS = 0.3


@dataclass(frozen=True)
class Evaluation:
    """What came out of a measurement.

    Attributes:
        table: the evidence.
        complete: whether every sample was searched at every radius, or as many as the precision asked for takes.
        seconds: time spent, in this call.
        subset: robust accuracy from the samples that were drawn, where a precision was asked for.
    """

    table: EvidenceTable
    complete: bool
    seconds: float
    subset: SubsetEstimate | None = None


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

    Raises:
        ArgumentError: images, labels, threats or suite cannot be used.
        ModelError: the model cannot be loaded or gives no usable logits, or no gradient reaches the pixels and every
            attack of the suite climbs one.
    """
    samples = from_arrays(images, labels)
    few = samples.few()
    network = models.adapted(model, few) if isinstance(model, nn.Module) else load_classifier(model, example=few)
    if isinstance(network, Classifier):
        _check_size(network, samples.shape)
    done = measure(network, samples, parse_threats(threats), suite, seed, batch_size=batch_size)
    if not done.complete:  # nothing but Ctrl-C stops it, and the caller is to hear of that
        raise KeyboardInterrupt
    return done.table


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

    Raises:
        EvidenceError: ``known`` or the journal is of another model, data, seed or suite of that name.
        ModelError: the model gives no logits, or non-finite ones, or computes in less than full precision.
        ArgumentError: no such suite, labels that the model has no class for, or a precision for several threats or for
            a suite that looks for the nearest flips.
    """
    started = time.monotonic()
    chosen = get_suite(suite) if isinstance(suite, str) else suite
    radii = {norm: sorted(t.eps for t in threats if t.norm == norm) for norm in dict.fromkeys(t.norm for t in threats)}
    about = identity(model, samples)
    if batch_size is not None and batch_size < 1:
        raise ArgumentError("batch_size", batch_size, "must be at least 1")
    if precision is not None and (not precision > 0 or len(threats) != 1 or chosen.nearest):
        fix = "must be above 0, as 0.01 for +-1 point, and takes one threat and a suite that searches a radius"
        raise ArgumentError("precision", precision, fix)
    if known is not None and seed not in known.provenance.seeds:
        raise EvidenceError(f"the evidence was found with seed {known.provenance.seeds[0]}, not {seed}")
    low = half(device_of(model).type)
    searched_in = [
        f"{low} search".removeprefix("torch.") if low in stage.bears else "float32 search" for stage in chosen.stages
    ]
    clean = clean_pass(model, samples, batch_size or clean_batch(samples), chosen)
    fitness.note_few_classes(chosen, clean.classes)
    provenance = Provenance(
        suites={chosen.name: chosen.describe()},
        radii={chosen.name: {str(norm): eps for norm, eps in radii.items()}},
        seeds=[seed],
        versions=[metadata.version("temper")],
        precision=sorted({*searched_in, *(f"{lower} inside the model" for lower in clean.inside)}),
    )
    findings = {norm: Findings(chosen.in_norm(norm), clean.columns["sample"], clean.gaps, norm) for norm in radii}

    def table() -> EvidenceTable:
        frames = [_rows(clean, found, norm, seed) for norm, found in findings.items()]
        found = EvidenceTable(pd.concat(frames), about, provenance)
        return found if known is None else known.merge(found)

    if known is not None:
        table()  # refuses what does not belong together before anything is searched
        for norm, found in findings.items():
            _recall(found, known, norm)
    book = Journal(journal, {"identity": about, "suite": chosen.describe(), "seed": seed}) if journal else None
    deadline = started + time_budget
    with Stop() as stop:

        def interrupted() -> bool:
            return stop.requested or time.monotonic() > deadline

        evaluation = _Search(model, samples, clean, radii, findings, seed, book, interrupted, batch_size, low)
        subset = None
        try:
            if precision is None:
                complete = evaluation.run()
            else:
                complete, subset = evaluation.run_subset(precision)
        finally:
            if book:
                book.close()
    fitness.warn_if_not_finite(evaluation.not_finite)
    if complete:
        _warn_of_signs(table(), findings, threats, chosen)
    return Evaluation(table(), complete, time.monotonic() - started, subset)


def identity(model: nn.Module, samples: Samples) -> dict[str, Any]:
    """Fingerprints of model and data, which evidence belongs to."""
    return {"model": _model_identity(model), "data": samples.fingerprint}


class _Search:
    """The searching of a measurement: shard by shard, in one process or shared with others through a journal."""

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        clean: Clean,
        radii: Mapping[Norm, Sequence[float]],
        findings: Mapping[Norm, Findings],
        seed: int,
        journal: Journal | None,
        interrupted: Callable[[], bool],
        batch_size: int | None,
        half: torch.dtype | None,
    ) -> None:
        self.model, self.samples, self.clean, self.seed = model, samples, clean, seed
        self.radii, self.findings, self.journal, self.interrupted = radii, findings, journal, interrupted
        self.batch_size, self.half = batch_size, half
        self._engine: Engine | None = None
        self._unsettled: dict[Norm, NDArray[np.bool_]] = {}

    def run(self) -> bool:
        """Search what is open; whether everything is settled in the end."""
        self._catch_up()
        total = sum(int(self._attacked(norm).sum()) for norm in self.radii)
        with progress_bar(f"attacking ({self._suite.name})", total) as bar:
            self._bar = bar
            self._show("")
            while not self.interrupted():
                elsewhere = False
                for norm in self.radii:
                    for shard in self._shards(norm):
                        if self.interrupted():
                            break
                        elsewhere |= not self._shard(norm, shard)
                if not elsewhere:
                    break
                time.sleep(POLL_SECONDS)  # other processes work on what is left
                self._listen()
        return not any(unsettled.any() for unsettled in self._unsettled.values())

    def run_subset(self, precision: float) -> tuple[bool, SubsetEstimate | None]:
        """Search as many samples, in one norm at one radius, as a precision takes; whether it is reached, and the
        estimate, if there is one already."""
        ((norm, (eps,)),) = self.radii.items()
        found, ids = self.findings[norm], self.clean.columns["sample"]
        plan = SubsetPlan(ids, self.clean.columns["logit_margin"], self.clean.correct, self.seed)
        self._catch_up()
        with progress_bar(f"attacking ({self._suite.name})", int(self.clean.correct.sum())) as bar:
            self._bar = bar
            while not plan.done(precision):
                asked = plan.next(SHARD)
                places = np.searchsorted(ids, asked)
                self._settle(norm, places)
                if self._unsettled[norm][places].any():  # interrupted: those that ended sooner are no fair sample
                    return False, plan.estimate() if plan.begun else None
                broken = found.upper[places] <= eps * (1 + ROUNDING)
                plan.observe(asked, ~broken, np.zeros_like(broken))
        return True, plan.estimate()

    @property
    def not_finite(self) -> int:
        """Samples of this call on which logits or gradients were not finite."""
        return len(self._engine.not_finite) if self._engine else 0

    @property
    def _suite(self) -> Suite:
        return next(iter(self.findings.values())).suite

    def _attacked(self, norm: Norm) -> NDArray[np.bool_]:
        """Samples whose evidence is wanted: all for the nearest flip, the correct ones otherwise."""
        return np.ones_like(self.clean.correct) if self._suite.nearest else self.clean.correct

    def _look(self, norm: Norm, places: NDArray[np.int64]) -> None:
        """Note which samples at these places are not settled: where something came in, for to look at all of them each
        time takes longer than to search a few, once they are many."""
        radii = self.findings[norm].at(places).next_radius(self.radii[norm])
        self._unsettled[norm][places] = ~np.isnan(radii) & self._attacked(norm)[places]

    def _shards(self, norm: Norm) -> Iterator[NDArray[np.int64]]:
        places = np.flatnonzero(self._attacked(norm))
        yield from (places[start : start + SHARD] for start in range(0, len(places), SHARD))

    def _shard(self, norm: Norm, places: NDArray[np.int64]) -> bool:
        """Settle the samples at these places, unless another process does; whether they are settled or given up."""
        if not self._unsettled[norm][places].any():
            return True
        name = f"{norm}-{places[0]}"
        if self.journal and not self.journal.claim(name):
            return False
        try:
            self._listen()  # another process may have just given it back, done
            self._settle(norm, places)
        finally:
            if self.journal:
                self.journal.release(name)
        return True

    def _settle(self, norm: Norm, places: NDArray[np.int64]) -> None:
        """Search the samples at these places that are open."""
        rows = places[self._unsettled[norm][places]]
        if not len(rows):
            return
        work = self._load(rows)
        for outcome in search(self._ready(work), work, norm, self.radii[norm], self.findings[norm], self.seed):
            if self.journal:
                self.journal.append(norm, outcome)
            if time.monotonic() - self._moved >= BAR_SECONDS:
                self._look(norm, rows)
                self._show(outcome.stage)
        self._look(norm, rows)

    def _catch_up(self) -> None:
        """Take in what the journal holds. A table that was made from it counts the same passes."""
        passes = [count for found in self.findings.values() for count in (found.forward, found.backward)]
        recalled = [count.copy() for count in passes]
        for count in passes:
            count[:] = 0
        self._listen()
        for count, before in zip(passes, recalled, strict=True):
            np.maximum(count, before, out=count)
        for norm in self.radii:
            self._unsettled[norm] = np.zeros_like(self.clean.correct)
            self._look(norm, np.arange(len(self.clean.correct)))

    def _listen(self) -> None:
        """Take in what other processes, and earlier ones, have written down."""
        heard = {norm: set[int]() for norm in self.findings}
        for norm, outcome in self.journal.news() if self.journal else ():
            if norm in heard:
                self.findings[norm].add(outcome)
                heard[norm].add(outcome.sample)
        for norm in self._unsettled:
            places = np.flatnonzero(np.isin(self.findings[norm].ids, list(heard[norm])))
            if len(places):
                self._look(norm, places)

    def _load(self, places: NDArray[np.int64]) -> Work:
        columns = self.clean.columns
        samples = self.samples.take(columns["sample"][places].tolist())
        parts = list(on_device(self.model, samples.batches(clean_batch(self.samples))))
        x, ids = torch.cat([part[0] for part in parts]), torch.cat([part[2] for part in parts])
        order = np.searchsorted(columns["sample"], ids.cpu().numpy())
        y, rivals = (torch.as_tensor(a[order], device=x.device) for a in (columns["prediction"], self.clean.rivals))
        return Work(x, y, ids, rivals)

    def _ready(self, work: Work) -> Engine:
        if self._engine is None:
            pairs = foldable(self.model, work.x[:2])
            size = self.batch_size or fitting_batch(self.model, work.x[:1])
            self._engine = Engine(self.model, pairs, size, half=self.half, interrupted=self.interrupted)
        return self._engine

    def _show(self, stage: str) -> None:
        """Move the bar by the samples that were settled since."""
        self._moved = time.monotonic()
        settled = sum(int((self._attacked(norm) & ~self._unsettled[norm]).sum()) for norm in self.radii)
        self._bar.advance(stage, by=settled - self._settled)
        self._settled = settled

    _bar: Bar
    _settled = 0
    _moved = -BAR_SECONDS


def _rows(clean: Clean, found: Findings, norm: Norm, seed: int) -> pd.DataFrame:
    """Rows of evidence in one norm."""
    return pd.DataFrame(
        clean.columns
        | {
            "norm": norm,
            "suite": found.suite.name,
            "upper": found.upper,
            "survived": found.survived(),
            "attack": found.attack,
            "seed": seed,
            "forward": found.forward,
            "backward": found.backward,
        }
    )


def _recall(found: Findings, known: EvidenceTable, norm: Norm) -> None:
    """Go on from the rows that a table has of this suite in this norm."""
    name = found.suite.name
    radii = known.provenance.radii.get(name, {}).get(norm)
    if radii:
        found.recall(known.frame[(known.frame["norm"] == norm) & (known.frame["suite"] == name)], radii)


def _warn_of_signs(
    table: EvidenceTable, findings: Mapping[Norm, Findings], threats: Sequence[Threat], suite: Suite
) -> None:
    for norm, found in findings.items():
        fitness.warn_if_masked(found, norm)
        fitness.warn_of_signs(found, norm)
        if not suite.nearest:
            own = sorted(threat for threat in threats if threat.norm == norm)
            curve = [table.robust_accuracy(norm, threat.eps, suite.name).value for threat in own]
            fitness.warn_if_flat(curve, own)


def _check_size(classifier: Classifier, shape: tuple[int, ...]) -> None:
    size = classifier.image_size
    takes = (classifier.channels, *((size, size) if size else shape[1:]))
    if shape != takes:
        raise ArgumentError("images", shape, f"the model takes {takes} (channels, height, width): resize them first")


def _model_identity(model: nn.Module) -> dict[str, str]:
    if isinstance(model, Classifier):
        return models.fingerprint(model)
    return {"weights": models.weights_fingerprint(model), "preprocessing": "inside the model"}


# --- pictures for the report ----------------------------------------------------------------------
