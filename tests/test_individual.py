"""An epsilon for each sample."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from bench_grid import tiny as tiny_grid
from temper.attacks.losses import cross_entropy
from temper.benchmark.costs import Sizes, cost
from temper.benchmark.grid import cells
from temper.benchmark.spec import read_spec
from temper.core.interrupt import Stopped
from temper.errors import ArgumentError
from temper.runs.finetune import finetune, train_only
from temper.threat import Threat
from temper.training.config import completed, read_config
from temper.training.crafter import Crafter
from temper.training.individual import fall, largest_eps, radii, renewed
from temper.training.passes import of_update
from temper.training.schedules import EpsilonSchedule
from tiny_runs import assert_nearly_same_training, assert_same_weights, config, steps, weights

MARGIN = {"schedule": {"name": "margin", "end": 0.34}, "attack": {"name": "pgd", "steps": 3}}
NORMS = {"norm": "Linf,L1", "eps": "16/255,6"}


def test_a_sample_is_attacked_twice_as_far_as_its_margin_reaches():
    logits = torch.tensor([[4.0, 1.0, 0.0], [4.0, 1.0, 0.0], [4.0, 1.0, 0.0], [1.0, 2.0, 3.0]])
    labels = torch.tensor([0, 1, 2, 2])  # margins 3, -3, -4, 1
    # A slope of 100: margins of .03 and .01 in pixels.
    own = radii(logits, labels, Threat("Linf", 0.04), 48, 100.0)
    assert own.tolist() == pytest.approx([0.06, 0.02, 0.02, 0.02])  # eps / 2 at least
    own = radii(logits, labels, Threat("Linf", 0.02), 48, 100.0)
    assert own.tolist() == pytest.approx([0.04, 0.01, 0.01, 0.02])  # and 2 eps at most
    assert radii(logits, labels, Threat("Linf", 0.04), 48, None).tolist() == pytest.approx([0.04] * 4)


@pytest.mark.parametrize(("norm", "grey"), [("Linf", 0.5), ("L2", 2.0), ("L1", 8.0)])
def test_no_epsilon_comes_near_what_makes_every_image_grey(norm, grey):
    values = 16
    assert largest_eps(Threat(norm, grey / 100), values) == pytest.approx(grey / 50)  # twice that in force
    assert largest_eps(Threat(norm, grey * 0.81), values) == pytest.approx(grey * 0.9)  # half of the way
    assert largest_eps(Threat(norm, grey * 1.1), values) == pytest.approx(grey * 1.1)  # never less than that in force


def test_the_slope_is_what_margins_fell_by_over_how_far_they_were_attacked():
    before, after = torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, -2.0]])
    fallen = fall(before, after, torch.tensor([0, 1]), torch.tensor([0.5, 1.0]))
    assert fallen.tolist() == [2 + 4, 1.5]
    assert renewed({}, {"L2": fallen}) == {"L2": pytest.approx(4.0)}
    assert renewed({"L2": 2.0, "L1": 7.0}, {"L2": fallen}) == {"L2": pytest.approx(0.9 * 2 + 0.1 * 4)}
    assert renewed({"L2": 2.0}, {"L2": torch.tensor([-6.0, 1.5])}) == {}  # what rises has no slope


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_each_sample_is_moved_as_far_as_its_own_epsilon(norm):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4))
    eps = {"Linf": 0.05, "L2": 1.0, "L1": 8.0}[norm]
    threat, settings = Threat(norm, eps), completed(read_config(MARGIN | {"norm": norm, "eps": eps}))
    x, ids = torch.rand(40, 3, 8, 8), torch.arange(40)
    y = network(x).argmax(1)
    y[::4] = (y[::4] + 1) % 4
    slopes: dict[str, float] = {}
    crafter = Crafter(network, [], settings, nullcontext, slopes=slopes)
    far, own = [], torch.full((40,), eps)
    for _ in range(2):
        (attack,) = crafter.attacks([threat], 1, ids)
        moved = attack(x, y, cross_entropy) - x
        far.append(torch.linalg.vector_norm(moved.flatten(1), {"Linf": torch.inf, "L2": 2, "L1": 1}[norm], dim=1))
        assert (far[-1] <= own * (1 + 1e-5) + 1e-6).all()
        assert (far[-1] / own).median() > 0.5
        slopes.update(renewed(slopes, crafter.fallen()))
        assert not crafter.fallen()
        own = radii(network(x).detach(), y, threat, 192, slopes[norm])
    assert len(np.unique(own.numpy().round(6))) > 5
    assert own[::4].numpy() == pytest.approx(eps / 2)  # what is wrong


def test_training_costs_two_looks_at_each_image(tmp_path: Path):
    run = train_only(read_config(config(tmp_path / "run", **MARGIN)))
    assert run.trained is not None
    updates = run.trained.passes
    assert (updates.forward, updates.backward) == (3 * 90 * (1 + 3 + 2), 3 * 90 * (3 + 1))
    means = [row["eps_mean"] / row["eps"] for row in steps(run)]
    assert means[0] == pytest.approx(1)
    assert all(0.5 <= mean <= 2 for mean in means)
    assert len(set(means)) == len(means)


@pytest.mark.parametrize(
    ("norms", "attacks"),
    [
        ({}, 1),
        ({"norm": "Linf,L1", "eps": "4/255,12"}, 1),
        ({"norm": "Linf,L1", "eps": "4/255,12", "attack": {"union": "max"}}, 2),
        ({"norm": "Linf,L1", "eps": "4/255,12", "attack": {"union": "avg"}}, 2),
    ],
)
def test_what_it_costs_is_counted_before(norms, attacks):
    settings = completed(read_config(norms))
    plain, own = (of_update(settings, 1.0, individual=each) for each in (False, True))
    assert (own.forward, own.backward) == (plain.forward + 2 * attacks, plain.backward)
    assert of_update(settings, 0.0, individual=True) == of_update(settings, 0.0)


def test_a_benchmark_plans_with_what_it_costs():
    spec = tiny_grid(schedules={"linear": {"end": 0.25}, "margin": {"end": 0.25}})
    linear, margin = (cost(cell, Sizes(100, 0)) for cell in cells(read_spec(spec)))
    assert margin.train_forward == linear.train_forward + 2 * 100 * 2  # epochs
    assert margin.train_backward == linear.train_backward


def test_where_there_is_no_margin_to_follow_it_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match=r"schedule.name = 'margin': objective fare looks at no label"):
        read_config({"schedule": {"name": "margin"}, "objective": {"name": "fare"}})
    given = {"schedule": {"name": "fixed"}, "objective": {"name": "fare"}, "out": tmp_path / "run"}
    with pytest.raises(ArgumentError, match=r"schedule = 'margin': objective fare looks at no label"):
        finetune(given, schedule=EpsilonSchedule.margin())


def test_the_ramp_is_that_of_linear():
    linear, margin = EpsilonSchedule.linear(0.5), EpsilonSchedule.margin(0.5)
    moments = [epoch / 4 for epoch in range(1, 33)]
    assert [margin.fraction(each, 8) for each in moments] == [linear.fraction(each, 8) for each in moments]
    assert EpsilonSchedule.margin().fraction(2, 8) == 1
    assert margin.individual
    assert not linear.individual


PIECES: dict[str, dict[str, Any]] = {
    "plain": {},
    "awp in parts": {"optimiser": {"awp": 0.02}, "micro_batch": 7},
    "trades": {"objective": {"name": "trades"}},
    "e-at": NORMS,
    "max": NORMS | {"attack": {"name": "pgd", "steps": 3, "union": "max"}},
    "avg": NORMS | {"attack": {"name": "pgd", "steps": 3, "union": "avg"}},
}


@pytest.mark.slow
@pytest.mark.numerical
@pytest.mark.parametrize("piece", PIECES)
def test_stopped_and_resumed_it_ends_bit_identical(piece, tmp_path, monkeypatch):
    whole = train_only(read_config(config(tmp_path / "whole", **MARGIN | PIECES[piece])))
    linear = {"schedule": {"name": "linear", "end": 0.34}}
    same = train_only(read_config(config(tmp_path / "same", **MARGIN | PIECES[piece] | linear)))
    assert any(not torch.equal(value, weights(same)[name]) for name, value in weights(whole).items())
    settings = read_config(config(tmp_path / "run", **MARGIN | PIECES[piece]))
    margin = EpsilonSchedule.margin(0.34)

    def interrupting(epoch: float, epochs: int, validation: Sequence[float]) -> float:
        tiny.interrupting(epoch, epochs)
        return margin.rule(epoch, epochs, validation)

    with monkeypatch.context() as patch:
        patch.setattr("temper.runs.finetune.make_schedule", lambda *_: replace(margin, rule=interrupting))
        with pytest.raises(Stopped, match="--resume continues"):
            train_only(settings)
    resumed = train_only(settings)
    assert_same_weights(resumed, whole)
    assert steps(resumed) == steps(whole)
    assert resumed.trained == whole.trained


@pytest.mark.slow
@pytest.mark.numerical
@pytest.mark.usefixtures("warm_processes")
@pytest.mark.parametrize("piece", PIECES)
def test_two_processes_give_what_one_gives(piece, tmp_path):
    # bf16 rounds the same sums differently in another order, on machines that compute it.
    same = MARGIN | {"model": {"name": "tiny:plain", "image_size": 8}, "epochs": 2, "precision": "fp32"} | PIECES[piece]
    one = train_only(read_config(config(tmp_path / "one", **same)))
    two = train_only(read_config(config(tmp_path / "two", **same, devices=2)))
    assert_nearly_same_training(one, two)
    np.testing.assert_allclose(*([row["eps_mean"] for row in steps(run)] for run in (one, two)), rtol=1e-4)


def test_a_schedule_given_in_python_goes_before_the_configured_one(tmp_path):
    settings = config(tmp_path / "run", epochs=1, **MARGIN)
    run = finetune(settings, schedule=EpsilonSchedule.fixed())
    assert "eps_mean" not in steps(run)[0]
    run = finetune(
        config(tmp_path / "own", epochs=1) | {"schedule": {"name": "fixed"}}, schedule=EpsilonSchedule.margin()
    )
    assert steps(run)[0]["eps_mean"] == pytest.approx(steps(run)[0]["eps"])
