"""The Square attack: random search that needs logits only (Andriushchenko et al. 2020, arXiv:1912.00049, algorithms
1 to 3), with its form for L1 (Croce and Hein 2021, arXiv:2103.01208)."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from temper.attacks.attack import Answer, Attack, Model, Problem, State, climb
from temper.attacks.ball import distance, project, rows
from temper.attacks.losses import Loss, logit_difference
from temper.core import randomness
from temper.errors import ArgumentError
from temper.threat import NORMS, Norm

HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries in 10,000 after which squares lose half
TILES = 5  # tiles along the shorter side of the image, at the start in L2 and L1
DECAY = {"L2": 2, "L1": 4}  # how steeply hills fall: L1 likes them pointed
BOOST = 10.0  # in L1, by how much a change is longer than what pays for it, before the projection


def sides(share: float, height: int, width: int, norm: Norm) -> list[int]:
    """Sides of the squares in pixels, after 0, 1, ... 9 halvings of ``share`` of the image's pixels.

    In L2 and L1 a square holds two hills, which takes 3 pixels, and an odd side gives each one summit.
    """
    exact = [math.sqrt(share / 2**halvings * height * width) for halvings in range(len(HALVED_AFTER) + 1)]
    lengths = [max(round(side), 1) if norm == "Linf" else max(round(side), 3) | 1 for side in exact]
    return [min(side, height, width) for side in lengths]


@dataclass(frozen=True)
class Square(Attack):
    """Changes one square of the best image at a time, at random, and keeps the change where the loss rises.

    Costs ``steps`` forward passes. Without gradients it is weaker than APGD for the same cost, but no model can hide
    from it by having useless ones. It departs from the papers where that flips more: no Linf question shows the best
    image unchanged, and in L2 and L1 the box costs less of the radius.

    Attributes:
        p_init: share of the image's pixels in the first squares; it is halved 9 times over the run.
        climbs: the loss.
    """

    asks = "logits"

    p_init: float = 0.8
    climbs: Loss = logit_difference

    def begin(self, problem: Problem) -> State:
        """See :class:`Attack`.

        Raises:
            ArgumentError: there are no random streams, or ``x`` is not [N, C, H, W].
        """
        x, eps, norm, keys = problem.x, problem.eps, problem.norm, problem.keys
        if keys is None:
            raise ArgumentError("keys", None, "random search needs the samples' random streams, int64 [N]")
        if x.dim() != 4:
            raise ArgumentError("x", tuple(x.shape), "the Square attack needs images of shape [N, C, H, W]")
        step = problem.y.new_zeros(len(x))
        streams = _streams(keys, step)
        start = _stripes(x, eps, streams) if norm == "Linf" else _tiles(x, eps, norm, streams)
        state = {
            "x": x,
            "y": problem.y,
            "eps": eps,
            "keys": keys,
            "step": step,
            "query": start,
            "best": start,
            "best_loss": torch.full((len(x),), -torch.inf, device=x.device),
        }
        if problem.target is not None:
            state["target"] = problem.target
        return state

    def update(self, state: State, answer: Answer, norm: Norm, judge: Model) -> None:
        """See :class:`Attack`."""
        x, eps, losses = state["x"], state["eps"], self.loss(answer.logits, state)
        better = losses > state["best_loss"]
        state["best"] = best = torch.where(rows(better, x), state["query"], state["best"])
        state["best_loss"] = torch.where(better, losses, state["best_loss"])
        side = self._side(state["step"], x, norm)
        state["step"] = state["step"] + 1
        streams = _streams(state["keys"], state["step"])
        linf = norm == "Linf"
        state["query"] = _paint(x, best, eps, side, streams) if linf else _move(x, best, eps, norm, side, streams)

    def loss(self, logits: Tensor, state: State) -> Tensor:
        """See :class:`Attack`."""
        return climb(self.climbs, logits, state)

    def _side(self, step: Tensor, x: Tensor, norm: Norm) -> Tensor:
        """Side of each row's next square, int64 [N]; the published timetable is for runs of 10,000 queries."""
        halvings = torch.bucketize(step * 10_000 // self.steps, torch.tensor(HALVED_AFTER, device=step.device))
        height, width = x.shape[2:]
        return torch.tensor(sides(self.p_init, height, width, norm), device=step.device)[halvings]


def _streams(keys: Tensor, step: Tensor) -> Tensor:
    """Each row's random stream at its present step, int64 [N]."""
    return randomness.sample_keys(0, keys + step, "square")


def _signs(numbers: Tensor, like: Tensor) -> Tensor:
    """-1 or 1 from uniform numbers."""
    return (2 * (numbers < 0.5) - 1).to(like.dtype)


# --- Linf: every pixel at its bound -----------------------------------------------------------------


def _stripes(x: Tensor, eps: Tensor, streams: Tensor) -> Tensor:
    """Vertical stripes one pixel wide, each with a random sign per channel."""
    signs = _signs(randomness.uniform(streams, (x.shape[1], 1, x.shape[3])), x)
    return (x + rows(eps, x) * signs).clamp(0, 1)


def _paint(x: Tensor, best: Tensor, eps: Tensor, side: Tensor, streams: Tensor) -> Tensor:
    """Bring the pixels of one square to a bound, the same for all pixels of a channel.

    A square that already looks so gets the opposite bounds: the question would be wasted. Small squares in images of
    one channel would be so half of the time.
    """
    numbers = randomness.uniform(streams, (2 + x.shape[1],))
    places = _places(*_corner(numbers[:, :2], side, x), side, x)[:, None].expand(-1, x.shape[1], -1)
    clean, old = x.flatten(2).gather(2, places), best.flatten(2).gather(2, places)
    signs = _signs(numbers[:, 2:, None], x)

    def painted(signs: Tensor) -> Tensor:
        return (clean + rows(eps, clean) * signs).clamp(0, 1)

    new = painted(signs)
    same = (new == old).flatten(1).all(1)
    new = torch.where(rows(same, new), painted(-signs), new)
    return best.flatten(2).scatter(2, places, new).view_as(best)


# --- L2 and L1: pairs of hills, paid for with what another square holds -----------------------------


def _tiles(x: Tensor, eps: Tensor, norm: Norm, streams: Tensor) -> Tensor:
    """A grid of tiles that each hold a pair of hills, with a random sign per channel and tile."""
    channels, height, width = x.shape[1:]
    side = max(min(height, width) // TILES, 1)
    down, across = height // side, width // side
    numbers = randomness.uniform(streams, (1 + channels, down, across))
    signs, turned = _signs(numbers[:, 1:], x), numbers[:, :1] < 0.5
    corner = torch.zeros(2, dtype=torch.int64, device=x.device)
    both = torch.tensor([False, True], device=x.device)
    upright, lying = _hills(corner, corner, corner + side, both, x.new_empty(2, 1, side, side), norm)[:, 0, :, None]
    # [N, C, tile rows, pixel rows, tile columns, pixel columns]
    tiles = torch.where(turned[..., None, :, None], lying, upright) * signs[..., None, :, None]
    left, top = (width - across * side) // 2, (height - down * side) // 2
    delta = torch.zeros_like(x)
    delta[:, :, top : top + down * side, left : left + across * side] = tiles.flatten(4).flatten(2, 3)
    return _fit(x, delta * rows(BOOST * eps / distance(delta, norm), x), eps, norm)


def _move(x: Tensor, best: Tensor, eps: Tensor, norm: Norm, side: Tensor, streams: Tensor) -> Tensor:
    """Add a pair of hills to one square, paid for with the perturbation of another and what eps leaves over.

    In each channel the first square keeps its old shape with half of the weight, at unit length.
    """
    channels, delta = x.shape[1], best - x
    numbers = randomness.uniform(streams, (5 + channels,))
    signs = _signs(numbers[:, 5:, None, None], x)
    top, left = _corner(numbers[:, :2], side, x)
    receiving = _square(top, left, side, x)
    either = receiving | _square(*_corner(numbers[:, 2:4], side, x), side, x)
    hills = _hills(top, left, side, numbers[:, 4] < 0.5, x, norm)
    shape = _unit(signs * hills + _unit(delta * receiving, norm), norm)
    reached, held = rows(distance(delta, norm), x), _lengths(delta * either, norm)
    if norm == "L2":
        budget = ((rows(eps, x) ** 2 - reached**2).clamp_min(0) / channels + held**2).sqrt()
    else:
        # More than there is: the projection takes it from small perturbations everywhere, which keeps the whole sparse,
        # and makes up for what the box cuts off. The authors multiply by the channels, which gives grey images nothing:
        # in 300 queries, 10 flips more than twice as many MNIST images, and on CIFAR-10 a fifth more.
        budget = BOOST * ((rows(eps, x) - reached).clamp_min(0) / channels + held)
    return _fit(x, torch.where(either, shape * budget, delta), eps, norm)


def _hills(top: Tensor, left: Tensor, side: Tensor, turned: Tensor, like: Tensor, norm: Norm) -> Tensor:
    """Two hills, one up and one down, that fill a square; unit length in the norm: the eta of arXiv:1912.00049.

    A hill rises in rings of one pixel around its summit, by 1/n^2 (L2) or 1/n^4 (L1) to the ring of radius n - 1.

    Args:
        top, left, side: of the square in pixels, int64 [N].
        turned: bool [N], whether the hills lie side by side rather than one above the other.
        like: images [N, C, H, W].
        norm: L2 or L1.

    Returns:
        [N, 1, H, W], 0 outside the square.
    """
    height, width = like.shape[2:]
    down = torch.arange(height, device=like.device)[:, None] - top.view(-1, 1, 1, 1)
    across = torch.arange(width, device=like.device) - left.view(-1, 1, 1, 1)
    turned, half = turned.view(-1, 1, 1, 1), (side // 2).view(-1, 1, 1, 1)
    along, beside = torch.where(turned, across, down), torch.where(turned, down, across)
    first = along < half
    summit = torch.where(first, half // 2, half + (side.view(-1, 1, 1, 1) - half) // 2)
    ring = torch.maximum((along - summit).abs(), (beside - half).abs())
    rises = torch.arange(1, min(height, width) // 2 + 2, device=like.device, dtype=like.dtype) ** -DECAY[norm]
    climbed = torch.cat([rises.new_zeros(1), rises.cumsum(0)])
    heights = climbed[half + 1] - climbed[torch.minimum(ring, half + 1)]
    heights = torch.where(_square(top, left, side, like), heights, 0)
    return _unit(_unit(heights * first, norm) - _unit(heights * ~first, norm), norm)


def _fit(x: Tensor, delta: Tensor, eps: Tensor, norm: Norm) -> Tensor:
    """An image of box and ball in the direction of ``delta``: about as far as eps in L2, the nearest one in L1."""
    if norm == "L1":
        return project(x, x + delta, eps, norm)

    def stretched(delta: Tensor) -> Tensor:
        return (x + delta * rows(eps / distance(delta, norm).clamp_min(1e-12), x)).clamp(0, 1)

    # The second time, pixels that the box leaves free get most of what it cut off the others; the authors stretch once.
    return stretched(stretched(delta) - x)


# --- squares ------------------------------------------------------------------------------------------


def _corner(numbers: Tensor, side: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Top and left, int64 [N], of squares inside the image, from uniform numbers [N, 2]."""
    free = torch.stack([x.shape[2] - side, x.shape[3] - side], 1)
    top, left = (numbers * (free + 1)).long().unbind(1)
    return top, left


def _places(top: Tensor, left: Tensor, side: Tensor, like: Tensor) -> Tensor:
    """Where each row's square lies in the flattened image: int64 [N, P]; smaller ones name their last pixels again."""
    steps = torch.minimum(torch.arange(max(side.tolist(), default=1), device=side.device), side[:, None] - 1)
    down, across = top[:, None] + steps, left[:, None] + steps
    return (down[:, :, None] * like.shape[3] + across[:, None]).flatten(1)


def _square(top: Tensor, left: Tensor, side: Tensor, like: Tensor) -> Tensor:
    """Which pixels lie in each row's square: bool [N, 1, H, W]."""

    def between(first: Tensor, length: int) -> Tensor:
        place = torch.arange(length, device=first.device) - first[:, None]
        return (place >= 0) & (place < side[:, None])

    return (between(top, like.shape[2])[:, :, None] & between(left, like.shape[3])[:, None, :])[:, None]


def _lengths(delta: Tensor, norm: Norm) -> Tensor:
    """Length of each channel: [N, C, H, W] -> [N, C, 1, 1]."""
    return torch.linalg.vector_norm(delta, NORMS[norm].order, (2, 3), keepdim=True)


def _unit(delta: Tensor, norm: Norm) -> Tensor:
    """Each channel brought to length 1; zeros stay."""
    return delta / _lengths(delta, norm).clamp_min(1e-12)
