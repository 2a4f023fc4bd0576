"""Adversarial images for a training step."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from temper.attacks.attack import perturb
from temper.attacks.ball import rows
from temper.attacks.crafting import Pair, crafting
from temper.attacks.losses import Loss
from temper.core import randomness
from temper.threat import Threat
from temper.training import inner_attacks
from temper.training.config import FinetuneConfig
from temper.training.individual import fall, radii
from temper.training.objectives.objective import Craft


class Crafter:
    """The model as attacks see it while training: eval mode, no parameter gradients, batch norms folded.

    With ``slopes``, by which logit margins fall in each norm, each sample has an epsilon of its own.
    """

    def __init__(
        self,
        classifier: nn.Module,
        pairs: list[Pair],
        config: FinetuneConfig,
        autocast: Callable[[], AbstractContextManager[object]],
        original: nn.Module | None = None,
        slopes: Mapping[str, float] | None = None,
    ) -> None:
        self._classifier, self._pairs, self._config, self._autocast = classifier, pairs, config, autocast
        self._original, self._slopes = original, slopes
        self._fallen: dict[str, Tensor] = {}
        self._answer: Callable[[Callable[[], Tensor]], Tensor] = _asked

    def logits(self, x: Tensor) -> Tensor:
        """Logits of ``x`` in eval mode."""

        def logits() -> Tensor:
            with crafting(self._classifier, self._pairs) as model, self._autocast():
                return model(x)

        return self._answer(logits)

    def original(self, x: Tensor) -> Tensor:
        """What the model that was there before training says of ``x``."""
        assert self._original is not None
        before = self._original

        def answer() -> Tensor:
            with torch.no_grad(), self._autocast():
                said: Tensor = before(x)
                return said

        return self._answer(answer)

    def attacks(self, threats: Sequence[Threat], epoch: int, ids: Tensor) -> list[Craft]:
        """The inner attacks on the samples ``ids``, each of which makes the images of an update of its own: one in each
        norm of the threats in force, or one that takes the worst of them. None where no threat is."""
        keys = randomness.sample_keys(self._config.seed, ids, "training", epoch)
        crafts = [self._attack(threat, keys) for threat in threats]
        return [self._worst(crafts)] if self._config.attack.union == "max" and crafts else crafts

    def _worst(self, crafts: Sequence[Craft]) -> Craft:
        """Of the images that several attacks make of each, the one of the highest loss (Tramèr and Boneh 2019,
        arXiv:1904.13000: MAX); a look at each."""

        def worst(x: Tensor, y: Tensor, loss: Loss) -> Tensor:
            moved = [craft(x, y, loss) for craft in crafts]
            with torch.no_grad():
                losses = torch.stack([loss(self.logits(images), y) for images in moved])
            highest, chosen = losses.argmax(0), moved[0]
            for place, images in enumerate(moved[1:], start=1):
                chosen = torch.where(rows(highest == place, x), images, chosen)
            return chosen

        return worst

    def _attack(self, threat: Threat, keys: Tensor) -> Craft:
        def attack(x: Tensor, y: Tensor, loss: Loss) -> Tensor:
            def moved() -> Tensor:
                with crafting(self._classifier, self._pairs) as model, self._autocast():
                    attack_by = partial(inner_attack, model, x, y, threat, keys, loss, self._config)
                    if self._slopes is None:
                        return attack_by(threat.eps)
                    return self._individually(model, x, y, threat, attack_by, self._slopes.get(threat.norm))

            return self._answer(moved)

        return attack

    def _individually(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        attack_by: Callable[[Tensor], Tensor],
        slope: float | None,
    ) -> Tensor:
        """Attack each sample by an epsilon of its own, for the price of a look before and one after."""
        with torch.no_grad():
            before = model(x)
        eps = radii(before, y, threat, x[0].numel(), slope)
        images = attack_by(eps)
        with torch.no_grad():
            fallen = fall(before, model(images), y, eps)
        self._fallen[threat.norm] = self._fallen.get(threat.norm, torch.zeros_like(fallen)) + fallen
        return images

    def fallen(self) -> dict[str, Tensor]:
        """How far margins fell in each norm since this was asked last, and for how much epsilon: see
        :func:`temper.training.individual.fall`."""
        fallen, self._fallen = self._fallen, {}
        return fallen

    @contextmanager
    def remembering(self) -> Iterator[Callable[[], None]]:
        """Inside, keep every answer; from the call of what is yielded on, give them again in the same order."""
        kept: list[Tensor] = []

        def keep(question: Callable[[], Tensor]) -> Tensor:
            kept.append(question())
            return kept[-1]

        def rewind() -> None:
            again = iter(kept)
            self._answer = lambda question: next(again)

        self._answer = keep
        try:
            yield rewind
        finally:
            self._answer = _asked


def _asked(question: Callable[[], Tensor]) -> Tensor:
    return question()


def inner_attack(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    threat: Threat,
    keys: Tensor,
    loss: Loss,
    config: FinetuneConfig,
    eps: Tensor | float,
) -> Tensor:
    """Images of the configured attack: PGD's last iterate, or APGD's of the highest loss.

    ``eps`` is that of the threat, or [N], one for each sample, by it.
    """
    own, target = config.attack, next(each.eps for each in config.threats if each.norm == threat.norm)
    steps = inner_attacks.steps_at(own.length, threat.eps / target) if own.steps_follow else own.length
    attack = inner_attacks.make(own.name, steps, own.step_size, loss)
    return perturb(attack, model, x, y, eps, threat.norm, keys=keys if own.random_start else None)
