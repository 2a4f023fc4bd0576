"""Searching for evidence: from images and radii to verified flips and survived radii.

The order of radii is chosen per sample: one that survives the largest is settled at all, and one that is broken is
broken at every larger radius. So a curve over many radii costs each sample about one failed search.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from temper.attacks.engine import AttackEngine
from temper.attacks.suites import TARGETS, Stage, Suite
from temper.attacks.work import NOTHING, Flip, Note, Work
from temper.evaluation.masking import EDGE, NEAR, Notes, Share, signs, way
from temper.threat import ROUNDING, Norm

Keep = Callable[[int, Flip], None]
"""Takes a sample's id and a flip, to keep its image."""


@dataclass(frozen=True)
class Outcome:
    """What one attack came to on one sample at one radius.

    Attributes:
        sample: its id.
        stage: the attack's name in its suite.
        radius: that was searched; inf for a search for the nearest flip, 0 where no gradient said where to search.
        distance: of the nearest verified flip found; inf if none.
        forward, backward: passes spent.
        note: what its runs noted, to 4 digits.
    """

    sample: int
    stage: str
    radius: float
    distance: float
    forward: int = 0
    backward: int = 0
    note: Note = NOTHING


@dataclass
class Findings:
    """What outcomes add up to in one norm, sample by sample; a fold over outcomes in any order, with repeats.

    Attributes:
        suite: which attacks must fail for a sample to survive.
        ids: int64 [N], rising.
        gaps: float64 [N, R], by how much the logits of a clean image's class lead those of its rivals, likeliest first;
            without them there are no signs of masked gradients.
        norm: of the search.
        upper: float64 [N], distance of the nearest verified flip; inf where none was found.
        attack: [N], name of the stage that found it; empty where this suite did not.
        radius: float64 [N], that it searched then, or one about as large where only a table is left of that.
        failed: per stage, float64 [N], largest radius at which it searched and found nothing; -1 before it ran.
        forward, backward: int64 [N], passes spent.
        notes: per stage that every sample gets, what it noted at the radius ``failed``.
        targets: int64 [N, T], each sample's rivals in the order of their linearised distances, as places in ``gaps``;
            -1 where that is not known, or not asked for.
    """

    suite: Suite
    ids: NDArray[np.int64]
    gaps: NDArray[np.float64] | None = None
    norm: Norm = "Linf"
    upper: NDArray[np.float64] = field(init=False)
    attack: NDArray[np.object_] = field(init=False)
    radius: NDArray[np.float64] = field(init=False)
    failed: dict[str, NDArray[np.float64]] = field(init=False)
    forward: NDArray[np.int64] = field(init=False)
    backward: NDArray[np.int64] = field(init=False)
    notes: dict[str, Notes] = field(init=False)
    targets: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        count = len(self.ids)
        self.upper, self.attack = np.full(count, np.inf), np.full(count, "", dtype=object)
        self.radius = np.full(count, np.nan)
        names = [stage.name for stage in self.suite.every] + ([TARGETS] if self.suite.targets else [])
        self.failed = {name: np.full(count, -1.0) for name in names}
        self.targets = np.full((count, self.suite.targets), -1)
        self.forward, self.backward = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.notes = {stage.name: Notes.none(count, stage.attack.runs) for stage in self.suite.noting}

    def place(self, sample: int) -> int:
        """Where a sample stands; -1 if it is not among them."""
        place = int(np.searchsorted(self.ids, sample))
        return place if place < len(self.ids) and self.ids[place] == sample else -1

    def at(self, places: NDArray[np.int64]) -> "Findings":
        """What is known by now of the samples at these rising places alone: a copy."""
        gaps = None if self.gaps is None else self.gaps[places]
        some = Findings(self.suite, self.ids[places], gaps, self.norm)
        for theirs, mine in zip(some._columns(), self._columns(), strict=True):
            theirs[:] = mine[places]
        some.notes = {name: noted.at(places) for name, noted in self.notes.items()}
        return some

    def add(self, outcome: Outcome) -> None:
        """Take an outcome in."""
        place = self.place(outcome.sample)
        if place < 0 or outcome.stage not in self.failed:
            return
        if outcome.distance < self.upper[place]:
            self.upper[place], self.attack[place] = outcome.distance, outcome.stage
            self.radius[place] = outcome.radius
        # A search without a limit has survived everything below the flip that it ends with.
        if outcome.distance > outcome.radius or outcome.radius == np.inf:
            if outcome.stage in self.notes and outcome.radius >= self.failed[outcome.stage][place]:
                self.notes[outcome.stage].take(place, outcome.note, self._gaps(outcome.stage, place))
            self.failed[outcome.stage][place] = max(self.failed[outcome.stage][place], outcome.radius)
        if outcome.note.targets:
            known = outcome.note.targets[: self.suite.targets]
            self.targets[place, : len(known)] = known
        self.forward[place] += outcome.forward
        self.backward[place] += outcome.backward

    def _gaps(self, name: str, place: int) -> NDArray[np.float64]:
        """By how much a sample's class leads the targets of this stage's runs, or its likeliest rival where they have
        none: float64 [runs]."""
        if self.gaps is None:
            return np.empty(0)
        stage = next(stage for stage in self.suite.noting if stage.name == name)
        if not stage.attack.targeted:
            return np.repeat(self.gaps[place, :1], stage.attack.runs)
        known = self.targets[place][self.targets[place] >= 0]
        return np.asarray(self.gaps[place, known] if stage.towards == "nearest" else self.gaps[place])

    def missing(self, rows: pd.DataFrame, radii: Sequence[float]) -> Iterator[Outcome]:
        """The outcomes that would add what rows of an evidence table, of this suite and norm, say beyond this.

        A row says what all stages together came to. So it is taken for every stage's word where they had settled it;
        which of them had had their turn when a search was stopped it does not say, and such a sample is searched from
        the beginning, with the same outcomes and passes.

        Args:
            rows: of the table.
            radii: that it was asked for.
        """
        table = self._of_rows(rows)
        settled = np.isnan(table.next_radius(radii))
        nearer = settled & (table.upper < self.upper)
        longer = settled & (table.survived() > self.survived())
        for place in np.flatnonzero(nearer | longer):
            sample, flip = int(self.ids[place]), float(table.upper[place])
            outcomes = []
            if nearer[place]:
                searched = np.inf if self.suite.nearest else self._reaching(flip, radii)
                outcomes.append(Outcome(sample, str(table.attack[place]), searched, flip))
            for name, survived in table.failed.items() if longer[place] else ():
                if survived[place] > self.failed[name][place]:  # or what that stage noted would be forgotten
                    outcomes.append(Outcome(sample, name, float(survived[place]), np.inf))
            if not outcomes:
                continue
            forward = max(int(table.forward[place] - self.forward[place]), 0)
            backward = max(int(table.backward[place] - self.backward[place]), 0)
            yield replace(outcomes[0], forward=forward, backward=backward)
            yield from outcomes[1:]

    def _reaching(self, flip: float, radii: Sequence[float]) -> float:
        """The radius that a search may have had that ended with a flip at this distance."""
        asked = [radius for radius in radii if radius >= flip]
        return min(asked) if asked and self.suite.resolution is None else flip

    def _of_rows(self, rows: pd.DataFrame) -> "Findings":
        """What the rows of a table say of the samples here."""
        own = rows.set_index("sample").reindex(self.ids)
        table, survived = Findings(self.suite, self.ids), own["survived"].fillna(0).to_numpy(np.float64)
        table.upper = own["upper"].fillna(np.inf).to_numpy(np.float64)
        table.attack = own["attack"].fillna("").to_numpy()
        table.forward, table.backward = (own[name].fillna(0).to_numpy(np.int64) for name in ("forward", "backward"))
        if self.suite.nearest:  # what ended with a flip has survived all below it
            survived = np.where(np.isfinite(table.upper) & (survived >= table.upper), np.inf, 0.0)
        for stage in self.suite.stages:
            table.failed[stage.name] = np.where(survived > 0, survived, -1.0)
        return table

    def _columns(self) -> list[NDArray[np.generic]]:
        """All that is known, an array [N] each."""
        known = [self.upper, self.attack, self.radius, self.forward, self.backward, self.targets]
        return [*known, *self.failed.values()]

    def signs(self) -> dict[str, NDArray[np.bool_]]:
        """Which samples show which sign of masked gradients: bool [N] each; see :mod:`temper.evaluation.masking`."""
        return signs(self.suite.first, self.failed, self.notes, self.norm)

    def masked(self) -> NDArray[np.bool_]:
        """Which samples show any sign of masked gradients: bool [N]."""
        return _any(self.signs())

    def wanted(self) -> dict[str, NDArray[np.bool_]]:
        """Which samples each stage is to search, if those before it find nothing: bool [N], by the stage's name."""
        on = {"all": np.ones(len(self.ids), dtype=np.bool_)}
        if any(stage.on != "all" for stage in self.suite.stages):
            shown = self.signs()
            on["flat"], on["masked"] = shown["flat"], _any(shown)
            on["whole"] = on["masked"] | ~np.isfinite(self.upper)
            on["near"], on["edge"] = (on["masked"] | self._came(share) for share in (NEAR, EDGE))
        return {stage.name: on[stage.on] for stage in self.suite.stages}

    def _came(self, share: Share) -> NDArray[np.bool_]:
        """Which samples came so near a flip where the first stages failed: bool [N]."""
        failed = np.min([self.failed[stage.name] for stage in self.suite.first if stage.on == "all"], 0)
        outside = np.isfinite(self.upper) & (failed <= share.of_distance * self.upper)
        return np.asarray((way(self.notes.values()) > share.of_way) & ~outside)

    def survived(self) -> NDArray[np.float64]:
        """Largest radius at which every attack of the suite searched and found nothing: float64 [N], 0 if none.

        A search for the nearest flip that found none at all says nothing: it looked in no ball to its end.
        """
        return self._survived(self._turns())

    def _turns(self) -> NDArray[np.float64]:
        """Per stage and sample, [stages, N], what ``failed`` says; inf where the stage is not to search."""
        return np.array([np.where(mask, self.failed[name], np.inf) for name, mask in self.wanted().items()])

    def _survived(self, turns: NDArray[np.float64]) -> NDArray[np.float64]:
        least = turns.min(0).clip(0)
        if self.suite.nearest:
            return np.where(np.isfinite(self.upper), np.minimum(least, self.upper), 0.0)
        return np.minimum(least, self.upper)

    def next_radius(self, radii: Sequence[float]) -> NDArray[np.float64]:
        """The radius to search each sample at next: float64 [N], nan where all is settled.

        The largest radius that is not settled comes first. Once a flip is known, and nothing brings flips closer,
        it is the middle one of those below. Then, if the suite has a resolution, the middle of the gap.
        """
        turns = self._turns()
        # An attack had nothing to go by, and all had their turn: what is open stays unknown.
        given_up = (turns == 0).any(0) & (turns >= 0).all(0)
        if self.suite.nearest:
            return np.where((turns == np.inf).all(0) | given_up, np.nan, np.inf)
        survived, rising = self._survived(turns), np.asarray(sorted(radii))
        unsettled = (survived[:, None] < rising * (1 - ROUNDING)) & (rising * (1 + ROUNDING) < self.upper[:, None])
        count, first = unsettled.sum(1), unsettled.argmax(1)
        step = np.where(np.isfinite(self.upper) & (self.suite.closer is None), count // 2, count - 1)
        target = np.where(count > 0, rising[np.minimum(first + np.maximum(step, 0), len(rising) - 1)], np.nan)
        if self.suite.resolution is not None:
            gap = np.where(np.isfinite(self.upper), self.upper, 0.0) - survived
            wide = (count == 0) & (gap > self.suite.resolution * rising[-1]) & (survived < rising[-1])
            target = np.where(wide, survived + gap / 2, target)
        return np.where(given_up, np.nan, target)


def search(
    engine: AttackEngine,
    work: Work,
    norm: Norm,
    radii: Sequence[float],
    findings: Findings,
    seed: int,
    keep: Keep | None = None,
) -> Iterator[Outcome]:
    """Search samples until every radius is settled; yields outcomes as they come and adds them to ``findings``.

    Args:
        engine: the model.
        work: samples, of which ``findings`` knows all.
        norm: Linf, L2 or L1.
        radii: in pixel units of [0, 1].
        findings: from where to go on.
        seed: of the random streams.
        keep: is given each flip before its outcome is known to anyone.
    """
    places = np.searchsorted(findings.ids, work.ids.cpu().numpy())
    suite = findings.suite

    def some_of(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], Work]:
        rows = np.flatnonzero(mask)
        return rows, work.take(torch.as_tensor(rows, device=work.x.device))

    def run(stage: Stage, mask: NDArray[np.bool_], radius: NDArray[np.float64]) -> Iterator[Outcome]:
        rows, some = some_of(mask)
        some = yield from _directed(engine, stage, some, norm, findings)
        eps = torch.as_tensor(radius[rows], device=work.x.device)
        for done in engine.flow(stage, some, norm, eps, seed):
            at = float(radius[rows[done.place]]) if done.led else 0.0
            sample = int(some.ids[done.place])
            note = replace(done.note, leads=tuple(map(_digits, done.note.leads)), rise=_digits(done.note.rise))
            if keep and done.flip:
                keep(sample, done.flip)
            outcome = Outcome(sample, stage.name, at, done.distance, done.forward, done.backward, note)
            findings.add(outcome)
            yield outcome

    # What is done with a sample next follows from what is known about it alone, so that a search that was stopped goes
    # on as if it had not been.
    while not engine.interrupted():
        if suite.closer:
            own = findings.at(places)
            unsettled = ~np.isnan(own.next_radius(radii)) & np.isfinite(own.upper)
            fresh = own.failed[suite.closer.name] < 0
            yield from run(suite.closer, unsettled & fresh, np.full(len(places), np.inf))
        radius = findings.at(places).next_radius(radii)
        open_ = ~np.isnan(radius)
        if not open_.any():
            return
        for stage in suite.stages:
            own = findings.at(places)
            standing = open_ & (suite.nearest | (own.upper > radius * (1 + ROUNDING)))
            standing &= own.failed[stage.name] < radius
            if stage.on != "all" and standing.any():  # signs are looked for where they can matter
                standing &= own.wanted()[stage.name]
            yield from run(stage, standing, radius)


