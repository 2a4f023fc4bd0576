"""What attacks for the nearest flip share: where they begin, and what they remember."""

import torch
from torch import Tensor

from temper.attacks.attack import Problem, State
from temper.attacks.ball import distance, random_point, rows
from temper.attacks.losses import flipped
from temper.threat import Norm

TINY = 1e-30  # stands in for 0 in denominators
NOISE = 1 / 255  # largest change of a pixel in a random start: a search without a radius has no other scale


def begin(problem: Problem, start: Tensor) -> State:
    """A state with no flip yet that asks about ``start`` first."""
    x = problem.x
    state = {
        "x": x,
        "y": problem.y,
        "eps": problem.eps,
        "step": problem.y.new_zeros(len(x)),
        "query": start,
        "best": x,
        "distance": x.new_full((len(x),), torch.inf),
    }
    return state if problem.target is None else state | {"target": problem.target}


def near_start(problem: Problem) -> Tensor:
    """The image, or a point close to it where there are keys."""
    return problem.x if problem.keys is None else random_point(problem.x, NOISE, "Linf", problem.keys)


def keep_nearer(state: State, images: Tensor, logits: Tensor, norm: Norm) -> Tensor:
    """Remember images that flip nearer than those before, given their logits [N, K]; returns which flip at all, [N]."""
    x, flips = state["x"], flipped(logits, state["y"])
    length = distance(images - x, norm)
    nearer = flips & (length < state["distance"])
    state["best"] = torch.where(rows(nearer, x), images, state["best"])
    state["distance"] = torch.where(nearer, length, state["distance"])
    return flips
