"""The shortest step onto a hyperplane inside the box, against its definition and against independent solvers."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor

from linear_models import distances_to_planes
from temper.attacks.ball import distance
from temper.attacks.hyperplane import step_to_plane
from temper.threat import NORMS

pytestmark = pytest.mark.numerical

EVERY_NORM = pytest.mark.parametrize("norm", NORMS)
examples = settings(max_examples=40, deadline=None)


def reach(x: Tensor, normal: Tensor, sign: Tensor) -> Tensor:
    """How far w.z can be moved in the direction ``sign`` inside the box: [N]."""
    slope = normal.flatten(1) * sign[:, None]
    return torch.where(slope > 0, slope * (1 - x.flatten(1)), -slope * x.flatten(1)).sum(1)


@st.composite
def planes(draw):
    """(x, normals, values at x, share of what the box allows that closes the gap): float64, with ties, weights of 0
    and pixels on the faces; planes on either side, through x, at the last corner and beyond it."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    pixels = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1, width=32))
    weights = st.one_of(st.sampled_from([0.0, 1.0, -1.0, 0.5]), st.floats(0.01, 3), st.floats(-3, -0.01))
    shares = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.floats(0.01, 1.5))
    x = torch.from_numpy(draw(hnp.arrays(np.float64, shape, elements=pixels)))
    normal = torch.from_numpy(draw(hnp.arrays(np.float64, shape, elements=weights)))
    share = torch.from_numpy(draw(hnp.arrays(np.float64, shape[:1], elements=shares)))
    sign = torch.from_numpy(draw(hnp.arrays(np.float64, shape[:1], elements=st.sampled_from([-1.0, 1.0]))))
    return x, normal, -sign * share * reach(x, normal, sign), share


@EVERY_NORM
@examples
@given(case=planes())
def test_steps_end_in_the_box_and_on_the_plane_or_at_the_corner_nearest_to_it(norm, case):
    x, normal, value, share = case
    delta = step_to_plane(x, normal, value, norm)
    assert ((x + delta >= -1e-12) & (x + delta <= 1 + 1e-12)).all()
    assert (delta[normal == 0] == 0).all()
    left = value + (normal * delta).sum(1)
    expected = value.sign() * (value.abs() - reach(x, normal, -value.sign())).clamp_min(0)
    torch.testing.assert_close(left, expected, rtol=0, atol=1e-10)
    assert (delta[share == 0] == 0).all()


@EVERY_NORM
@examples
@given(case=planes())
def test_points_on_the_plane_stay_where_they_are(norm, case):
    x, normal, value, _ = case
    delta = step_to_plane(x, normal, value, norm)
    again = step_to_plane((x + delta).clamp(0, 1), normal, value + (normal * delta).sum(1), norm)
    torch.testing.assert_close(again, torch.zeros_like(x), rtol=0, atol=1e-9)


@EVERY_NORM
@examples
@given(case=planes())
def test_a_row_does_not_care_about_the_others(norm, case):
    x, normal, value, _ = case
    alone = [step_to_plane(x[i : i + 1], normal[i : i + 1], value[i : i + 1], norm) for i in range(len(x))]
    torch.testing.assert_close(step_to_plane(x, normal, value, norm), torch.cat(alone), rtol=0, atol=1e-12)


