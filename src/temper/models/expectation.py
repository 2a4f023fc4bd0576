"""A random network as one that is not: each image's answer is that of several passes, with random numbers of its own.

A network that draws random numbers when it is asked (dropout, noise on the pixels, a random size) stands for the
decision that most draws agree on, and its gradient for that of the mean logits (expectation over transformation,
Athalye et al. 2018, arXiv:1802.00420). Every draw's numbers follow from a seed, the image's own values, which draw it
is, and what it is asked for. So an answer is the same in every batch, order and process, can be had again, and an image
that differs in one pixel is answered with other draws. What a search may have found by the luck of its draws is asked
about with others (:func:`anew`), and then with many (:func:`decided`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import comb, prod

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from temper.core import randomness
from temper.core.streams import Streams, library_numbers

DECIDING = 100  # draws, at least, by which a decision that counts is made
DOUBT = 0.01  # chance that draws which are even look as if another class led
ROWS = 64  # of a pass into which several draws on few images go
HELD = 2**19  # pixels, of all draws together, whose passes are held in memory for the backward ones


@dataclass(frozen=True)
class Habits:
    """How a network draws its random numbers.

    Attributes:
        fixed: lengths of axes that could be taken for a batch, see :class:`temper.core.streams.Streams`.
        shared: whether some numbers are drawn for a whole batch.
    """

    fixed: frozenset[int] = frozenset()
    shared: bool = False


class Expectation(nn.Module):
    """A random network, answered for by several draws.

    Args:
        network: float [N, C, H, W] in [0, 1] to logits [N, K].
        draws: passes for an answer.
        seed: with the images' values it names the random streams.
        habits: how it draws.
        purpose: what it is asked for; other draws for each.
    """

    def __init__(self, network: nn.Module, draws: int, seed: int, habits: Habits, purpose: str = "search") -> None:
        super().__init__()
        self.network, self.draws, self.seed, self.habits, self.purpose = network, draws, seed, habits, purpose

    def forward(self, images: Tensor) -> Tensor:
        """The mean logits [N, K], raised where needed so that the class with the most votes has the largest."""
        return led_by(*self.asked(images))

    def asked(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean logits float32 [N, K], and how many draws predict each class, int64 [N, K]."""
        x = self._filled(images)
        keys = randomness.content_keys(x.float())
        held = not torch.is_grad_enabled() or self.draws * len(x) * prod(x.shape[2:]) <= HELD
        drawn: list[Tensor] = []
        while len(drawn) < self.draws:
            chosen = range(len(drawn), min(len(drawn) + self._at_once(len(x)), self.draws))
            ask = partial(self.once, keys=keys, draws=chosen)
            # A pass that is not held is run again for its gradient, with the same numbers.
            logits = ask(x) if held else checkpoint(ask, x, use_reentrant=False, preserve_rng_state=False)
            drawn += [each[: len(images)].float() for each in logits.split(len(x))] if len(x) else [logits.float()]
        outcomes = torch.stack(drawn)
        predicted = outcomes.detach().argmax(2).T
        votes = torch.zeros_like(drawn[0], dtype=torch.int64).scatter_add(1, predicted, torch.ones_like(predicted))
        return outcomes.mean(0), votes

    def once(self, x: Tensor, keys: Tensor, draws: Sequence[int]) -> Tensor:
        """Logits of images with these keys int64 [N] in one pass: of these draws one after another, [draws * N, K]."""
        own = [randomness.sample_keys(self.seed, keys, self.purpose, draw) for draw in draws]
        common = randomness.sample_keys(self.seed, keys.new_zeros(1), self.purpose, draws[0], "common")
        rows = x if len(draws) == 1 else torch.cat([x] * len(draws))  # which keeps the layout
        with Streams(torch.cat(own), common), library_numbers(randomness.number(self.seed, self.purpose, draws[0])):
            logits: Tensor = self.network(rows)
        return logits

    def _at_once(self, count: int) -> int:
        """Draws that share a pass over so many images: more where these are few, if each row's numbers are its own."""
        return 1 if self.habits.shared or self.habits.fixed else max(ROWS // max(count, 1), 1)

    def _filled(self, images: Tensor) -> Tensor:
        """Images, repeated up to a number that no other axis of what is drawn may be taken for."""
        size = len(images)
        while size and any(length % size == 0 for length in self.habits.fixed):
            size += 1 if size < 16 else 16  # kernels round alike in multiples of 16
        return images if size == len(images) else torch.cat([images, images[:1].expand(size - len(images), -1, -1, -1)])


def led_by(mean: Tensor, votes: Tensor) -> Tensor:
    """Logits whose largest is that of the class with the most votes; of equal ones, that of the larger mean.

    Where the means say otherwise, that class's logit is raised above the others, by the share of votes that it leads by
    of what the largest logit is above their mean: what is missing to the other side of a boundary is of the size of
    other logit differences. Gradients are those of the means.

    Args:
        mean: float32 [N, K]; votes: int64 [N, K].
    """
    plain = mean.detach()
    winner = plain.masked_fill(votes < votes.amax(1, keepdim=True), -torch.inf).argmax(1, keepdim=True)
    top, most = plain.amax(1, keepdim=True), votes.float().topk(2, 1).values
    lead = ((most[:, :1] - most[:, 1:]) / votes.sum(1, keepdim=True)).clamp_min(1e-3)
    above = lead * (top - plain.mean(1, keepdim=True)) + 1e-5 * top.abs() + 1e-12
    missing = torch.where(winner == plain.argmax(1, keepdim=True), 0, top + above - plain.gather(1, winner))
    return mean + torch.zeros_like(plain).scatter(1, winner, missing)


def passes_of(model: nn.Module) -> tuple[int, int]:
    """Passes that an answer of a model takes, and those that a decision takes that counts."""
    return (model.draws, max(model.draws, DECIDING)) if isinstance(model, Expectation) else (1, 1)


def anew(model: nn.Module) -> nn.Module:
    """The model; if it is random, answered for by other draws than a search is shown."""
    if not isinstance(model, Expectation):
        return model
    return Expectation(model.network, model.draws, model.seed, model.habits, "again")


def once(model: nn.Module) -> nn.Module:
    """The model; if it is random, answered for by one draw."""
    return Expectation(model.network, 1, model.seed, model.habits) if isinstance(model, Expectation) else model


def deciding(model: nn.Module) -> nn.Module:
    """The model as its decisions count: if it is random, by many draws, which no seed of a search has a say in."""
    if not isinstance(model, Expectation):
        return model
    return Expectation(model.network, max(model.draws, DECIDING), 0, model.habits, "decide")


def decided(model: nn.Module, images: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The logits [N, K] by which decisions count, and whether there is no doubt that another class than ``y``, int64
    [N], leads: bool [N].

    A model that is not random leaves none. Of one that is, the votes for the class that leads and for ``y`` must be
    such as even ones give with a chance of at most :data:`DOUBT` (sign test).
    """
    judge = deciding(model)
    if not isinstance(judge, Expectation):
        return judge(images), torch.ones_like(y, dtype=torch.bool)
    mean, votes = judge.asked(images)
    most, own = votes.amax(1).tolist(), votes.gather(1, y[:, None]).squeeze(1).tolist()
    sure = [chance(*counts) <= DOUBT for counts in zip(most, own, strict=True)]
    return led_by(mean, votes), torch.tensor(sure, device=y.device)


def chance(more: int, less: int) -> float:
    """Chance that even votes fall at least so unevenly, to that side."""
    count = more + less
    return sum(comb(count, k) for k in range(more, count + 1)) / 2**count
