"""Searching for evidence: from images and radii to verified flips and survived radii."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from temper import randomness
from temper.attacks.crafting import Pair, crafting
from temper.attacks.losses import flipped
from temper.attacks.suites import Suite
from temper.threat import Norm, distance, rows


@dataclass(frozen=True)
class Found:
    """What a search found on a batch.

    Attributes:
        upper: float64 [N], distance of the nearest verified flip; inf where none was found.
        survived: float64 [N], largest radius at which every attack of the suite failed; 0 if none was survived.
        attack: index [N] of the suite's attack that set ``upper``, -1 where this search did not.
        nearest: float [N, ...], the image at distance ``upper``, or the clean one where this search found none.
        forward, backward: int64 [N], passes spent on each sample, those of its batch: an attack runs until every
            sample that it has before it is flipped.
    """

    upper: Tensor
    survived: Tensor
    attack: Tensor
    nearest: Tensor
    forward: Tensor
    backward: Tensor


class Counted(nn.Module):
    """A model that counts its passes; a forward pass on images that need a gradient is followed by a backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forward_passes = self.backward_passes = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K]."""
        self.forward_passes += 1
        self.backward_passes += x.requires_grad
        logits: Tensor = self.model(x)
        return logits


def search(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    ids: Tensor,
    norm: Norm,
    radii: Sequence[float],
    suite: Suite,
    seed: int,
    *,
    known: tuple[Tensor, Tensor] | None = None,
    pairs: list[Pair] | None = None,
) -> Found:
    """Attack correctly classified samples at growing radii, then close in on the margin.

    A sample broken at one radius is broken at every larger one, so only survivors are attacked again. Then the gap
    between the largest radius survived and the nearest flip is halved ``suite.bisections`` times. What an attack
    does at a radius depends on nothing but seed, sample, attack, norm and radius.

    Args:
        model: float [N, ...] in [0, 1] to logits [N, K].
        x: images that the model classifies as ``y`` (int64 [N]).
        ids: int64 [N], the samples' ids: with the seed they name the random streams.
        norm: Linf, L2 or L1.
        radii: in pixel units of [0, 1].
        suite: what to run.
        seed: of the random starts.
        known: (upper, survived), float64 [N] each, from where to go on; nothing known by default.
        pairs: convolutions and batch norms to fold while searching, from
            :func:`temper.attacks.crafting.foldable`.
    """
    if known is None:
        upper = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        survived = torch.zeros_like(upper)
    else:
        upper, survived = known[0].clone(), known[1].clone()
    attack = torch.full((len(x),), -1, device=x.device)
    nearest = x.clone()
    forward = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    backward = torch.zeros_like(forward)
    keys = [randomness.sample_keys(seed, ids, each.name, norm) for each in suite.attacks]

    def try_at(eps: Tensor, who: Tensor) -> None:
        """Run the suite on the samples ``who`` (indices) at their radii; record flips and survivals."""
        for index, each in enumerate(suite.attacks):
            counted = Counted(model)
            with crafting(counted, pairs):
                tried = each.run(counted, x[who], y[who], eps[who].to(x.dtype), norm, keys[index][who])
            tried = _into_ball(x[who], tried, eps[who], norm)
            flips = verified_flips(model, tried, y[who])
            forward[who] += counted.forward_passes + 1
            backward[who] += counted.backward_passes
            reached = _reached(x[who], tried, norm)
            nearer = flips & (reached < upper[who])
            closer = who[nearer]
            upper[closer], attack[closer], nearest[closer] = reached[nearer], index, tried[nearer]
            # Rounding may leave a flip a hair outside its ball: then the radius is neither broken nor survived.
            who = who[~flips]
            if not len(who):
                return
        survived[who] = torch.maximum(survived[who], eps[who])

    for radius in sorted(radii):
        standing = torch.nonzero((upper > radius) & (survived < radius)).flatten()
        if len(standing):
            try_at(torch.full_like(upper, radius), standing)
    for _ in range(suite.bisections):
        flippable = torch.nonzero(upper.isfinite() & (upper > survived)).flatten()
        if len(flippable):
            try_at((upper + survived) / 2, flippable)
    return Found(upper, survived, attack, nearest, forward, backward)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in true float32: no autocast, and no TF32 on GPUs that would round inputs to 10 bits."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products


@torch.no_grad()
def verified_flips(model: nn.Module, tried: Tensor, y: Tensor) -> Tensor:
    """Which images lie in the box and are classified differently at full precision: bool [N]."""
    in_box = ((tried >= 0) & (tried <= 1)).flatten(1).all(1)
    with crafting(model), full_precision(tried.device):
        return flipped(model(tried.float()), y) & in_box


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
