"""Parameter groups, and the learning rate over a phase."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from temper.models import Classifier
from temper.models.preprocessing import Preprocessing
from temper.training.optimisation import lr_share, make_optimiser, set_lr
from temper.training.sections.learning import OptimiserConfig


@pytest.fixture
def classifier() -> Classifier:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 5))
    return Classifier(network, Preprocessing((0.5,) * 3, (0.5,) * 3, 4), head="4")


CONFIG = OptimiserConfig(
    backbone_lr=0.01, head_lr=0.1, backbone_weight_decay=0.2, head_weight_decay=0.3, betas=(0.8, 0.9)
)


def settings_of(classifier: Classifier, optimiser: torch.optim.Optimizer) -> dict[str, tuple[float, float]]:
    """Parameter name -> (learning rate, weight decay), each parameter once."""
    names = {parameter: name for name, parameter in classifier.network.named_parameters()}
    found = [
        (names[parameter], (group["lr"], group["weight_decay"]))
        for group in optimiser.param_groups
        for parameter in group["params"]
    ]
    assert len(found) == len(dict(found))
    return dict(found)


def test_backbone_and_head_have_their_own_and_vectors_no_decay(classifier):
    assert settings_of(classifier, make_optimiser(classifier, CONFIG)) == {
        "0.weight": (0.01, 0.2),
        "0.bias": (0.01, 0.0),
        "1.weight": (0.01, 0.0),
        "1.bias": (0.01, 0.0),
        "3.weight": (0.01, 0.2),
        "3.bias": (0.01, 0.0),
        "4.weight": (0.1, 0.3),
        "4.bias": (0.1, 0.0),
    }


def test_it_is_adamw_with_the_betas(classifier):
    optimiser = make_optimiser(classifier, CONFIG)
    assert type(optimiser) is torch.optim.AdamW
    assert {group["betas"] for group in optimiser.param_groups} == {(0.8, 0.9)}


def test_frozen_parameters_are_left_out(classifier):
    for _, parameter in classifier.backbone_parameters():
        parameter.requires_grad_(False)
    optimiser = make_optimiser(classifier, CONFIG)
    assert settings_of(classifier, optimiser) == {"4.weight": (0.1, 0.3), "4.bias": (0.1, 0.0)}


def test_set_lr_keeps_the_ratio(classifier):
    optimiser = make_optimiser(classifier, CONFIG)
    for share in (0.5, 0.1, 1.0):
        set_lr(optimiser, share)
        rates = {lr for lr, _ in settings_of(classifier, optimiser).values()}
        assert rates == {share * 0.01, share * 0.1}


# --- learning rate --------------------------------------------------------------------------------


def test_warm_up_rises_linearly_to_the_peak():
    config = OptimiserConfig(warmup=0.1)
    shares = [lr_share(step, 100, config) for step in range(100)]
    assert shares[:11] == pytest.approx([(step + 1) / 11 for step in range(11)])
    assert shares[10] == max(shares) == 1


def test_cosine_falls_to_nearly_nothing():
    config = OptimiserConfig(warmup=0.2)
    shares = [lr_share(step, 100, config) for step in range(100)]
    assert shares[20] == 1
    assert shares[60] == pytest.approx(0.5)
    assert shares[40] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert 0 < shares[99] < 1e-3
    assert all(a > b for a, b in itertools.pairwise(shares[20:]))


def test_constant_stays_at_the_peak():
    config = OptimiserConfig(warmup=0.2, lr_schedule="constant")
    assert [lr_share(step, 10, config) for step in range(2, 10)] == [1.0] * 8
    assert lr_share(0, 10, config) == pytest.approx(1 / 3)


def test_no_warm_up_starts_at_the_peak():
    assert lr_share(0, 10, OptimiserConfig(warmup=0)) == 1


@settings(max_examples=60, deadline=None)
@given(
    steps=st.integers(1, 300),
    warmup=st.floats(0, 0.999),
    name=st.sampled_from(["cosine", "constant"]),
    data=st.data(),
)
def test_a_share_is_always_a_share(steps, warmup, name, data):
    step = data.draw(st.integers(0, steps - 1))
    assert 0 < lr_share(step, steps, OptimiserConfig(warmup=warmup, lr_schedule=name)) <= 1
