"""Norm balls inside the pixel box, against their definitions and against independent solvers."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from temper.attacks.ball import distance, project, random_point, steepest_step, within_box
from temper.core import randomness
from temper.errors import ArgumentError
from temper.threat import NORMS, Threat, check_norm, format_eps, parse_eps, parse_threats

ORDER = {"Linf": np.inf, "L2": 2, "L1": 1}
SLACK = 1e-5  # float32 rounding of images and of sums
examples = settings(max_examples=40, deadline=None)


def keys_of(count: int) -> torch.Tensor:
    return randomness.sample_keys(0, torch.arange(count), "threat")


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"), [("8/255", 8 / 255), (" 0.5 ", 0.5), (3, 3.0), (0.25, 0.25), ("1e-3", 1e-3), ("0", 0.0)]
)
def test_a_radius_is_read(text, value):
    assert parse_eps(text) == value


@pytest.mark.parametrize(
    "text", ["8/", "/255", "8/0", "-1", "nan", "inf", "eight", "", "8/255/2", True, None, "-8/255"]
)
def test_what_is_no_radius_is_refused(text):
    with pytest.raises(ArgumentError, match=r"^radius = .*: write a number of at least 0 .* 8/255$") as error:
        parse_eps(text, "radius")
    assert error.value.value is text


@pytest.mark.parametrize("text", ["1e-10", 1e-40, "5e-324", "1e10", 1e38, "1e308", "1e308/255", "1e-10/1"])
def test_a_radius_that_float32_cannot_search_is_refused(text):
    with pytest.raises(
        ArgumentError, match=r"^radius = .*: is in pixel units of \[0, 1\], from 1e-09 to 1e\+09 "
    ) as error:
        parse_eps(text, "radius")
    assert error.value.value is text


def test_norms_are_read_in_any_case():
    assert [check_norm(name) for name in ("linf", "LINF", "l2", "L1")] == ["Linf", "Linf", "L2", "L1"]
    with pytest.raises(ArgumentError, match="norm = 'L3': choose one of Linf, L2, L1"):
        check_norm("L3")


def test_threats_are_read_in_order_without_repeats():
    expected = [Threat("Linf", 2 / 255), Threat("Linf", 4 / 255), Threat("L2", 0.5)]
    assert parse_threats("Linf:2/255,4/255 l2:0.5 Linf:2/255") == expected
    assert parse_threats(["Linf:2/255,4/255", "L2:0.5"]) == expected


@pytest.mark.parametrize("text", ["", [], "Linf", "Linf:", "Linf:0", "L3:1", "Linf:2/255,", "Linf:x", ":1"])
def test_what_is_no_threat_is_refused(text):
    with pytest.raises(ArgumentError, match=r"^threat = "):
        parse_threats(text)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [2 / 255, 0.5, 8 / 255])
def test_a_threat_is_written_as_it_is_read(norm, eps):
    (again,) = parse_threats(str(Threat(norm, eps)))
    assert again.norm == norm
    assert again.eps == pytest.approx(eps, rel=1e-3)


def test_linf_is_written_in_255ths():
    assert format_eps("Linf", 8 / 255) == "8/255"
    assert format_eps("L2", 0.5) == "0.5"


# --- measuring ------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_distance_is_numpys_norm(norm):
    delta = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = np.linalg.norm(delta.flatten(1).numpy(), ORDER[norm], axis=1)
    np.testing.assert_allclose(distance(delta, norm), expected, rtol=1e-5)
    assert distance(delta.double(), norm).dtype == torch.float64


# --- projecting -----------------------------------------------------------------------------------


@st.composite
def moved_images(draw):
    """(x in the box, a point anywhere, one radius per sample), with ties, zeros and pixels on the faces."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    pixels = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1, width=32))
    moves = st.one_of(st.sampled_from([0.0, -0.5, 0.5]), st.floats(-3, 3, width=32))
    x = torch.from_numpy(draw(hnp.arrays(np.float32, shape, elements=pixels)))
    delta = torch.from_numpy(draw(hnp.arrays(np.float32, shape, elements=moves)))
    eps = st.one_of(st.just(0.0), st.floats(2**-10, 5, width=32))
    return x, x + delta, torch.from_numpy(draw(hnp.arrays(np.float32, shape[:1], elements=eps)))


