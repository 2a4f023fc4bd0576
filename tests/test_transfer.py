"""Delay and severity: on paper, on the paper's own numbers, and in every place that shows them."""

import numpy as np
import pytest

from temper.margins.intervals import Estimate, share
from temper.training.config import FinetuneConfig
from temper.training.transfer import Delay, Validation, delay, severity, task


def labels(*counts: int) -> np.ndarray:
    """So many labels of each class."""
    return np.repeat(np.arange(len(counts)), counts)


@pytest.mark.parametrize(
    ("counts", "chance", "passing"),
    [
        ([10] * 100, 0.01, 0.05),  # the paper's tasks: 5 %
        ([10] * 40, 0.025, 0.05),
        ([10] * 20, 0.05, 0.10),
        ([10] * 10, 0.10, 0.20),
        ([10] * 3, 1 / 3, 2 / 3),
        ([10] * 2, 0.50, 0.75),  # twice chance would never be exceeded
        ([90, 10], 0.90, 0.95),
        ([90, *[10] * 91], 0.09, 0.18),  # many classes, a common one: always saying it is above 5 %
    ],
)
def test_what_passes_is_more_than_guessing(counts, chance, passing):
    validation = Validation.of(labels(*counts))
    assert validation.chance == pytest.approx(chance)
    assert validation.passing == pytest.approx(passing)
    assert chance < validation.passing < 1


def test_a_class_without_an_image_is_no_error():
    assert Validation.of(np.array([3, 3, 5])) == Validation(3, 2 / 3)


def test_the_delay_is_the_first_epoch_that_passes():
    found = delay([0.01, 0.05, 0.06, 0.02, 0.5], Validation(100, 0.01))
    assert found.epochs.value == 3  # 5 % itself does not exceed 5 %
    assert not found.censored
    assert found.epochs.n == 100


def test_a_run_that_never_passes_counts_as_its_epochs():
    found = delay([0.01, 0.02, 0.05], Validation(100, 0.01))
    assert found.epochs.value == found.epochs.high == 3
    assert found.censored
    assert "none of 3 epochs above 5.0%" in str(found)


def test_few_images_leave_the_delay_open():
    accuracies = [0.0, 0.02, 0.04, 0.08, 0.16, 0.5]
    few, many = (delay(accuracies, Validation(n, 0.01)).epochs for n in (50, 100_000))
    assert (many.low, many.value, many.high) == (4, 4, 4)
    assert few.low < 4 < few.high
    assert few.value == 4


def test_a_delay_comes_back_from_json():
    found = delay([0.5, 0.9], Validation(10, 0.1))
    assert Delay.from_json(found.to_json()) == found


def test_severity_is_what_standard_fine_tuning_has_more():
    standard, own = share(np.arange(100) < 90), share(np.arange(100) < 60)
    lost = severity(standard, own)
    assert lost.value == pytest.approx(0.3)
    assert 0 < lost.low < 0.3 < lost.high < 0.6
    back = severity(own, standard)
    assert (back.value, back.low, back.high) == pytest.approx((-lost.value, -lost.high, -lost.low))
    assert severity(own, own).low < 0 < severity(own, own).high


def test_the_interval_of_a_severity_covers():
    """At 95 %: two independent accuracies of 0.8 and 0.5 on 60 images each."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        lost = severity(share(rng.random(60) < 0.8), share(rng.random(60) < 0.5))
        held += lost.low <= 0.3 <= lost.high
    assert held >= 375  # of 380 expected at the least; the chance of fewer is below 5 %


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"eps": 4 / 255}, True),
        ({"objective": {"name": "standard"}}, True),
        ({"schedule": {"name": "fixed"}}, True),
        ({"attack": {"name": "pgd"}}, True),
        ({"data": {"workers": 3}}, True),
        ({"epochs": 3}, False),
        ({"seed": 1}, False),
        ({"model": {"image_size": 32}}, False),
        ({"protocol": {"name": "linear"}}, False),
        ({"data": {"train_limit": 100}}, False),
    ],
)
def test_runs_are_compared_that_differ_in_the_defence_alone(change, same):
    one, other = (FinetuneConfig.model_validate(each).model_dump(mode="json") for each in ({}, change))
    assert (task(one) == task(other)) is same


def test_an_estimate_keeps_its_images():
    assert severity(Estimate(0.9, 0.8, 1.0, 50), Estimate(0.5, 0.4, 0.6, 50)).n == 50
