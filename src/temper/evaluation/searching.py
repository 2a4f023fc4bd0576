"""Searching all samples, shard by shard, beside other processes, with a bar."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from temper.attacks.engine import AttackEngine
from temper.attacks.suites import Suite
from temper.attacks.work import Work
from temper.core.claims import in_turn
from temper.core.progress import Bar, progress_bar
from temper.evaluation.clean import Clean, clean_batch
from temper.evaluation.journal import Journal
from temper.evaluation.kept import Kept
from temper.evaluation.samples import Samples, on_device
from temper.evaluation.search import Findings, Keep, Outcome, search, search_again
from temper.margins.subset import SubsetEstimate, SubsetPlan
from temper.margins.table import EvidenceTable
from temper.threat import ROUNDING, Norm

log = logging.getLogger(__name__)

SHARD = 512  # samples that are loaded, and claimed by a process, at once
POLL_SECONDS = 0.5
BAR_SECONDS = 0.3


@dataclass(frozen=True)
class Searched:
    """What is searched.

    Attributes:
        model: the model. samples: its images and labels.
        clean: what it makes of them.
    """

    model: nn.Module
    samples: Samples
    clean: Clean


@dataclass(frozen=True)
class Records:
    """Where what is found is written down as it comes.

    Attributes:
        journal: of outcomes, which are read back; None keeps them in memory alone.
        kept: the flips' images; None lets go of them.
    """

    journal: Journal | None = None
    kept: Kept | None = None


@dataclass
class Searching:
    """The searching of a measurement: shard by shard, in one process or shared with others through a journal.

    Attributes:
        searched: what is searched.
        radii: per norm, what is asked for.
        findings: per norm, all that is known; the journal holds the same, outcome by outcome.
        seed: of the random starts.
        records: where what is found is written down.
        interrupted: whether to stop.
        make_engine: given a few images, makes what attacks.
    """

    searched: Searched
    radii: Mapping[Norm, Sequence[float]]
    findings: Mapping[Norm, Findings]
    seed: int
    records: Records
    interrupted: Callable[[], bool]
    make_engine: Callable[[Tensor], AttackEngine]

    _engine: AttackEngine | None = field(init=False, default=None)
    _nearest: dict[Norm, NDArray[np.floating]] = field(init=False, default_factory=dict)  # flips that any suite found
    _unsettled: dict[Norm, NDArray[np.bool_]] = field(init=False, default_factory=dict)
    _bar: Bar = field(init=False)
    _settled: int = field(init=False, default=0)
    _moved: float = field(init=False, default=-BAR_SECONDS)

    def recall(self, table: EvidenceTable) -> None:
        """Take in what a table says beyond the journal, which holds it from then on, so that it is counted once."""
        for norm, own in self.findings.items():
            self._nearest[norm] = table.nearest(norm).reindex(own.ids).fillna(np.inf).to_numpy(np.float64)
        self._listen()
        if not any(self._missing(table)):
            return
        with in_turn(self._journal.folder, "recalling") if self._journal else nullcontext():
            self._listen()  # another process may have just taken it in
            for norm, outcome in list(self._missing(table)):
                self.findings[norm].add(outcome)
                self._note(norm, outcome)

    def _missing(self, table: EvidenceTable) -> Iterator[tuple[Norm, Outcome]]:
        """What a table says beyond all that is known."""
        for norm, own in self.findings.items():
            radii = table.provenance.radii.get(own.suite.name, {}).get(norm)
            rows = (table.frame["norm"] == norm) & (table.frame["suite"] == own.suite.name)
            for outcome in own.missing(table.frame[rows], radii) if radii else ():
                yield norm, outcome

    def run(self) -> bool:
        """Search what is open; whether everything is settled in the end."""
        self._begin()
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
        self._find_images()
        return not any(unsettled.any() for unsettled in self._unsettled.values())

    def run_subset(self, precision: float) -> tuple[bool, SubsetEstimate | None]:
        """Search as many samples, in one norm at one radius, as a precision takes; whether it is reached, and the
        estimate, if there is one already."""
        ((norm, (eps,)),) = self.radii.items()
        own, ids = self.findings[norm], self._clean.columns["sample"]
        plan = SubsetPlan(ids, self._clean.columns["logit_margin"], self._clean.correct, self.seed)
        self._begin()
        with progress_bar(f"attacking ({self._suite.name})", int(self._clean.correct.sum())) as bar:
            self._bar = bar
            while not plan.done(precision):
                asked = plan.next(SHARD)
                places = np.searchsorted(ids, asked)
                self._settle(norm, places)
                if self._unsettled[norm][places].any():  # interrupted: those that ended sooner are no fair sample
                    self._find_images()
                    return False, plan.estimate() if plan.begun else None
                nearest = np.minimum(own.upper, self._nearest.get(norm, np.inf))  # a flip that any suite found counts
                broken = nearest[places] <= eps * (1 + ROUNDING)
                plan.observe(asked, ~broken, np.zeros_like(broken))
        self._find_images()
        return True, plan.estimate()

    @property
    def not_finite(self) -> int:
        """Samples of this call on which logits or gradients were not finite."""
        return len(self._engine.not_finite) if self._engine else 0

    @property
    def _journal(self) -> Journal | None:
        return self.records.journal

    @property
    def _clean(self) -> Clean:
        return self.searched.clean

    @property
    def _suite(self) -> Suite:
        return next(iter(self.findings.values())).suite

    def _attacked(self, norm: Norm) -> NDArray[np.bool_]:
        """Samples whose evidence is wanted: all for the nearest flip, the correct ones otherwise."""
        return np.ones_like(self._clean.correct) if self._suite.nearest else self._clean.correct

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
        with self._claimed(f"{norm}-{places[0]}") as mine:
            if mine:
                self._listen()  # another process may have just given it back, done
                self._settle(norm, places)
        return mine

    @contextmanager
    def _claimed(self, name: str) -> Iterator[bool]:
        """Inside, no other process does this piece of work; yields whether that is so."""
        if self._journal is None:
            yield True
        elif not self._journal.claim(name):
            yield False
        else:
            try:
                yield True
            finally:
                self._journal.release(name)

    def _settle(self, norm: Norm, places: NDArray[np.int64]) -> None:
        """Search the samples at these places that are open."""
        rows = places[self._unsettled[norm][places]]
        if not len(rows):
            return
        work = self._load(rows)
        own, keep = self.findings[norm], self._keep(norm)
        for outcome in search(self._ready(work), work, norm, self.radii[norm], own, self.seed, keep):
            self._note(norm, outcome)
            if time.monotonic() - self._moved >= BAR_SECONDS:
                self._look(norm, rows)
                self._show(outcome.stage)
        self._look(norm, rows)

    def _note(self, norm: Norm, outcome: Outcome) -> None:
        if self._journal:
            self._journal.append(norm, outcome)

    def _keep(self, norm: Norm) -> Keep | None:
        return partial(self.records.kept.keep, norm) if self.records.kept else None

    def _find_images(self) -> None:
        """Find the flips again that are known without an image: from calls that kept none, or processes beside this one
        that keep none."""
        bare = self._all_bare()
        count = sum(map(len, bare.values()))
        if count and not self.interrupted():
            log.info("%d flips were found earlier without keeping their images: finding them again", count)
            open_ = [(norm, some) for norm in bare for some in self._shards(norm) if np.isin(some, bare[norm]).any()]
            with progress_bar("finding images again", count) as bar:
                while open_ and not self.interrupted():
                    open_ = [(norm, shard) for norm, shard in open_ if not self._find_again(norm, shard, bar)]
                    time.sleep(POLL_SECONDS if open_ else 0)
            count = sum(map(len, self._all_bare().values()))
        if count:
            log.warning("%d flips that were found earlier have no image%s", count, self._way_out())

    def _way_out(self) -> str:
        if self.interrupted():
            return " yet; the same command finds them again"
        return ": this machine does not find them again; a search into another folder keeps the images of all it finds"

    def _all_bare(self) -> dict[Norm, NDArray[np.int64]]:
        return {norm: self._bare(norm, np.arange(len(own.ids))) for norm, own in self.findings.items()}

    def _bare(self, norm: Norm, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of these places whose flip is known without an image, if images are kept."""
        own, kept = self.findings[norm], self.records.kept
        return places[kept.missing(norm, own.ids[places], own.upper[places])] if kept else places[:0]

    def _find_again(self, norm: Norm, places: NDArray[np.int64], bar: Bar) -> bool:
        """Find the flips at these places again that have no image, unless another process does; whether it was done."""
        with self._claimed(f"images-{norm}-{places[0]}") as mine:
            bare = self._bare(norm, places)
            keep = self._keep(norm)
            if mine and keep and len(bare):
                work = self._load(bare)
                for outcome in search_again(self._ready(work), work, norm, self.findings[norm], self.seed, keep):
                    self._note(norm, outcome)
                bar.advance(by=len(bare))
        return mine

    def _begin(self) -> None:
        """Take in what the journal holds, and note what is open."""
        self._listen()
        for norm in self.radii:
            self._unsettled[norm] = np.zeros_like(self._clean.correct)
            self._look(norm, np.arange(len(self._clean.correct)))

    def _listen(self) -> None:
        """Take in what other processes, and earlier ones, have written down."""
        changed = {norm: set[int]() for norm in self.findings}
        for norm, outcome in self._journal.unread() if self._journal else ():
            if norm in changed:
                self.findings[norm].add(outcome)
                changed[norm].add(outcome.sample)
        for norm in self._unsettled:
            places = np.flatnonzero(np.isin(self.findings[norm].ids, list(changed[norm])))
            if len(places):
                self._look(norm, places)

    def _load(self, places: NDArray[np.int64]) -> Work:
        columns = self._clean.columns
        samples = self.searched.samples.take(columns["sample"][places].tolist())
        parts = list(on_device(self.searched.model, samples.batches(clean_batch(self.searched.samples))))
        x, ids = torch.cat([part[0] for part in parts]), torch.cat([part[2] for part in parts])
        order = np.searchsorted(columns["sample"], ids.cpu().numpy())
        y, rivals = (torch.as_tensor(a[order], device=x.device) for a in (columns["prediction"], self._clean.rivals))
        return Work(x, y, ids, rivals)

    def _ready(self, work: Work) -> AttackEngine:
        if self._engine is None:
            self._engine = self.make_engine(work.x[:2])
        return self._engine

    def _show(self, stage: str) -> None:
        """Move the bar by the samples that were settled since."""
        self._moved = time.monotonic()
        settled = sum(int((self._attacked(norm) & ~self._unsettled[norm]).sum()) for norm in self.radii)
        self._bar.advance(stage, by=settled - self._settled)
        self._settled = settled


def evidence_rows(clean: Clean, findings: Findings, norm: Norm, seed: int) -> pd.DataFrame:
    """Rows of evidence in one norm."""
    return pd.DataFrame(
        clean.columns
        | {
            "norm": norm,
            "suite": findings.suite.name,
            "upper": findings.upper,
            "survived": findings.survived(),
            "attack": findings.attack,
            "seed": seed,
            "forward": findings.forward,
            "backward": findings.backward,
        }
    )
