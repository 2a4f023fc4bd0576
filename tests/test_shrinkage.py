"""Shrinkage on simulated configurations whose true worth is known."""

import numpy as np
import pytest

from temper.benchmark.analysis.shrinkage import chance_of_best, held_out, shrink

DRAWS = 300


def simulated(configurations, columns, spread, noise, seed=0):
    """True worths, and scores of them around columns that differ in level: float64 [c], [c, columns]."""
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        worth = 2 + spread * rng.normal(size=configurations)
        level = rng.normal(size=columns)
        level -= level.mean()
        yield worth, worth[:, None] + level + noise * rng.normal(size=(configurations, columns))


@pytest.mark.parametrize(
    ("configurations", "columns", "spread", "noise"),
    [(76, 6, 0.6, 0.8), (76, 6, 0.1, 0.8), (12, 6, 0.5, 0.5), (40, 5, 0.0, 0.1)],
)
def test_the_best_of_many_is_worth_what_is_said(configurations, columns, spread, noise):
    flattered, said, held, true, inside, errors = [], [], [], [], [], []
    for worth, scores in simulated(configurations, columns, spread, noise):
        shrunk, means = shrink(scores), scores.mean(axis=1)
        best = shrunk.means.argmax()
        flattered.append(means[best]), said.append(shrunk.means[best]), true.append(worth[best])
        held.append(held_out(scores))
        inside.append(abs(shrunk.means[best] - worth[best]) <= shrunk.width * shrunk.errors[best])
        errors.append((np.mean((means - worth) ** 2), np.mean((shrunk.means - worth) ** 2)))
    curse = np.mean(flattered) - np.mean(true)
    assert curse > 0.2 * noise  # the winner's curse is there ...
    assert abs(np.mean(said) - np.mean(true)) < 0.35 * curse  # ... and mostly taken off
    assert abs(np.mean(held) - np.mean(true)) < 0.5 * curse
    assert np.mean(inside) > 0.92
    before, after = np.mean(errors, axis=0)
    assert after < before


def test_chances_are_what_they_say():
    """A configuration that is called the best with chance p is the best in a share p of all cases."""
    expected, right = 0.0, 0
    for worth, scores in simulated(12, 6, 0.5, 0.8, seed=1):
        shrunk = shrink(scores)
        chances = chance_of_best(shrunk.means, shrunk.errors)
        expected, right = expected + chances.max(), right + (chances.argmax() == worth.argmax())
    assert right / DRAWS == pytest.approx(expected / DRAWS, abs=0.08)  # 2.8 standard errors


def test_scores_without_noise_are_left_as_they_are():
    worth = np.array([1.0, 2.0, 3.0, 4.0, 9.0])
    shrunk = shrink(worth[:, None] + np.array([0.0, 1.0, 5.0]))
    np.testing.assert_allclose(shrunk.means, worth + 2)
    np.testing.assert_allclose(shrunk.errors, 0, atol=1e-9)


def test_equal_scores_are_equals():
    shrunk = shrink(np.full((6, 3), 0.5))
    np.testing.assert_array_equal(shrunk.means, 0.5)


@pytest.mark.parametrize("shape", [(3, 6), (8, 1)])
def test_too_few_say_nothing(shape):
    assert shrink(np.zeros(shape)) is None