def _directed(
    engine: AttackEngine, stage: Stage, work: Work, norm: Norm, findings: Findings
) -> Generator[Outcome, None, Work]:
    """The samples with the classes that a stage goes for; where these are the nearest, their order is found out first
    of those of which it is not known. After an interruption, which leaves some without it, nothing is searched."""
    if stage.towards == "likeliest":
        return work
    places = np.searchsorted(findings.ids, work.ids.cpu().numpy())
    unknown = np.flatnonzero(findings.failed[TARGETS][places] < 0)
    some = work.take(torch.as_tensor(unknown, device=work.x.device))
    for done in engine.nearest_targets(some, norm):
        sample = int(some.ids[done.place])
        outcome = Outcome(sample, TARGETS, np.inf, np.inf, done.forward, done.backward, done.note)
        findings.add(outcome)
        yield outcome
    return work.towards(findings.targets[places].clip(0))


def search_again(
    engine: AttackEngine, work: Work, norm: Norm, findings: Findings, seed: int, keep: Keep
) -> Iterator[Outcome]:
    """Find flips that are known again, for their images: each by the attack that found it. Yields what is nearer than
    known, which another machine may find; passes are those of a search that was not asked for, and not counted.

    Args: as of :func:`search`.
    """
    places = np.searchsorted(findings.ids, work.ids.cpu().numpy())
    for stage in findings.suite.every:
        rows = np.flatnonzero(findings.attack[places] == stage.name)
        if not len(rows):
            continue
        some = work.take(torch.as_tensor(rows, device=work.x.device))
        some = yield from _directed(engine, stage, some, norm, findings)
        radius = np.inf if stage is findings.suite.closer else findings.radius[places[rows]]
        eps = torch.as_tensor(np.broadcast_to(radius, rows.shape).copy(), device=work.x.device)
        for done in engine.flow(stage, some, norm, eps, seed):
            sample, at = int(some.ids[done.place]), float(eps[done.place])
            if done.flip:
                keep(sample, done.flip)
            if done.distance < findings.upper[places[rows[done.place]]]:
                outcome = Outcome(sample, stage.name, at, done.distance)
                findings.add(outcome)
                yield outcome


def _any(shown: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Which samples show any sign: bool [N]."""
    return np.asarray(np.logical_or.reduce(list(shown.values())))


def _digits(number: float) -> float:
    """As a journal can hold it, so that what follows from it is the same when it is read back."""
    return float(f"{number:.4g}")
