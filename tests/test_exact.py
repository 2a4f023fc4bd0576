"""Exact margins of small networks, by mixed-integer programming, and how near the suite for the nearest flip comes."""

from dataclasses import replace
from itertools import pairwise

import exact
import numpy as np
import pandas as pd
import pytest
from exact_margin import exact_margin, logits_of, relaxed_most

from linear_models import distances_to_planes
from temper.attacks.suites import SUITES
from temper.evaluation.measurement import measure
from temper.evaluation.samples import from_arrays
from temper.threat import Threat

RIVALS = np.arange(1, 4)


def small_network(seed, *sizes):
    """Random weights of a rectified network in float64, whose prediction for a gray image is class 0."""
    random = np.random.default_rng(seed)
    layers = [
        (random.normal(size=(out, into)) / into**0.5, 0.1 * random.normal(size=out)) for into, out in pairwise(sizes)
    ]
    weight, bias = layers[-1]
    middle = np.full(sizes[0], 0.5)
    lead = logits_of(layers, middle[None])[0]
    layers[-1] = (weight, bias - lead + np.where(np.arange(len(bias)) == 0, 0.2, 0))
    return layers, middle


@pytest.mark.parametrize("norm", ["Linf", "L1"])
def test_without_hidden_layers_the_margin_is_the_distance_to_the_nearest_plane(norm):
    ((weight, bias),), image = small_network(0, 12, 4)
    towards = weight[RIVALS] - weight[0]
    gaps = -(towards @ image + bias[RIVALS] - bias[0])
    planes = distances_to_planes(towards, gaps, np.full(towards.shape, 0.5), norm)
    found = exact_margin([(weight, bias)], image, norm, 2 * planes.min(), [1, 2, 3])
    assert found.margin == pytest.approx(planes.min(), rel=1e-9)
    assert found.target == 1 + planes.argmin()
    assert found.gap <= 1e-9


@pytest.mark.parametrize("norm", ["Linf", "L1"])
def test_no_point_of_a_fine_grid_flips_nearer_and_one_flips_hardly_farther(norm):
    """Two pixels and two hidden layers: every point can be looked at."""
    layers, image = small_network(3, 2, 5, 5, 3)
    axis = np.linspace(0, 1, 1501)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    flips = logits_of(layers, points).argmax(1) != 0
    change = np.abs(points - image)
    lengths = change.max(1) if norm == "Linf" else change.sum(1)
    nearest = lengths[flips].min()
    found = exact_margin(layers, image, norm, 1.5 * nearest, [1, 2])
    assert nearest - 2 / 1500 <= found.margin <= nearest


@pytest.mark.parametrize("norm", ["Linf", "L1"])
def test_bounds_hold_in_the_ball_and_those_of_one_layer_are_reached(norm):
    random = np.random.default_rng(0)
    layers, image = small_network(1, 6, 5, 4, 3)
    radius = 0.4
    moves = random.uniform(-1, 1, (100_000, 6)) ** 3
    moves *= radius / (np.abs(moves).max(1) if norm == "Linf" else np.abs(moves).sum(1))[:, None]
    points, below = np.clip(image + moves, 0, 1), []
    for depth, (weight, bias) in enumerate(layers):
        values = points @ weight.T + bias
        most = relaxed_most(weight, bias, below, image, norm, radius)
        least = -relaxed_most(-weight, -bias, below, image, norm, radius)
        assert (values >= least - 1e-12).all()
        assert (values <= most + 1e-12).all()
        assert depth or (values.max(0) >= bias + weight @ image + 0.7 * (most - bias - weight @ image)).all()
        points, below = np.maximum(values, 0), [*below, (weight, bias, least, most)]


def test_the_stored_margins_are_what_the_programme_says():
    models = exact.known_networks()
    x, _ = exact.digits("test")
    stored = pd.read_csv(exact.MARGINS)
    for norm in ("Linf", "L1"):
        row = stored.query("network == 'adversarial-wide' and norm == @norm and sample == 1").iloc[0]
        layers, image = exact.layers_of(models["adversarial-wide"]), x[1].flatten().double().numpy()
        others = [target for target in range(10) if target != logits_of(layers, image[None])[0].argmax()]
        found = exact_margin(layers, image, norm, 1.05 * row["margin"], others)
        assert found.margin == pytest.approx(row["margin"], rel=1e-7)
        assert found.target == row["target"]


def test_every_gap_is_closed():
    stored = pd.read_csv(exact.MARGINS)
    assert (stored["gap"] * stored["margin"] <= 1e-6).all()  # what HiGHS calls whole, times the big M
    assert not stored.duplicated(["network", "norm", "sample"]).any()
    counts = stored.groupby(["network", "norm"]).size()
    assert (counts[["standard", "adversarial"]] >= 60).all()


@pytest.mark.parametrize(("network", "norm"), [("standard", "Linf"), ("adversarial", "Linf"), ("adversarial", "L1")])
def test_margin_never_undercuts_and_comes_near_exact_margins(network, norm):
    """Of 16 samples; of 60 the mean excess in Linf is at most 0.15 %. What stands here is what the goal was."""
    model = exact.known_networks()[network]
    x, y = exact.digits("test")
    stored = pd.read_csv(exact.MARGINS).query("network == @network and norm == @norm and sample < 16")
    suite = SUITES["margin"] if norm == "Linf" else replace(SUITES["margin"], stages=SUITES["margin"].stages[1:2])
    done = measure(model, from_arrays(x[:16], y[:16]), [Threat(norm, 1.0)], suite, 0)
    upper = done.table.frame.sort_values("sample")["upper"].to_numpy()
    excess = upper / stored.sort_values("sample")["margin"].to_numpy() - 1
    assert len(excess) == 16
    assert (excess >= -1e-6).all()
    assert excess.mean() <= (0.002 if norm == "Linf" else 0.01)
    if norm == "Linf":
        assert np.percentile(excess, 95) <= 0.01
        assert (done.table.frame["backward"] <= 180).all()