def shortest(x: np.ndarray, w: np.ndarray, value: float, norm: str) -> float:
    """Length of the shortest step onto the plane inside the box, by a general solver."""
    size = len(x)
    if norm == "L2":
        result = optimize.minimize(
            lambda delta: delta @ delta,
            np.zeros(size),
            jac=lambda delta: 2 * delta,
            bounds=[(-xi, 1 - xi) for xi in x],
            constraints={"type": "eq", "fun": lambda delta: w @ delta + value, "jac": lambda delta: w},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        length = np.sqrt(result.fun)
    else:  # the variables are the moves up, the moves down and, for Linf, their limit
        limit = norm == "Linf"
        result = optimize.linprog(
            np.r_[np.full(2 * size, float(not limit)), [1.0] * limit],
            A_ub=np.c_[np.eye(2 * size), -np.ones(2 * size)] if limit else None,
            b_ub=np.zeros(2 * size) if limit else None,
            A_eq=np.r_[w, -w, [0.0] * limit][None],
            b_eq=[-value],
            bounds=[(0, 1 - xi) for xi in x] + [(0, xi) for xi in x] + [(0, None)] * limit,
        )
        length = result.fun
    assert result.success
    return float(length)


@pytest.mark.parametrize("share", [0.02, 0.4, 0.95])
@EVERY_NORM
def test_no_shorter_step_reaches_the_plane(norm, share):
    rng = np.random.default_rng(0)
    x, normal = rng.uniform(0, 1, (24, 6)), rng.normal(0, 1, (24, 6))
    x[:8] = x[:8].round()  # a third of the samples in corners of the box
    sign = torch.from_numpy(rng.choice([-1.0, 1.0], 24))
    value = -sign * share * reach(torch.from_numpy(x), torch.from_numpy(normal), sign)
    ours = distance(step_to_plane(torch.from_numpy(x), torch.from_numpy(normal), value, norm), norm)
    best = [shortest(x[i], normal[i], float(value[i]), norm) for i in range(len(x))]
    np.testing.assert_allclose(ours, best, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("share", [0.001, 0.3, 0.99])
@EVERY_NORM
def test_large_float32_images_lose_nothing(norm, share):
    """Weights of very different sizes, many pixels on the faces; against bisection and greedy choice in float64."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 3, 32, 32, generator=generator)
    x = torch.where(x < 0.2, x.round(), x)
    normal = torch.randn(x.shape, generator=generator) * (3 * torch.randn(x.shape, generator=generator)).exp()
    value = share * reach(x, normal, -torch.ones(6))
    delta = step_to_plane(x, normal, value, norm).flatten(1).double()
    weights, images = -normal.flatten(1).double().numpy(), x.flatten(1).double().numpy()
    room = np.where(weights > 0, 1 - images, images)
    exact = distances_to_planes(weights, value.double().numpy(), room, norm)
    np.testing.assert_allclose(distance(delta, norm), exact, rtol=1e-4)
    np.testing.assert_allclose((delta.numpy() * weights).sum(1), value, rtol=2e-6)


@EVERY_NORM
def test_the_scale_of_a_plane_does_not_matter(norm):
    generator = torch.Generator().manual_seed(0)
    x, normal = torch.rand(4, 50, generator=generator), torch.randn(4, 50, generator=generator)
    value = torch.tensor([-1.0, 0.1, 2.0, 1e3])
    expected = step_to_plane(x, normal, value, norm)
    for scale in (1e-25, 1e-10, 1e10):
        scaled = step_to_plane(x, normal * scale, value * scale, norm)
        torch.testing.assert_close(scaled, expected, rtol=1e-4, atol=1e-6)


@EVERY_NORM
def test_without_a_plane_there_is_no_step(norm):
    """A gradient of zeros, and values at which nothing can be done."""
    x, zeros = torch.rand(3, 3, 4, 4), torch.zeros(3, 3, 4, 4)
    for values in ([0.0, 1.0, -1.0], [torch.inf, -torch.inf, 1e-30]):
        assert torch.equal(step_to_plane(x, zeros, torch.tensor(values), norm), zeros)


@EVERY_NORM
def test_nan_stays_in_its_row(norm):
    generator = torch.Generator().manual_seed(0)
    x, normal, value = torch.rand(3, 8, generator=generator), torch.randn(3, 8, generator=generator), torch.ones(3)
    expected = step_to_plane(x, normal, value, norm)
    normal[1, 2] = torch.nan
    assert torch.equal(step_to_plane(x, normal, value, norm)[[0, 2]], expected[[0, 2]])


@EVERY_NORM
def test_an_empty_batch_stays_empty(norm):
    assert step_to_plane(torch.rand(0, 3, 4, 4), torch.rand(0, 3, 4, 4), torch.rand(0), norm).shape == (0, 3, 4, 4)
