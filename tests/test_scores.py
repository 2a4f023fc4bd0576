"""Scores that stand in for the input margin, against distances found without their formulas."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from temper.errors import ArgumentError
from temper.margins.scores import FeatureMargin, equidistance, logit_margin, max_probability, probability_margin

SCORES = {"logit": logit_margin, "probability": probability_margin, "max": max_probability}


def head(classes=5, width=4, seed=0):
    """Weight float [K, M], bias float [K]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(classes, width, generator=generator), torch.randn(classes, generator=generator)


def features(count, width=4, seed=1):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def simplex(classes):
    """Weights float [K, K] that are equally far from each other in every norm."""
    return torch.eye(classes) - 1 / classes


def nearest_flip(feature, weight, bias, norm) -> float:
    """Distance from a feature to the nearest of another class: an optimisation per class, no formula."""
    logits = weight @ feature + bias
    first = int(logits.argmax())
    return min(
        shortest(weight[other] - weight[first], float(logits[first] - logits[other]), norm)
        for other in range(len(weight))
        if other != first
    )


def shortest(normal, gap, norm) -> float:
    """Length of the shortest step d with normal . d >= gap."""
    size = len(normal)
    if norm == "L2":
        constraint = {"type": "ineq", "fun": lambda d: normal @ d - gap}
        start = np.full(size, 0.1)
        return minimize(lambda d: d @ d, start, constraints=constraint, tol=1e-14).fun ** 0.5
    # Variables: the step and bounds of its pixels, one for all in Linf, one for each in L1.
    bounds = 1 if norm == "Linf" else size
    column = np.ones((size, 1)) if norm == "Linf" else np.eye(size)
    limits = [np.hstack([sign * np.eye(size), -column]) for sign in (1, -1)]
    found = linprog(
        [0] * size + [1] * bounds,
        A_ub=np.vstack([[*-normal, *[0] * bounds], *limits]),
        b_ub=[-gap] + [0] * 2 * size,
        bounds=(None, None),
    )
    return found.fun


# --- of the logits alone --------------------------------------------------------------------------


def test_margins_and_probabilities_of_three_logits():
    logits = torch.tensor([[1.0, 3.0, 2.5]])
    p = np.exp([1.0, 3.0, 2.5]) / np.exp([1.0, 3.0, 2.5]).sum()
    assert logit_margin(logits).tolist() == [0.5]
    assert probability_margin(logits).item() == pytest.approx(p[1] - p[2], rel=1e-6)
    assert max_probability(logits).item() == pytest.approx(p[1], rel=1e-6)


def test_two_equal_largest_logits_have_no_margin():
    logits = torch.tensor([[2.0, 2.0, -1.0]])
    assert logit_margin(logits).item() == probability_margin(logits).item() == 0


@pytest.mark.parametrize("score", SCORES)
def test_a_score_is_one_number_per_row_whatever_the_batch(score):
    logits = torch.randn(7, 10, generator=torch.Generator().manual_seed(0))
    whole = SCORES[score](logits)
    assert whole.shape == (7,)
    assert torch.equal(torch.cat([SCORES[score](row[None]) for row in logits]), whole)
    assert SCORES[score](logits[:0]).shape == (0,)


@pytest.mark.parametrize("score", [*SCORES, "feature"])
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_are_refused(score, broken):
    logits = torch.zeros(4, 3)
    logits[2, 1] = broken
    compute = FeatureMargin(torch.eye(3), "L2") if score == "feature" else SCORES[score]
    with pytest.raises(ArgumentError, match=r"row 2.*finite"):
        compute(logits)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("shape", [(4, 1), (4,), (2, 2, 2)])
def test_a_single_class_or_no_batch_is_refused(score, shape):
    with pytest.raises(ArgumentError, match="at least 2 classes"):
        SCORES[score](torch.zeros(shape))


