"""Random models measured in expectation: answers are the image's own, right on average, and counted as they are."""

import logging
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import temper
from temper.attacks.attack import input_gradient
from temper.attacks.crafting import foldable, folded, lay_out
from temper.attacks.losses import cross_entropy
from temper.attacks.pgd import PGD
from temper.attacks.suites import SUITES, Stage, Suite
from temper.core.randomness import content_keys
from temper.errors import ArgumentError, EvidenceError, ModelError, TemperWarning
from temper.evaluation import measurement
from temper.evaluation.expected import in_expectation
from temper.evaluation.samples import from_arrays
from temper.models import expectation
from temper.models.expectation import Expectation, anew, chance, decided, deciding, led_by, once
from temper.threat import parse_threats

IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Random(nn.Module):
    """A small network that is random in one way."""

    def __init__(self, way) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way, self.first, self.norm, self.last = way, nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Linear(16, 5)
        self.norm.running_mean += torch.rand(16) - 0.5
        self.norm.running_var += torch.rand(16)
        self.eval()

    def rest(self, x, way=lambda z: z):
        return 3 * self.last(way(functional.relu(self.norm(self.first(x)))).mean((2, 3)))

    def forward(self, x):
        return self.way(self, x)


def resized(net, x):
    size = int(torch.randint(5, 9, (1,)))
    return net.rest(functional.interpolate(x, size=size))


def resized_by_python(net, x):
    return net.rest(functional.interpolate(x, size=random.randint(5, 8)))


def shaken_weights(net, x):
    """As many filters as images in a batch of 16."""
    z = functional.conv2d(x, net.first.weight + 0.3 * torch.randn_like(net.first.weight), net.first.bias)
    return 3 * net.last(functional.relu(z).mean((2, 3)))


WAYS = {
    "noise": lambda net, x: net.rest(x + 0.5 * torch.randn_like(x)),
    "dropout": lambda net, x: net.rest(x, lambda z: functional.dropout(z, 0.5, True)),
    "channels": lambda net, x: net.rest(x, lambda z: functional.dropout2d(z, 0.5, True)),
    "size": resized,
    "python": resized_by_python,
    "numpy": lambda net, x: net.rest(x * float(np.random.uniform(0.5, 1.5))),  # noqa: NPY002 - what models do
    "weights": shaken_weights,
}
EVERY = pytest.mark.parametrize("way", WAYS)


def own_generator(net, x):
    return net.rest(x + torch.from_numpy(np.random.default_rng().standard_normal(x.shape)).float())


def expected(way, draws=4, seed=0):
    return in_expectation(Random(WAYS[way]), draws, seed, IMAGES[:4])


@EVERY
@torch.no_grad()
def test_an_answer_is_the_images_own(way):
    """In every company, place and number, whatever is drawn from torch meanwhile."""
    model = expected(way)
    whole = model(IMAGES)
    torch.rand(3)
    for some in ([3], [5, 1], list(range(15, -1, -1)), [2] * 17):
        assert torch.allclose(model(IMAGES[some]), whole[some], atol=1e-5)
    last = IMAGES.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(model(last), whole, atol=1e-5)
    assert not torch.allclose(model.once(IMAGES, torch.arange(16), [0]), model.once(IMAGES, torch.arange(16), [1]))
    assert not torch.equal(anew(model)(IMAGES), whole)
    assert not torch.equal(expected(way, seed=1)(IMAGES), whole)


@pytest.mark.parametrize("way", ["noise", "channels"])
def test_a_changed_pixel_is_answered_by_other_draws(way):
    model, moved = expected(way), IMAGES.clone()
    moved[:, 0, 0, 0] += 1e-7
    with torch.no_grad():
        assert not torch.allclose(model(moved), model(IMAGES), atol=1e-3)


@pytest.mark.slow
@EVERY
@torch.no_grad()
def test_votes_are_those_of_independent_draws(way):
    """A chi-square test of 400 of ours against 400 of the plain model's."""
    model, votes = Expectation(Random(WAYS[way]), 400, 0, expected(way).habits), torch.zeros(2, 5)
    torch.manual_seed(0)
    images = IMAGES[:2]
    _, ours = model.asked(images)
    for _ in range(400):
        # Alone, for what a batch shares is drawn for each image then, too.
        votes += torch.cat([functional.one_hot(model.network(x[None]).argmax(1), 5) for x in images])
    statistic = ((ours - votes) ** 2 / (ours + votes).clamp_min(1)).sum(1)
    assert (statistic < 25).all()  # 4 degrees of freedom: 1 in 20,000


@EVERY
@pytest.mark.parametrize("held", [2**19, 0])
def test_the_gradient_is_that_of_the_mean_logits(way, held, monkeypatch):
    monkeypatch.setattr(expectation, "HELD", held)
    model, y = expected(way), torch.arange(16) % 5
    logits, _, gradient = input_gradient(model, IMAGES, lambda z: cross_entropy(z, y))
    x = IMAGES.clone().requires_grad_()
    filled = torch.cat([x, x[:1]])  # 17, which no other axis has
    mean = torch.stack([model.once(filled, content_keys(filled), [draw])[:16] for draw in range(4)]).mean(0)
    shifted = mean + (logits - mean).detach()
    (slope,) = torch.autograd.grad(cross_entropy(shifted, y).sum(), x)
    assert torch.allclose(gradient, slope, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(0, 10_000))
