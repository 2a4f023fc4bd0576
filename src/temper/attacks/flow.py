"""Samples in flight: runs as the rows of a full batch, and one that is done leaves its row to the next."""

from collections import deque
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from temper.attacks.attack import Answer, Problem, State, ask, learn
from temper.attacks.ball import distance, exact_distance, into_ball, rows
from temper.attacks.losses import flipped, logit_difference, logit_difference_targeted
from temper.attacks.suites import Stage
from temper.attacks.verification import Lent, filled_size
from temper.attacks.work import Finished, Flip, Note, Work
from temper.core import randomness
from temper.threat import Norm

POLISH_PROBES = 8


class Flow:
    """The runs in flight: one row of the state each.

    Runs of a sample count in their order, up to the first one that settles it. Later ones begin early where rows would
    be idle; what they find and cost is dropped if an earlier one settles the sample, so that answers do not depend on
    which rows were idle.

    Attributes:
        lost: samples whose search left the numbers of the low precision, with the forward and backward passes spent.
    """

    def __init__(
        self,
        engine: Lent,
        stage: Stage,
        work: Work,
        norm: Norm,
        eps: Tensor,
        seed: int,
        low: torch.dtype | None,
    ) -> None:
        self.engine, self.stage, self.work, self.norm, self.eps, self.seed = engine, stage, work, norm, eps, seed
        self.attack, self.low = stage.attack.among(work.rivals.shape[1]), low
        self.runs = self.attack.runs
        self.waiting = deque(range(len(work)))
        self.begun = np.zeros(len(work), np.int64)  # how many runs of each sample
        self.needed = np.full(len(work), self.runs)  # how many runs of each sample count
        self.over = np.zeros((len(work), self.runs), dtype=np.bool_)
        self.forward = np.zeros((len(work), self.runs), np.int64)
        self.backward = np.zeros((len(work), self.runs), np.int64)
        self.led = np.zeros((len(work), self.runs), dtype=np.bool_)  # runs that were given a direction, or need none
        # How far each run came, and by how much its first step was promised to raise the loss and did.
        self.lead, self.promised, self.risen = (np.full((len(work), self.runs), np.nan) for _ in range(3))
        self.odd = np.zeros((len(work), self.runs), dtype=np.bool_)  # runs that met logits or gradients without numbers
        self.nearest_flips: dict[tuple[int, int], Flip] = {}
        self.strange: set[tuple[int, int]] = set()
        self.lost: dict[int, tuple[int, int]] = {}
        self.reached: Tensor  # how far each row's run came
        self._open(engine.batch_size)

    @property
    def busy(self) -> bool:
        """Whether any sample is in flight."""
        return bool((self.who >= 0).any())

    def advance(self) -> Iterator[Finished]:
        """Ask the model about every row until a run is over or may be; let go of the samples that are done."""
        live = self.who >= 0
        rows_ = self.who[live], self.run[live]
        with self.engine.searching(self.low, self.work.x.device) as model:
            judged = 0

            def judge(images: Tensor) -> Tensor:
                nonlocal judged
                judged += 1
                with torch.no_grad():
                    logits: Tensor = model(images)
                    return logits

            while True:
                judged, images = 0, self.state["query"]
                answer = ask(self.attack, model, self.state)
                hit = None if self.attack.nearest else self._suspects(answer)
                strange = live & strange_rows(answer) if self.low else np.zeros_like(live)
                self._note(live & ~strange, answer)
                learn(self.attack, self.state, answer, self.norm, judge)
                if hit is None:
                    hit, images = self._near_suspects(), self.state["best"]
                self.forward[rows_] += (1 + judged) * self.engine.passes
                self.backward[rows_] += (self.attack.asks == "gradient") * self.engine.passes
                self.asked[live] += 1
                suspects = live & hit.cpu().numpy()
                over = live & (self.asked >= self.attack.queries)
                if (suspects | over | strange).any() or self.engine.interrupted():
                    break

        settled = self._verify(np.flatnonzero(suspects & ~strange), images)
        ended = np.setdiff1d(np.flatnonzero(over & ~strange), settled)
        self._note_end(ended)
        settled = np.concatenate([settled, self._end(ended), np.flatnonzero(strange)])
        self.strange.update((int(self.who[row]), int(self.run[row])) for row in np.flatnonzero(strange))
        np.minimum.at(self.needed, self.who[settled], self.run[settled] + 1)
        stopped = np.union1d(settled, ended).astype(np.int64)
        self.over[self.who[stopped], self.run[stopped]] = True
        for place in np.unique(self.who[stopped]).tolist():
            if self.over[place, : self.needed[place]].all():
                yield from self._leave(place)
        dropped = np.flatnonzero(live & (self.run >= self.needed[self.who]))
        self._enter(np.union1d(stopped, dropped).astype(np.int64))

    def _note(self, looked: NDArray[np.bool_], answer: Answer) -> None:
        """Note in these rows where the answer has no numbers, which runs were given a direction at all, and how far
        they came."""
        whole, led = torch.isfinite(answer.logits).all(1), torch.ones_like(answer.logits[:, 0], dtype=torch.bool)
        if answer.gradient is not None:
            finite = torch.isfinite(answer.gradient).flatten(1)
            whole, led = whole & finite.all(1), finite.any(1)
        rows_ = looked & led.cpu().numpy()
        self.led[self.who[rows_], self.run[rows_]] = True
        rows_ = looked & ~whole.cpu().numpy()
        if rows_.any():
            self.odd[self.who[rows_], self.run[rows_]] = True
        y, target, query = self.state["y"], self.state.get("target"), self.state["query"]
        lead = logit_difference if target is None else partial(logit_difference_targeted, target=target)
        further = torch.fmax(self.reached, lead(answer.logits, y))
        if self.norm == "L1":  # where a search begins in a wider ball
            further = torch.where(self._inside(distance(query - self.state["x"], "L1")), further, self.reached)
        self.reached = further

    def halve(self, error: BaseException) -> None:
        """After running out of memory: go on with half the rows; the samples in flight start their attack anew."""
        flying = np.unique(self.who[self.who >= 0])
        self.waiting.extendleft(flying.tolist()[::-1])
        self.begun[flying], self.needed[flying], self.over[flying] = 0, self.runs, False
        size = len(self.who)
        self.state.clear()
        self.engine.halve(size, self.work.x.device, error)
        self._open(self.engine.batch_size)

    def _open(self, size: int) -> None:
        """Fill ``size`` rows, or fewer if there are fewer runs."""
        size = min(size, len(self.waiting) * self.runs)
        self.who = np.full(filled_size(size, self.work.x), -1)
        self.run, self.asked = np.zeros_like(self.who), np.zeros_like(self.who)
        self.refused = torch.full((len(self.who),), -torch.inf, device=self.work.x.device)
        self.reached = self.refused.clone()
        self.state: State = {}
        self._enter(np.arange(size))

    def _next(self, row: int) -> tuple[int, int] | None:
        """The run that goes on in a row: the next one of the sample that was in it, or of one that waits, or, rather
        than leave it idle, of the sample in flight that has begun the fewest."""
        flying = np.unique(self.who[self.who >= 0])
        hungry = flying[self.begun[flying] < self.needed[flying]]
        if self.who[row] in hungry:
            place = int(self.who[row])
        elif self.waiting:
            place = self.waiting.popleft()
        elif len(hungry):
            place = int(hungry[self.begun[hungry].argmin()])
        else:
            return None
        self.begun[place] += 1
        return place, int(self.begun[place]) - 1

    def _enter(self, free: NDArray[np.int64]) -> None:
        """Let runs into free rows."""
        for row in free.tolist():
            self.who[row], self.run[row] = self._next(row) or (-1, 0)
        begun = free[self.who[free] >= 0]
        self.asked[begun] = 0
        if not self.state:  # the rows beyond the last run repeat the first one, and nobody looks at them
            begun = np.where(self.who >= 0, np.arange(len(self.who)), 0)
        if len(begun) and self.busy:
            places = torch.as_tensor(begun, device=self.work.x.device)
            self.refused[places] = self.reached[places] = -torch.inf
            fresh = self._begin(begun)
            if not self.state:
                self.state = fresh
            else:
                self.state = {name: old.index_copy(0, places, fresh[name]) for name, old in self.state.items()}
        if self.busy:
            self._compact()
            dead = torch.as_tensor(np.flatnonzero(self.who < 0), device=self.work.x.device)
            # A row that nobody looks at must not run beyond the attack's tables.
            self.state["step"] = self.state["step"].index_fill(0, dead, 0)

    def _begin(self, begun: NDArray[np.int64]) -> State:
        places = torch.as_tensor(self.who[begun], device=self.work.x.device)
        run = torch.as_tensor(self.run[begun], device=self.work.x.device)
        some = self.work.take(places)
        keys = randomness.sample_keys(self.seed, some.ids, self.stage.name, self.norm, run)
        # The first run of an attack that needs no randomness starts at the image, its restarts elsewhere.
        problem = Problem(
            x=some.x,
            y=some.y,
            eps=self.eps[places].to(some.x.dtype),
            norm=self.norm,
            keys=keys if self.stage.random_start else None,
            target=some.rivals.gather(1, run[:, None]).squeeze(1) if self.attack.targeted else None,
            rivals=some.rivals,
        )
        return self.attack.begin(problem)

    def _compact(self) -> None:
        """Drop rows that nobody is in."""
        alive = np.flatnonzero(self.who >= 0)
        size = filled_size(len(alive), self.work.x)
        if not len(alive) or size >= len(self.who):
            return
        kept = np.concatenate([alive, np.flatnonzero(self.who < 0)[: size - len(alive)]])
        places = torch.as_tensor(kept, device=self.work.x.device)
        self.who, self.run, self.asked = self.who[kept], self.run[kept], self.asked[kept]
        self.refused, self.reached = self.refused[places], self.reached[places]
        self.state = {name: tensor[places] for name, tensor in self.state.items()}

    def _suspects(self, answer: Answer) -> Tensor:
        """Rows whose image flips in the search's precision, further than what was checked in vain before."""
        lead = logit_difference(answer.logits, self.state["y"])
        hit = flipped(answer.logits, self.state["y"]) & (lead > self.refused)
        if not hit.any():
            return hit
        self.refused = torch.where(hit, lead, self.refused)
        return hit & self._inside(distance(self.state["query"] - self.state["x"], self.norm))

    def _near_suspects(self) -> Tensor:
        """Rows whose nearest flip lies in their ball, nearer than what was checked in vain before."""
        nearness = -self.state["distance"]
        hit = self._inside(self.state["distance"]) & (nearness > self.refused) & self.state["eps"].isfinite()
        self.refused = torch.where(hit, nearness.to(self.refused.dtype), self.refused)
        return hit

    def _inside(self, reached: Tensor) -> Tensor:
        return reached <= self.state["eps"] * (1 + 1e-5) + 1e-7

    def _verify(self, chosen: NDArray[np.int64], images: Tensor) -> NDArray[np.int64]:
        """Check these rows' images at full precision and keep the flips; the rows that are flipped in their ball."""
        if not len(chosen):
            return chosen
        places, samples = self._places(chosen)
        x, y, eps = self.work.x[samples], self.work.y[samples], self.eps[samples]
        tried = into_ball(x, images[places], eps, self.norm)
        self.forward[self.who[chosen], self.run[chosen]] += self.engine.passes
        reached = exact_distance(x, tried, self.norm)
        flips = (self.engine.verified(tried, y) & (reached <= eps)).cpu().numpy()
        for i in np.flatnonzero(flips).tolist():
            flips[i] = self._keep(chosen[i], float(reached[i]), tried[i], y[i])
        return chosen[flips]

    def _note_end(self, ended: NDArray[np.int64]) -> None:
        """Keep what the runs in these rows, which end without a flip, say about the gradients."""
        if self.attack.nearest or not len(ended):
            return
        key = self.who[ended], self.run[ended]
        self.lead[key] = self.reached.double().cpu().numpy()[ended]
        for name, noted in (("promised", self.promised), ("risen", self.risen)):
            if name in self.state:
                noted[key] = self.state[name].double().cpu().numpy()[ended]

    def _end(self, over: NDArray[np.int64]) -> NDArray[np.int64]:
        """What a run's end adds: its best image, which may flip at full precision alone, or its nearest flip,
        brought closer still. Returns the rows that are done with all their runs."""
        if not self.attack.nearest:
            return self._verify(over, self.state["best"])
        # A flip that lies well outside its ball will not be brought into it.
        near = self.state["distance"].isfinite() & (self.state["distance"] <= 1.1 * self.state["eps"])
        some = over[near.cpu().numpy()[over]]
        if not len(some):
            return some
        places, samples = self._places(some)
        x, y, eps = self.work.x[samples], self.work.y[samples], self.eps[samples].tolist()
        tried = self._polish(x, self.state["best"][places], y, some)
        settled = []
        for i in range(len(some)):
            flips = sorted(((float(reached[i]), k) for k, (reached, _) in enumerate(tried) if reached[i].isfinite()))
            kept = next((length for length, k in flips if self._keep(some[i], length, tried[k][1][i], y[i])), np.inf)
            settled.append(kept <= eps[i] < np.inf)
        return some[np.array(settled, dtype=np.bool_)]

    def _polish(self, x: Tensor, best: Tensor, y: Tensor, chosen: NDArray[np.int64]) -> list[tuple[Tensor, Tensor]]:
        """Walk back from each flip towards its clean image as far as it stays a flip at full precision.

        Steps back double until one fails, then the gap is halved. Where rounding lost the flip itself, a step beyond
        it is tried first. Returns what was tried: distances float64 [N], inf where it does not flip, and the images.
        """
        share = torch.ones(len(x), dtype=torch.float64, device=x.device)
        low, high, back = torch.zeros_like(share), torch.full_like(share, torch.inf), torch.full_like(share, 0.005)
        probes = []
        for _ in range(POLISH_PROBES):
            tried = (x + rows(share, x) * (best - x)).clamp(0, 1)
            self.forward[self.who[chosen], self.run[chosen]] += self.engine.passes
            flips = self.engine.verified(tried, y)
            probes.append((torch.where(flips, exact_distance(x, tried, self.norm), torch.inf), tried))
            high, low = torch.where(flips, share, high), torch.where(flips, low, torch.maximum(low, share))
            back = torch.where(flips & (low == 0), back * 2, back)
            beyond = torch.where(high.isfinite(), (low + high) / 2, share + 0.02)
            share = torch.where(low == 0, (high * (1 - back)).clamp_min(0), beyond)
        return probes

    def _places(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Rows, and the samples in them, as index tensors."""
        device = self.work.x.device
        return torch.as_tensor(chosen, device=device), torch.as_tensor(self.who[chosen], device=device)

    def _keep(self, row: int, reached: float, image: Tensor, y: Tensor) -> bool:
        """Whether a flip of this row is one alone too, off the class ``y`` []; then it is kept if it is the nearest."""
        key = int(self.who[row]), int(self.run[row])
        if key in self.nearest_flips and reached >= self.nearest_flips[key].distance:
            return True
        self.forward[key] += self.engine.deciding
        becomes = self.engine.alone(image, y)
        if becomes is None:
            return False
        self.nearest_flips[key] = Flip(reached, image.clone(), becomes)
        return True

    def _leave(self, place: int) -> Iterator[Finished]:
        """A sample's answer, from the runs that count."""
        runs = range(self.needed[place])
        forward, backward = int(self.forward[place, runs].sum()), int(self.backward[place, runs].sum())
        if (place, runs[-1]) in self.strange:
            self.lost[place] = forward, backward
            return
        flips = [self.nearest_flips[place, run] for run in runs if (place, run) in self.nearest_flips]
        nearest = min(flips, key=lambda flip: flip.distance, default=None)
        for run in range(self.runs):
            self.nearest_flips.pop((place, run), None)
        if self.odd[place, runs].any():
            self.engine.not_finite.add(int(self.work.ids[place]))
        leads = () if self.attack.nearest else tuple(self.lead[place, runs].tolist())
        led, note = bool(self.led[place, runs].any()), Note(leads, self._rise(place))
        yield Finished(place, nearest, forward, backward, led, note)

    def _rise(self, place: int) -> float:
        """Rise of the loss in a sample's first steps, over what was promised; 1 where this is not noted."""
        if "promised" not in self.state:
            return 1.0
        promised, risen = (noted[place, : self.needed[place]].sum() for noted in (self.promised, self.risen))
        return float(risen / promised) if np.isfinite(promised) and promised else 0.0


def strange_rows(answer: Answer) -> NDArray[np.bool_]:
    """Rows that a low precision has no numbers for: a logit or a gradient overflows, or the whole gradient vanishes."""
    strange = ~torch.isfinite(answer.logits).all(1)
    if answer.gradient is not None:
        peak = answer.gradient.flatten(1).abs().amax(1)
        strange |= ~torch.isfinite(peak) | (peak == 0)
    return strange.cpu().numpy()
