"""The batch engine: samples flow through a full batch, and one that is done leaves its row to the next.

Nothing is computed for samples whose answer is known. The search may run in low precision and with batch norms
folded; a flip counts only after the full-precision check of the very image that is returned.
"""

import gc
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from temper import randomness
from temper.attacks.attack import Answer, Problem, State, ask
from temper.attacks.crafting import Pair, crafting, fold, folded
from temper.attacks.losses import flipped, logit_difference
from temper.attacks.suites import Stage
from temper.errors import ModelError
from temper.precision import full_precision
from temper.threat import Norm, distance, rows

# Kernels for fewer images than these round otherwise than those for more: batches on the CPU are filled up to a
# multiple, so that results are bit for bit the same in every batch size.
GRAIN = {"cpu": 16}
POLISH_PROBES = 8


@dataclass(frozen=True)
class Work:
    """Samples to attack.

    Attributes:
        x: images float [N, C, H, W] in [0, 1]; y: int64 [N], the classes to get away from, which the model gives them.
        ids: int64 [N], the samples' ids; with the seed they name the random streams.
        rivals: int64 [N, R], the likeliest other classes on the clean image, likeliest first.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    rivals: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, places: Tensor) -> "Work":
        """The samples at these places."""
        return Work(self.x[places], self.y[places], self.ids[places], self.rivals[places])


@dataclass(frozen=True)
class Finished:
    """A sample that is done with one attack.

    Attributes:
        place: which of the samples.
        distance: of the nearest verified flip; inf where there is none.
        nearest: the flip, float [C, H, W], or None.
        forward, backward: passes spent on it.
    """

    place: int
    distance: float
    nearest: Tensor | None
    forward: int
    backward: int


class Engine:
    """A model that is being searched, and how.

    Args:
        model: float [N, C, H, W] in [0, 1] to logits [N, K].
        pairs: convolutions and batch norms to fold while searching, from
            :func:`temper.attacks.crafting.foldable`.
        batch_size: samples in flight.
        bf16: the hardware computes bfloat16: stages that allow it search in bfloat16 autocast.
        interrupted: asked between steps; when it says yes, the flow ends and what is in flight is dropped.
    """

    def __init__(
        self,
        model: nn.Module,
        pairs: list[Pair],
        batch_size: int,
        *,
        bf16: bool = False,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model, self.batch_size, self.bf16, self.interrupted = model, batch_size, bf16, interrupted
        self._folds = fold(pairs)

    @contextmanager
    def searching(self, stage: Stage, device: torch.device) -> Iterator[nn.Module]:
        """The lent model as a stage asks it."""
        low = self.bf16 and stage.bf16
        precision = torch.autocast(device.type, torch.bfloat16) if low else full_precision(device)
        with folded(self._folds), precision:
            yield self.model

    @torch.no_grad()
    def verified(self, images: Tensor, y: Tensor) -> Tensor:
        """Which images [N, ...] lie in the box and are classified otherwise at full precision: bool [N]."""
        in_box = ((images >= 0) & (images <= 1)).flatten(1).all(1)
        with full_precision(images.device):
            logits = self.model(filled(images.float()))[: len(images)]
        return flipped(logits, y) & in_box

    def flow(self, stage: Stage, work: Work, norm: Norm, eps: Tensor, seed: int) -> Iterator[Finished]:
        """Run one attack on all samples, each at its own radius; yields them as they finish, in no set order.

        What is found on a sample depends on nothing but model, seed, sample, attack, norm and radius.

        Args:
            stage: what to run.
            work: the samples.
            norm: Linf, L2 or L1.
            eps: float64 [N]; inf for attacks that look for the nearest flip without a limit.
            seed: of the random streams.
        """
        if not len(work):
            return
        flow = _Flow(self, stage, work, norm, eps, seed)
        with crafting(self.model):  # once for all steps: walking through all modules takes longer than a small network
            while flow.busy and not self.interrupted():
                try:
                    yield from flow.step()
                except (torch.OutOfMemoryError, RuntimeError) as error:
                    if not _out_of_memory(error):
                        raise
                    flow.halve(error)


class _Flow:
    """The samples in flight: one row of the state each."""

    def __init__(self, engine: Engine, stage: Stage, work: Work, norm: Norm, eps: Tensor, seed: int) -> None:
        self.engine, self.stage, self.work, self.norm, self.eps, self.seed = engine, stage, work, norm, eps, seed
        self.attack = stage.attack
        self.runs = min(self.attack.runs, work.rivals.shape[1]) if self.attack.targeted else self.attack.runs
        self.waiting = deque(range(len(work)))
        self.forward = np.zeros(len(work), np.int64)
        self.backward = np.zeros(len(work), np.int64)
        self.found: dict[int, tuple[float, Tensor]] = {}
        self._open(engine.batch_size)

    @property
    def busy(self) -> bool:
        """Whether any sample is in flight."""
        return bool((self.who >= 0).any())

    def step(self) -> Iterator[Finished]:
        """Ask the model once for every row, and let go of the samples that are done."""
        live, judged = self.who >= 0, 0
        device = self.work.x.device
        with self.engine.searching(self.stage, device) as model:

            def judge(images: Tensor) -> Tensor:
                nonlocal judged
                judged += 1
                with torch.no_grad():
                    logits: Tensor = model(images)
                    return logits

            answer = ask(self.attack, model, self.state)
            suspects = None if self.attack.nearest else self._suspects(answer), self.state["query"]
            self.attack.update(self.state, answer, self.norm, judge)
        if self.attack.nearest:
            suspects = self._near_suspects(), self.state["best"]
        classes = answer.logits.shape[1]
        self.forward[self.who[live]] += 1 + judged
        self.backward[self.who[live]] += {"logits": 0, "gradient": 1, "jacobian": classes}[self.attack.asks]
        self.asked[live] += 1

        hit, images = suspects
        assert hit is not None
        settled = self._verify(np.flatnonzero(hit.cpu().numpy() & live), images)
        over = np.flatnonzero(live & (self.asked >= self.attack.queries))
        over = over[~np.isin(over, settled)]
        settled = np.concatenate([settled, self._end(over)])
        again = over[(self.run[over] + 1 < self.runs) & ~np.isin(over, settled)]
        done = np.union1d(settled, np.setdiff1d(over, again)).astype(np.int64)
        yield from [self._leave(row) for row in done]
        self.run[again] += 1
        self._enter(done, again)

    def halve(self, error: BaseException) -> None:
        """After running out of memory: go on with half the rows; the samples in flight start their attack anew."""
        self.waiting.extendleft(self.who[self.who >= 0].tolist()[::-1])
        size, smallest = len(self.who), GRAIN.get(self.work.x.device.type, 1)
        if size <= smallest:
            raise ModelError(
                f"not even {size} images fit into memory for one pass; use a smaller model or image size"
            ) from error
        self.state.clear()
        gc.collect()
        if self.work.x.is_cuda:
            torch.cuda.empty_cache()
        self.engine.batch_size = max(size // 2, smallest)
        self._open(self.engine.batch_size)

    def _open(self, size: int) -> None:
        """Fill ``size`` rows, or fewer if fewer samples wait."""
        self.who = np.full(_filled_size(min(size, len(self.waiting)), self.work.x), -1)
        self.run, self.asked = np.zeros_like(self.who), np.zeros_like(self.who)
        self.refused = torch.full((len(self.who),), -torch.inf, device=self.work.x.device)
        self.state: State = {}
        self._enter(np.arange(len(self.who)), np.array([], dtype=np.int64), limit=size)

    def _enter(self, free: NDArray[np.int64], again: NDArray[np.int64], limit: int | None = None) -> None:
        """Let waiting samples into free rows, and those in rows ``again`` begin their next run."""
        self.who[free], self.run[free] = -1, 0
        entering = free[: min(len(self.waiting), len(free) if limit is None else limit)]
        self.who[entering] = [self.waiting.popleft() for _ in entering]
        begun = np.union1d(entering, again).astype(np.int64)
        self.asked[begun] = 0
        if not self.state:  # the rows beyond the last sample repeat the first one, and nobody looks at them
            begun = np.where(self.who >= 0, np.arange(len(self.who)), 0)
        if len(begun):
            places = torch.as_tensor(begun, device=self.work.x.device)
            self.refused[places] = -torch.inf
            fresh = self._begin(begun)
            if not self.state:
                self.state = fresh
            else:
                self.state = {name: old.index_copy(0, places, fresh[name]) for name, old in self.state.items()}
        if not self.waiting:
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
        )
        return self.attack.begin(problem)

    def _compact(self) -> None:
        """When nobody waits any more, drop rows that nobody is in."""
        alive = np.flatnonzero(self.who >= 0)
        size = _filled_size(len(alive), self.work.x)
        if not len(alive) or size >= len(self.who):
            return
        kept = np.concatenate([alive, np.flatnonzero(self.who < 0)[: size - len(alive)]])
        places = torch.as_tensor(kept, device=self.work.x.device)
        self.who, self.run, self.asked = self.who[kept], self.run[kept], self.asked[kept]
        self.refused = self.refused[places]
        self.state = {name: tensor[places] for name, tensor in self.state.items()}

    def _suspects(self, answer: Answer) -> Tensor:
        """Rows whose image flips in the search's precision, further than what was checked in vain before."""
        lead = logit_difference(answer.logits, self.state["y"])
        hit = flipped(answer.logits, self.state["y"]) & (lead > self.refused)
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
        tried = _into_ball(x, images[places], eps, self.norm)
        self.forward[self.who[chosen]] += 1
        reached = _reached(x, tried, self.norm)
        flips = self.engine.verified(tried, y) & (reached <= eps)
        for i in torch.nonzero(flips).flatten().tolist():
            self._keep(int(self.who[chosen[i]]), float(reached[i]), tried[i])
        return chosen[flips.cpu().numpy()]

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
        reached, nearest = self._polish(self.work.x[samples], self.state["best"][places], self.work.y[samples], some)
        for i in torch.nonzero(reached.isfinite()).flatten().tolist():
            self._keep(int(self.who[some[i]]), float(reached[i]), nearest[i])
        return some[(reached <= self.eps[samples]).cpu().numpy() & self.eps[samples].isfinite().cpu().numpy()]

    def _polish(self, x: Tensor, best: Tensor, y: Tensor, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Walk back from each flip towards its clean image as far as it stays a flip at full precision.

        Steps back double until one fails, then the gap is halved. Where rounding lost the flip itself, a step beyond
        it is tried first. Returns distances float64 [N], inf where nothing flips, and the images.
        """
        share = torch.ones(len(x), dtype=torch.float64, device=x.device)
        low, high, back = torch.zeros_like(share), torch.full_like(share, torch.inf), torch.full_like(share, 0.005)
        nearest = x.clone()
        reached = torch.full_like(share, torch.inf)
        for _ in range(POLISH_PROBES):
            tried = (x + rows(share, x) * (best - x)).clamp(0, 1)
            self.forward[self.who[chosen]] += 1
            flips = self.engine.verified(tried, y)
            length = _reached(x, tried, self.norm)
            nearer = flips & (length < reached)
            reached, nearest = torch.where(nearer, length, reached), torch.where(rows(nearer, x), tried, nearest)
            high, low = torch.where(flips, share, high), torch.where(flips, low, torch.maximum(low, share))
            back = torch.where(flips & (low == 0), back * 2, back)
            beyond = torch.where(high.isfinite(), (low + high) / 2, share + 0.02)
            share = torch.where(low == 0, (high * (1 - back)).clamp_min(0), beyond)
        return reached, nearest

    def _places(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Rows, and the samples in them, as index tensors."""
        device = self.work.x.device
        return torch.as_tensor(chosen, device=device), torch.as_tensor(self.who[chosen], device=device)

    def _keep(self, place: int, reached: float, image: Tensor) -> None:
        if place not in self.found or reached < self.found[place][0]:
            self.found[place] = reached, image.clone()

    def _leave(self, row: int) -> Finished:
        place = int(self.who[row])
        reached, nearest = self.found.pop(place, (float("inf"), None))
        return Finished(place, reached, nearest, int(self.forward[place]), int(self.backward[place]))


def filled(images: Tensor) -> Tensor:
    """Images [N, ...], repeated up to a size whose kernels round like those of every larger one."""
    missing = _filled_size(len(images), images) - len(images)
    if not missing:
        return images
    layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return torch.cat([images, images[:1].expand(missing, *images.shape[1:])]).contiguous(memory_format=layout)


def _filled_size(count: int, like: Tensor) -> int:
    grain = GRAIN.get(like.device.type, 1)
    return max(-(-count // grain), 1) * grain


def _out_of_memory(error: BaseException) -> bool:
    """torch has a class for a full GPU, and words for a full main memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _reached(x: Tensor, tried: Tensor, norm: Norm) -> Tensor:
    """Distance of each image tried: float64 [N], free of float32's rounding."""
    return distance(tried.double() - x.double(), norm)


def _into_ball(x: Tensor, tried: Tensor, eps: Tensor, norm: Norm) -> Tensor:
    """Pull images that rounding left a hair outside their ball back inside it."""
    reached = _reached(x, tried, norm)
    outside = reached > eps
    if not outside.any():
        return tried
    shrink = (eps / reached * (1 - 1e-6)).to(x.dtype)
    # A fixed slack on top, because adding the shrunken step to x rounds again.
    slack = 6e-8 if norm == "Linf" else 0.0
    delta = (tried - x) * rows(shrink, x)
    delta = delta.sign() * (delta.abs() - slack).clamp_min(0)
    return torch.where(rows(outside, x), (x + delta).clamp(0, 1), tried)
