"""The exact margin of a sample of a small ReLU network, by mixed-integer linear programming.

Rectifiers are encoded with big-M constraints (Tjeng, Xiao and Tedrake 2019, arXiv:1711.07356, eq. 6), whose constants
are bounds of the pre-activations over the ball that the best known flip leaves open: those of interval arithmetic, or
of linear relaxations where they are tighter (CROWN: Zhang et al. 2018, arXiv:1811.00866). Everything is float64.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

Array = NDArray[np.float64]
Layers = list[tuple[Array, Array]]  # weights [out, in] and biases [out] of a rectified network, first to last
Bounded = tuple[Array, Array, Array, Array]  # a layer's weights and biases, and bounds of its pre-activations

SLACK = 1e-6  # share by which the ball is wider than the best known flip, whose length was rounded
SECONDS = 600.0  # a programme that takes longer is reported with the gap it reached


@dataclass(frozen=True)
class Exact:
    """The nearest point of another class: its distance, the class, and the share of the distance that is not proven."""

    margin: float
    target: int
    gap: float


@dataclass(frozen=True)
class Programme:
    """min cost.v with low <= rows.v <= high, floor <= v <= ceiling; ``whole`` marks the integer columns.

    Columns: pixels [D], their changes [D], the distance, then each hidden layer's activations and switches.
    """

    rows: Array
    low: Array
    high: Array
    floor: Array
    ceiling: Array
    cost: Array
    whole: NDArray[np.bool_]


def logits_of(layers: Layers, images: Array) -> Array:
    """Images [N, D] to logits [N, K]."""
    for weight, bias in layers[:-1]:
        images = np.maximum(images @ weight.T + bias, 0)
    weight, bias = layers[-1]
    return images @ weight.T + bias


def exact_margin(layers: Layers, image: Array, norm: str, known: float, first: list[int]) -> Exact:
    """The exact margin of an image [D] in [0, 1].

    Args:
        layers: the network.
        image: float64 [D].
        norm: Linf or L1.
        known: distance of a flip that is known; the margin is at most that.
        first: the other classes, those that are likely to be near first.
    """
    label = int(logits_of(layers, image[None])[0].argmax())
    best = Exact(known * (1 + SLACK), -1, 0.0)
    gap = 0.0
    for target in first:
        found = _towards(layers, image, norm, label, target, best.margin)
        if found is None:
            continue
        margin, unproven = found
        if margin <= best.margin:
            best = Exact(margin, target, 0.0)
        gap = max(gap, unproven)
    return Exact(best.margin, best.target, gap)


def _towards(
    layers: Layers, image: Array, norm: str, label: int, target: int, radius: float
) -> tuple[float, float] | None:
    """Distance of the nearest point within ``radius`` where the target's logit is not below the label's, and the share
    of it that is not proven; None if there is no such point."""
    programme = encode(layers, image, norm, label, target, radius)
    found = milp(
        programme.cost,
        integrality=programme.whole.astype(int),
        bounds=Bounds(programme.floor, programme.ceiling),
        constraints=LinearConstraint(programme.rows, programme.low, programme.high),
        options={"mip_rel_gap": 1e-9, "time_limit": SECONDS},
    )
    if found.status == 2:
        return None
    if found.x is None:
        raise RuntimeError(f"HiGHS gave no answer: {found.message}")
    margin = _on_the_piece(programme, found.x)
    bound = found.fun if found.mip_dual_bound is None else found.mip_dual_bound  # without integers there is none
    return margin, max(margin - bound, 0.0) / margin


def _on_the_piece(programme: Programme, solution: Array) -> float:
    """The least distance on the solution's linear piece: integers that are whole only to a tolerance of 1e-6 let a
    solution cheat by as much times the big M."""
    floor, ceiling = programme.floor.copy(), programme.ceiling.copy()
    floor[programme.whole] = ceiling[programme.whole] = solution[programme.whole].round()
    below, above = np.isfinite(programme.high), np.isfinite(programme.low)
    found = linprog(
        programme.cost,
        A_ub=np.concatenate([programme.rows[below], -programme.rows[above]]),
        b_ub=np.concatenate([programme.high[below], -programme.low[above]]),
        bounds=np.stack([floor, ceiling], 1),
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )
    if found.status != 0:
        raise RuntimeError(f"the linear programme of a piece has no solution: {found.message}")
    return float(found.fun)


def encode(layers: Layers, image: Array, norm: str, label: int, target: int, radius: float) -> Programme:
    """The programme whose least cost is the distance to the target's region within ``radius``."""
    pixels, hidden = len(image), [len(bias) for _, bias in layers[:-1]]
    columns = 2 * pixels + 1 + 2 * sum(hidden)
    rows, low, high = _distance_rows(image, norm, columns)
    floor, ceiling = np.zeros(columns), np.full(columns, np.inf)
    floor[:pixels], ceiling[:pixels] = np.maximum(image - radius, 0), np.minimum(image + radius, 1)
    ceiling[pixels : 2 * pixels + 1] = radius
    whole = np.zeros(columns, dtype=bool)
    inputs, start, below = slice(0, pixels), 2 * pixels + 1, list[Bounded]()
    for weight, bias in layers[:-1]:
        least, most = interval(weight, bias, floor[inputs], ceiling[inputs])
        least = np.maximum(least, -relaxed_most(-weight, -bias, below, image, norm, radius))
        most = np.minimum(most, relaxed_most(weight, bias, below, image, norm, radius))
        below.append((weight, bias, least, most))
        outputs, switches = slice(start, start + len(bias)), slice(start + len(bias), start + 2 * len(bias))
        added = _rectifier_rows(weight, bias, least, most, (inputs, outputs, switches), columns)
        rows, low, high = (np.concatenate(pair) for pair in zip((rows, low, high), added, strict=True))
        floor[outputs], ceiling[outputs] = np.maximum(least, 0), np.maximum(most, 0)
        floor[switches], ceiling[switches] = least > 0, most > 0
        whole[switches], inputs, start = True, outputs, start + 2 * len(bias)
    weight, bias = layers[-1]
    across = np.zeros(columns)
    across[inputs] = weight[target] - weight[label]
    rows, low = np.vstack([rows, across]), np.append(low, bias[label] - bias[target])
    cost = np.zeros(columns)
    cost[2 * pixels] = 1
    return Programme(rows, low, np.append(high, np.inf), floor, ceiling, cost, whole)