@pytest.mark.parametrize("norm", NORMS)
@examples
@given(case=moved_images())
def test_projections_are_feasible_and_idempotent(norm, case):
    x, moved, eps = case
    once = project(x, moved, eps, norm)
    assert once.dtype == x.dtype
    assert ((once >= 0) & (once <= 1)).all()
    assert (distance(once - x, norm) <= eps + SLACK).all()
    torch.testing.assert_close(project(x, once, eps, norm), once, rtol=0, atol=SLACK)


@pytest.mark.parametrize("norm", NORMS)
@examples
@given(case=moved_images())
def test_a_radius_per_sample_is_each_samples_own(norm, case):
    x, moved, eps = case
    alone = [project(x[i : i + 1], moved[i : i + 1], float(eps[i]), norm) for i in range(len(x))]
    torch.testing.assert_close(project(x, moved, eps, norm), torch.cat(alone), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
@examples
@given(case=moved_images())
def test_feasible_points_stay_where_they_are(norm, case):
    x, moved, _ = case
    inside = moved.clamp(0, 1)
    eps = distance(inside - x, norm) + SLACK
    torch.testing.assert_close(project(x, inside, eps, norm), inside, rtol=0, atol=1e-6)


def nearest_in_l1(x: np.ndarray, delta: np.ndarray, eps: float) -> float:
    """Squared distance from ``delta`` to the intersection of ball and box, by a general solver.

    The perturbation is split into its positive and negative parts, which makes the ball linear.
    """
    size = len(x)
    result = optimize.minimize(
        lambda v: ((v[:size] - v[size:] - delta) ** 2).sum(),
        np.zeros(2 * size),
        jac=lambda v: np.concatenate([2 * (v[:size] - v[size:] - delta), -2 * (v[:size] - v[size:] - delta)]),
        bounds=[(0, 1 - xi) for xi in x] + [(0, xi) for xi in x],
        constraints={"type": "ineq", "fun": lambda v: eps - v.sum(), "jac": lambda v: -np.ones(2 * size)},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert result.success
    return float(result.fun)


@pytest.mark.parametrize("eps", [0.05, 0.4, 1.5])
def test_the_l1_projection_is_the_nearest_point(eps):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (30, 7))
    x[:10] = x[:10].round()  # a third of the samples in corners of the box
    delta = rng.normal(0, 1, x.shape)
    ours = project(torch.tensor(x), torch.tensor(x + delta), eps, "L1").numpy() - x
    squared = ((ours - delta) ** 2).sum(1)
    best = [nearest_in_l1(x[i], delta[i], eps) for i in range(len(x))]
    np.testing.assert_allclose(squared, best, atol=1e-6)


def test_the_l1_projection_spends_the_whole_budget_of_a_large_image():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 224, 224, generator=generator)
    moved = x + torch.randn(x.shape, generator=generator)
    for eps in (12.0, 2000.0):
        lengths = distance((project(x, moved, eps, "L1") - x).double(), "L1")
        torch.testing.assert_close(lengths, torch.full((2,), eps, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_other_projections_are_nearest_where_the_box_is_far(norm):
    """Compared with every point of a fine grid in two dimensions."""
    x = torch.full((1, 2), 0.5)
    ticks = torch.linspace(-0.2, 0.2, 201)
    grid = torch.cartesian_prod(ticks, ticks)
    grid = grid[distance(grid, norm) <= 0.2]
    for delta in ([0.3, 0.05], [-0.25, 0.4], [0.0, 0.31]):
        target = torch.tensor([delta])
        nearest = (grid - target).square().sum(1).min().sqrt()
        ours = (project(x, x + target, 0.2, norm) - x - target).norm()
        assert ours <= nearest + 1e-6


@pytest.mark.parametrize("norm", NORMS)
def test_a_float64_radius_leaves_images_float32(norm):
    x, eps = torch.rand(3, 2, 2), torch.full((3,), 0.1, dtype=torch.float64)
    assert project(x, x + 1, eps, norm).dtype == torch.float32
    assert random_point(x, eps, norm, keys_of(3)).dtype == torch.float32


# --- stepping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@examples
@given(seed=st.integers(0, 10_000))
def test_no_unit_step_rises_faster(norm, seed):
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(1, 8, generator=generator) * 10 ** torch.randn((), generator=generator)
    step = steepest_step(gradient, norm)
    assert distance(step, norm).item() == pytest.approx(1, rel=1e-5)
    others = torch.randn(500, 8, generator=generator)
    others = others / distance(others, norm)[:, None]
    assert (others @ gradient[0]).max() <= (step * gradient).sum() * (1 + 1e-5)


def test_the_l1_step_shares_its_length_over_the_largest_coordinates():
    gradient = torch.tensor([[0.1, -5.0, 3.0, 0.0], [0.0, 0.0, -1e-20, 0.0], [0.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[0, -0.5, 0.5, 0], [0, 0, -1, 0], [0, 0, 0, 0]])
    assert torch.equal(steepest_step(gradient, "L1", 0.5), expected)
    # One coordinate at least, and a share per sample.
    assert torch.equal(steepest_step(gradient, "L1", 0.99)[0], torch.tensor([0.0, -1, 0, 0]))
    shares = steepest_step(gradient[[0, 0]], "L1", torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(shares, torch.tensor([[0, -1, 0, 0], [1 / 3, -1 / 3, 1 / 3, 0]]))


@pytest.mark.parametrize("norm", NORMS)
def test_the_size_of_a_gradient_does_not_matter(norm):
    """A confident model's gradients are tiny; attacks must not stand still there."""
    gradient = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    step = steepest_step(gradient, norm)
    for scale in (1e-30, 1e-12, 1e20):
        torch.testing.assert_close(steepest_step(gradient * scale, norm), step)


@pytest.mark.parametrize("norm", NORMS)
def test_without_a_gradient_there_is_no_step(norm):
    assert torch.equal(steepest_step(torch.zeros(2, 3), norm), torch.zeros(2, 3))


def test_gradients_out_of_the_box_are_dropped():
    x = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.5]])
    gradient = torch.tensor([[-1.0, 1.0, -1.0, 1.0, -1.0]])
    assert torch.equal(within_box(gradient, x), torch.tensor([[0.0, 1.0, -1.0, 0.0, -1.0]]))


# --- drawing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.0, 0.03, 2.0])
def test_random_points_are_feasible(norm, eps):
    x = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x[:5] = x[:5].round()
    drawn = random_point(x, eps, norm, keys_of(20))
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert (distance(drawn - x, norm) <= eps + SLACK).all()
    assert torch.equal(drawn, x) == (eps == 0)


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_do_not_depend_on_the_batch(norm):
    x = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    keys = keys_of(8)
    together = random_point(x, 0.3, norm, keys)
    order = torch.tensor([5, 2, 7])
    assert torch.equal(random_point(x[order], 0.3, norm, keys[order]), together[order])
    per_sample = random_point(x, torch.linspace(0.1, 0.8, 8), norm, keys)
    for i, eps in enumerate(torch.linspace(0.1, 0.8, 8)):
        alone = random_point(x[i : i + 1], float(eps), norm, keys[i : i + 1])
        torch.testing.assert_close(per_sample[i : i + 1], alone, rtol=0, atol=1e-6)


def test_linf_points_are_uniform_and_other_lengths_too():
    """eps is so small that the box is far away."""
    x = torch.full((2000, 6), 0.5, dtype=torch.float64)
    eps = 0.01
    linf = (random_point(x, eps, "Linf", keys_of(2000)) - x) / eps
    assert stats.kstest(linf.flatten(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    for norm in ("L2", "L1"):
        delta = (random_point(x, eps, norm, keys_of(2000)) - x) / eps
        assert stats.kstest(distance(delta, norm), stats.uniform().cdf).pvalue > 1e-3
        # All directions alike: every orthant is as likely, and so is every coordinate's share.
        assert delta.sign().mean(0).abs().max() < 0.08
        shares = delta.abs().pow(ORDER[norm]).mean(0)
        assert shares.max() / shares.min() < 1.25
