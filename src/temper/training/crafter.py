"""Adversarial images for a training step."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import Tensor

from temper.attacks.attack import perturb
from temper.attacks.crafting import Pair, crafting
from temper.attacks.losses import Loss
from temper.core import randomness
from temper.models import Classifier
from temper.training import inner_attacks
from temper.training.config import FinetuneConfig
from temper.training.objectives.objective import Craft


class Crafter:
    """The model as attacks see it while training: eval mode, no parameter gradients, batch norms folded."""

    def __init__(
        self,
        classifier: Classifier,
        pairs: list[Pair],
        config: FinetuneConfig,
        autocast: Callable[[], AbstractContextManager[object]],
    ) -> None:
        self._classifier, self._pairs, self._config, self._autocast = classifier, pairs, config, autocast
        self._answer: Callable[[Callable[[], Tensor]], Tensor] = _asked

    def logits(self, x: Tensor) -> Tensor:
        """Logits of ``x`` in eval mode."""

        def logits() -> Tensor:
            with crafting(self._classifier, self._pairs) as model, self._autocast():
                return model(x)

        return self._answer(logits)

    def attack(self, eps: float, epoch: int, ids: Tensor) -> Craft | None:
        """The inner attack at ``eps`` on the samples ``ids``; None at eps = 0, where nothing is to be searched."""
        if eps == 0:
            return None
        keys = randomness.sample_keys(self._config.seed, ids, "training", epoch)

        def attack(x: Tensor, y: Tensor, loss: Loss) -> Tensor:
            def moved() -> Tensor:
                with crafting(self._classifier, self._pairs) as model, self._autocast():
                    return inner_attack(model, x, y, eps, keys, loss, self._config)

            return self._answer(moved)

        return attack

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
    eps: float,
    keys: Tensor,
    loss: Loss,
    config: FinetuneConfig,
) -> Tensor:
    """Images of the configured attack: PGD's last iterate, or APGD's of the highest loss."""
    own = config.attack
    attack = inner_attacks.make(own.name, own.steps, own.step_size, loss)
    return perturb(attack, model, x, y, eps, config.norm, keys=keys if own.random_start else None)