def test_the_majority_has_the_largest_logit(chosen, seed):
    mean = torch.randn(1, 5, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    votes = torch.bincount(torch.tensor(chosen), minlength=5)[None]
    logits = led_by(mean, votes)
    assert votes[0, logits.argmax()] == votes.max()
    most = votes[0] == votes.max()
    assert mean[0, logits.argmax()] == mean[0][most].max()  # of equal ones
    moved = (logits != mean)[0].nonzero().flatten().tolist()
    assert set(moved) <= {int(logits.argmax())}
    assert len(logits[0].topk(2).values.unique()) == 2  # a flip is strictly above
    assert torch.equal(torch.autograd.grad(logits[0, 2], mean)[0], torch.eye(5)[2:3])


@pytest.mark.slow
def test_a_decision_that_counts_is_beyond_doubt():
    assert chance(7, 3) == pytest.approx(176 / 1024)
    model = expected("noise")
    y = deciding(model)(IMAGES).argmax(1)
    logits, sure = decided(model, IMAGES, y)
    assert torch.equal(logits.argmax(1), y)
    assert not sure.any()  # that it were another class
    _, votes = deciding(model).asked(IMAGES)
    assert (votes.sum(1) == expectation.DECIDING).all()
    _, sure = decided(model, IMAGES, votes.argmin(1))
    assert sure.all()
    assert torch.equal(deciding(expected("noise", seed=5))(IMAGES), deciding(model)(IMAGES))


def test_a_model_that_draws_nothing_is_measured_as_it_is(caplog):
    model = Random(lambda net, x: net.rest(x))
    with caplog.at_level(logging.INFO, "temper"):
        assert in_expectation(model, 8, 0, IMAGES[:4]) is model
    assert "draws no random numbers; it is measured as it is, with one pass for an answer" in caplog.text


@pytest.mark.parametrize("way", [own_generator, lambda net, x: net.rest(torch.poisson(9 * x) / 9)])
def test_numbers_out_of_reach_are_refused(way):
    with pytest.raises(ModelError, match="draws random numbers"):
        in_expectation(Random(way), 8, 0, IMAGES[:4])
    with pytest.raises(ArgumentError, match="eot = 0: must be at least 1"):
        temper.evaluate(Random(WAYS["noise"]), IMAGES, [0] * 16, "Linf:0.1", eot=0)


@torch.no_grad()
def test_batch_norms_are_folded_as_in_others():
    model = expected("noise")
    pairs = foldable(model, IMAGES[:2])
    assert pairs == [(model.network.first, model.network.norm)]
    plain = model(IMAGES)
    with folded(lay_out(model, pairs, IMAGES[:1])):
        assert torch.allclose(model(IMAGES), plain, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        low = model(IMAGES)
    assert low.dtype == torch.float32
    assert torch.allclose(low, plain, atol=0.05)
    assert once(model).draws == 1


class Planes(nn.Module):
    """Two classes either side of a plane, and symmetric noise, which leaves the majority where the plane is."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.weight, self.noise = nn.Parameter(torch.ones(3 * 8 * 8) / (3 * 8 * 8)), noise

    def forward(self, x):
        z = (x + self.noise * torch.randn_like(x)).flatten(1) @ self.weight - 0.5
        return torch.stack([-z, z], 1)


SHORT = Suite("short", (Stage("pgd", PGD(5, runs=2)),))
# Images at distances 0.005, 0.01, ... 0.08 from the plane in Linf.
DISTANCES = torch.arange(1, 17) * 0.005
NEAR = (0.5 + DISTANCES * (torch.arange(16) % 2 * 2 - 1)).view(-1, 1, 1, 1).expand(-1, 3, 8, 8).contiguous()
LABELS = torch.arange(16) % 2


def measured(batch_size=None):
    model = in_expectation(Planes(0.15), 4, 0, NEAR[:4])  # the noise moves the value by 0.011
    threat, samples = parse_threats("Linf:0.04"), from_arrays(NEAR, LABELS)
    return measurement.measure(model, samples, threat, SHORT, 0, batch_size=batch_size).table


@pytest.fixture(scope="module")
def table():
    return measured()


@pytest.mark.slow
def test_flips_are_those_of_the_majority(table):
    rows = table.frame.sort_values("sample")
    broken, distance = np.isfinite(rows["upper"].to_numpy()), DISTANCES.numpy()
    # 62 of 100 draws that agree are 0.3 deviations of the noise beyond the plane, and a little luck either way.
    assert not broken[distance > 0.042].any()
    assert broken[distance < 0.034].all()
    assert rows["label"].equals(rows["prediction"])


@pytest.mark.slow
def test_passes_are_counted_by_the_draw_and_batches_change_nothing(table):
    rows = table.frame.sort_values("sample")
    safe = rows[DISTANCES.numpy() > 0.05]
    assert (safe["backward"] == 4 * 5 * 2).all()
    assert (safe["forward"] == 4 * (5 + 1) * 2).all()  # each run's end is checked with draws of its own
    assert measured(batch_size=3).frame.equals(table.frame)
    other = replace(table, identity={**table.identity, "eot": 2})
    with pytest.raises(
        EvidenceError, match="the evidence is of eot = 4, not of eot = 2, and says nothing about this one"
    ):
        table.merge(other)


def test_only_what_is_not_asked_for_is_warned_of():
    model = Random(WAYS["noise"])
    labels = [0] * 16
    with pytest.warns(TemperWarning, match=r"the model is random: .* in expectation \(temper evaluate --eot N\)"):
        temper.evaluate(model, IMAGES, labels, "Linf:0.01", suite="pgd")
    table = temper.evaluate(model, IMAGES, labels, "Linf:0.01", suite="pgd", eot=2)  # warnings are errors here
    assert table.identity["eot"] == 2


def test_stages_on_signs_of_masking_alone_are_left_out():
    fast = SUITES["fast"]
    assert fast.in_expectation().stages == tuple(stage for stage in fast.stages if stage.on != "masked") != fast.stages
    assert SUITES["standard"].in_expectation() == SUITES["standard"]
