"""What attacks make of one image: at each radius, and at the nearest where it is decided otherwise.

Both run at full precision, in batches as large as kernels fill anyway: all radii at once, and classes side by side. On
a CPU such a batch takes long, so that the radius in question is asked about first, alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from temper.attacks.apgd import APGD
from temper.attacks.attack import input_gradient, perturb
from temper.attacks.ball import exact_distance, into_ball
from temper.attacks.crafting import crafting, foldable
from temper.attacks.engine import AttackEngine
from temper.attacks.losses import logit_difference
from temper.attacks.suites import CLOSER, Suite, get_suite
from temper.attacks.verification import GRAIN, Lent, filled
from temper.attacks.work import Flip, Work
from temper.core.precision import full_precision
from temper.deployment.prediction import Prediction, Predictor, as_input
from temper.evaluation.clean import RIVALS
from temper.evaluation.search import Findings, search
from temper.threat import Norm, Threat

RADII = 16  # that the attacked image is shown at, up to twice that of the threat
CLIMB = APGD(20, climbs=logit_difference, wide=True)
# What brings found flips closer, for a first answer in a sixth of the time, then what margins are measured with.
LIVE = Suite("live", (CLOSER, *get_suite("margin").stages))
SEED = 0


@dataclass(frozen=True)
class Attacked:
    """What an attack made of an image within a radius.

    Attributes:
        eps: the radius; image: float [C, H, W] in [0, 1].
        decision: on it; flip: what it is where the class is another one, which the model asked alone confirms.
    """

    eps: float
    image: Tensor
    decision: Prediction
    flip: Flip | None


@dataclass(frozen=True)
class Found:
    """How far the search for the nearest change has come.

    Attributes:
        nearest: the nearest so far; None while there is none.
        over: whether the search is.
        blind: whether it found nothing, and no gradient leads from the decision to the pixels.
    """

    nearest: Flip | None = None
    over: bool = False
    blind: bool = False


class Watched(nn.Module):
    """A model that says before each pass of how many images it is; what hears it may raise to end the work."""

    def __init__(self, model: nn.Module, tick: Callable[[int], None]) -> None:
        super().__init__()
        self.model, self.tick = model, tick

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K]."""
        self.tick(len(images))
        logits: Tensor = self.model(images)
        return logits


class Inspection:
    """One image, and what is asked about it.

    Args:
        predictor: what decides.
        threat: norm, and the radius in whose light it is seen.
        image: uint8 [C, H, W], as the model takes them.
        decision: on the clean image.
        tick: called before each pass, with the number of its images.
    """

    def __init__(
        self, predictor: Predictor, threat: Threat, image: Tensor, decision: Prediction, tick: Callable[[int], None]
    ) -> None:
        self._predictor, self._threat, self._clean = predictor, threat, decision
        self._x = as_input(predictor.classifier, image[None])
        self._y = torch.tensor([decision.class_index], device=self._x.device)
        self._model = Watched(predictor.classifier, tick)

    def first(self) -> Flip | None:
        """A change within the radius in question, if a short attack finds one: a sixteenth of what all radii take."""
        return next((each.flip for each in self._within([self._threat.eps])), None)

    def attacked(self) -> list[Attacked]:
        """The image of the highest loss that a short attack reaches within each radius, from the smallest on."""
        return self._within(steps(self._threat)[1:])

    def _within(self, eps: Sequence[float]) -> list[Attacked]:
        radii, count = torch.tensor(eps, dtype=torch.float64, device=self._x.device), len(eps)
        x, y = self._x.expand(count, -1, -1, -1).contiguous(), self._y.expand(count).contiguous()
        with crafting(self._model), full_precision(x.device):
            tried = perturb(CLIMB, self._model, x, y, radii.to(x.dtype), self._threat.norm)
            tried = into_ball(x, tried, radii, self._threat.norm)
        decided, reached = self._predictor.decide([""] * count, tried), exact_distance(x, tried, self._threat.norm)
        lent = Lent(self._model, [], count)
        with crafting(self._model):
            return [
                Attacked(eps, image, decision, self._flip(lent, image, decision, length))
                for eps, image, decision, length in zip(radii.tolist(), tried, decided, reached.tolist(), strict=True)
                if isinstance(decision, Prediction)
            ]

    def nearest(self, known: Iterable[Flip | None] = ()) -> Iterator[Found]:
        """The nearest change of those known, and then what is found, ever nearer; the last one says that the search is
        over."""
        flips = [flip for flip in known if flip]
        if flips:
            yield Found(_nearest(flips))
        suite = LIVE.in_norm(self._threat.norm)
        findings = Findings(suite, np.array([SEED]), norm=self._threat.norm)
        work = Work(self._x, self._y, self._y.new_tensor([SEED]), self._rivals())
        engine = AttackEngine(self._model, foldable(self._model, self._x), max(GRAIN.values()))

        def keep(sample: int, flip: Flip) -> None:
            flips.append(flip)

        for _ in search(engine, work, self._threat.norm, [self._threat.eps], findings, SEED, keep):
            if flips:
                yield Found(_nearest(flips))
        yield Found(_nearest(flips), over=True, blind=not flips and not self._led())

    def _led(self) -> bool:
        """Whether a gradient leads from the decision to any pixel."""
        with crafting(self._model), full_precision(self._x.device):
            slope = input_gradient(self._model, self._x, lambda logits: logit_difference(logits, self._y))[2]
        return bool((torch.isfinite(slope) & (slope != 0)).any())

    def _flip(self, lent: Lent, image: Tensor, decision: Prediction, distance: float) -> Flip | None:
        """An attacked image that is decided otherwise, also alone."""
        if decision.class_index == self._clean.class_index:
            return None
        becomes = lent.alone(image, self._y[0])
        return None if becomes is None else Flip(distance, image, becomes)

    @torch.no_grad()
    def _rivals(self) -> Tensor:
        """The likeliest other classes, likeliest first: int64 [1, R]."""
        with crafting(self._model), full_precision(self._x.device):
            order = self._model(filled(self._x))[:1].sort(dim=1, descending=True, stable=True).indices
        return order[order != self._y[:, None]][None, :RIVALS]


def steps(threat: Threat) -> list[float]:
    """The radii that an image is shown at, from 0 to twice that of a threat."""
    return [threat.eps * step / (RADII / 2) for step in range(RADII + 1)]


def images(norm: Norm) -> int:
    """About how many images the model is asked about, for a bar."""
    nearest = sum(stage.attack.passes()[0] for stage in LIVE.in_norm(norm).stages)
    return CLIMB.queries * (1 + RADII) + nearest * max(GRAIN.values())


def _nearest(flips: Sequence[Flip]) -> Flip | None:
    return min(flips, key=lambda flip: flip.distance, default=None)