def interval(weight: Array, bias: Array, floor: Array, ceiling: Array) -> tuple[Array, Array]:
    """Bounds of a layer's pre-activations, given bounds of its inputs."""
    up, down = weight.clip(min=0), weight.clip(max=0)
    return up @ floor + down @ ceiling + bias, up @ ceiling + down @ floor + bias


def relaxed_most(weight: Array, bias: Array, below: list[Bounded], image: Array, norm: str, radius: float) -> Array:
    """Upper bounds of a layer's pre-activations over ball and box: every rectifier below becomes a line above or below
    it, and what is left is linear in the pixels."""
    for deeper, shift, least, most in reversed(below):
        width = np.maximum(most - least, 1e-12)
        chord = np.where(least >= 0, 1, np.where(most <= 0, 0, most / width))
        lift = np.where((least < 0) & (most > 0), -least * most / width, 0)
        floor = np.where(least >= 0, 1.0, np.where(most <= 0, 0.0, most > -least))
        up, down = weight.clip(min=0), weight.clip(max=0)
        slope = up * chord + down * floor
        weight, bias = slope @ deeper, bias + up @ lift + slope @ shift
    return linear_most(weight, bias, image, norm, radius)


def linear_most(weight: Array, bias: Array, image: Array, norm: str, radius: float) -> Array:
    """The most that weight.x + bias reaches in ball and box: [O, D], [O] -> [O]."""
    size, room = np.abs(weight), np.minimum(np.where(weight > 0, 1 - image, image), radius)
    if norm == "L1":  # the largest weights spend the budget first
        order = np.argsort(-size, 1)
        size, room = (np.take_along_axis(each, order, 1) for each in (size, room))
        room = np.minimum(room, np.maximum(radius - (np.cumsum(room, 1) - room), 0))
    most: Array = weight @ image + bias + (size * room).sum(1)
    return most


def _distance_rows(image: Array, norm: str, columns: int) -> tuple[Array, Array, Array]:
    """Each change bounds its pixel's from both sides; the distance bounds each of them, or is their sum."""
    pixels = len(image)
    one = np.eye(pixels)
    changes = np.zeros((2 * pixels, columns))
    changes[:pixels, :pixels], changes[pixels:, :pixels] = one, -one
    changes[:, pixels : 2 * pixels] = -np.concatenate([one, one])
    spread = np.zeros((pixels if norm == "Linf" else 1, columns))
    spread[:, pixels : 2 * pixels] = one if norm == "Linf" else 1
    spread[:, 2 * pixels] = -1
    rows = np.concatenate([changes, spread])
    return rows, np.full(len(rows), -np.inf), np.concatenate([image, -image, np.zeros(len(spread))])


def _rectifier_rows(
    weight: Array, bias: Array, least: Array, most: Array, places: tuple[slice, slice, slice], columns: int
) -> tuple[Array, Array, Array]:
    """a >= Wv + b, a <= Wv + b - least (1 - s), a <= most s: with a >= 0 a = max(Wv + b, 0) where s is 0 or 1."""
    inputs, outputs, switches = places
    count = len(bias)
    one, open_ = np.eye(count), np.full(count, np.inf)
    least, most = np.minimum(least, 0), np.maximum(most, 0)
    rows = np.zeros((3 * count, columns))
    rows[: 2 * count, inputs] = -np.concatenate([weight, weight])
    rows[:, outputs] = np.concatenate([one, one, one])
    rows[count : 2 * count, switches] = -np.diag(least)
    rows[2 * count :, switches] = -np.diag(most)
    return rows, np.concatenate([bias, -open_, -open_]), np.concatenate([open_, bias - least, 0 * bias])