# --- feature margin -------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("classes", [2, 5])
def test_feature_margin_is_the_distance_of_the_nearest_flip(norm, classes):
    weight, bias = head(classes)
    z = features(8)
    found = FeatureMargin(weight, norm)(z @ weight.T + bias).numpy()
    exact = [nearest_flip(each, weight.double().numpy(), bias.double().numpy(), norm) for each in z.double().numpy()]
    np.testing.assert_allclose(found, exact, rtol=1e-4)


def test_the_nearest_boundary_need_not_be_that_of_the_second_logit():
    weight = torch.tensor([[1.0, 0.0], [-9.0, 0.0], [0.0, 0.0]])
    logits = torch.tensor([[2.0, 1.0, 0.5]])
    assert FeatureMargin(weight, "L2")(logits).item() == pytest.approx(0.1)  # 1/10 to class 1, 1.5/1 to class 2
    logits = torch.tensor([[2.0, -8.0, 1.5]])
    assert FeatureMargin(weight, "L2")(logits).item() == pytest.approx(0.5)  # 10/10 to class 1, 0.5/1 to class 2


def test_a_1x1_convolution_is_a_head():
    weight, bias = head()
    logits = features(6) @ weight.T + bias
    assert torch.equal(FeatureMargin(weight[:, :, None, None], "Linf")(logits), FeatureMargin(weight, "Linf")(logits))


def test_classes_of_equal_weights_have_no_boundary_between_them():
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    margin = FeatureMargin(weight, "L2")
    # Class 1 is as close as can be, with the larger bias or the same, but no feature makes it overtake or fall behind.
    assert margin(torch.tensor([[2.0, 1.9, 0.5], [2.0, 2.0, 0.5]])).tolist() == [1.5, 1.5]


@pytest.mark.parametrize("logits", [[2.0, 1.0], [2.0, 2.0]])
def test_without_any_boundary_the_feature_margin_is_infinite(logits):
    assert FeatureMargin(torch.ones(2, 3), "L2")(torch.tensor([logits])).item() == float("inf")


def test_the_gradient_is_that_of_the_nearest_boundary():
    weight = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 9.0]])
    logits = torch.tensor([[2.0, 1.9, 0.0, 0.0]], requires_grad=True)
    FeatureMargin(weight, "Linf")(logits).sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.1, 0.0, 0.0, -0.1]]))  # ||(1, -9)||_1 = 10


def test_a_thousand_classes():
    weight, bias = head(1000, 64)
    margin = FeatureMargin(weight, "Linf")
    logits = features(256, 64) @ weight.T + bias
    found = margin(logits)
    assert found.shape == (256,)
    first = int(logits[0].argmax())
    gaps, widths = logits[0, first] - logits[0], (weight[first] - weight).abs().sum(1)
    others = torch.arange(1000) != first
    assert found[0].item() == pytest.approx((gaps / widths)[others].min().item(), rel=1e-5)


@pytest.mark.parametrize("weight", [torch.zeros(1, 3), torch.zeros(3)])
def test_a_head_of_one_class_is_refused(weight):
    with pytest.raises(ArgumentError, match="K at least 2"):
        FeatureMargin(weight, "Linf")


def test_logits_of_another_head_are_refused():
    with pytest.raises(ArgumentError, match="3 classes"):
        FeatureMargin(torch.eye(3), "Linf")(torch.zeros(2, 4))


# --- equidistance ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("norm", "apart"), [("Linf", 2.0), ("L2", 2**0.5), ("L1", 1.0)])
def test_distances_between_weights_are_measured_in_the_dual_norm(norm, apart):
    found = equidistance(simplex(10), norm)
    assert found.shape == (45,)
    torch.testing.assert_close(found, torch.full((45,), apart))


def test_distances_are_those_of_the_pairs():
    weight, _ = head(4, 3)
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    torch.testing.assert_close(
        equidistance(weight, "Linf"), torch.stack([(weight[i] - weight[j]).abs().sum() for i, j in pairs])
    )


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_with_equidistant_weights_feature_and_logit_margin_are_proportional(norm):
    logits = features(50, 6) @ simplex(6).T
    apart = equidistance(simplex(6), norm)[0]
    torch.testing.assert_close(FeatureMargin(simplex(6), norm)(logits), logit_margin(logits) / apart)
