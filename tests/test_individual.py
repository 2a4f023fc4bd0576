"""An epsilon for each sample."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from temper.attacks.losses import cross_entropy
from temper.errors import ArgumentError
from temper.runs.finetune import train_only
from temper.threat import Threat
from temper.training.config import FinetuneConfig, completed, read_config
from temper.training.crafter import Crafter
from temper.training.individual import fall, radii, renewed
from temper.training.passes import of_update
from tiny_runs import config, steps

INDIVIDUAL = {"schedule": {"name": "fixed", "individual": True}, "attack": {"name": "pgd", "steps": 3}}


def test_a_sample_is_attacked_twice_as_far_as_its_margin_reaches():
    logits = torch.tensor([[4.0, 1.0, 0.0], [4.0, 1.0, 0.0], [4.0, 1.0, 0.0], [1.0, 2.0, 3.0]])
    labels = torch.tensor([0, 1, 2, 2])  # margins 3, -3, -4, 1
    # A slope of 100: margins of .03 and .01 in pixels.
    assert radii(logits, labels, 0.04, 100.0).tolist() == pytest.approx([0.06, 0.02, 0.02, 0.02])  # eps / 2 at least
    assert radii(logits, labels, 0.02, 100.0).tolist() == pytest.approx([0.04, 0.01, 0.01, 0.02])  # and 2 eps at most
    assert radii(logits, labels, 0.04, None).tolist() == pytest.approx([0.04] * 4)


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
    threat, settings = Threat(norm, eps), completed(read_config(INDIVIDUAL | {"norm": norm, "eps": eps}))
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
        own = radii(network(x).detach(), y, eps, slopes[norm])
    assert len(np.unique(own.numpy().round(6))) > 5
    assert own[::4].numpy() == pytest.approx(eps / 2)  # what is wrong


def test_training_costs_two_looks_at_each_image(tmp_path: Path):
    run = train_only(read_config(config(tmp_path / "run", **INDIVIDUAL)))
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
    plain, own = (completed(read_config(norms | {"schedule": {"individual": each}})) for each in (False, True))
    assert of_update(own, 1.0).forward == of_update(plain, 1.0).forward + 2 * attacks
    assert of_update(own, 1.0).backward == of_update(plain, 1.0).backward
    assert of_update(own, 0.0) == of_update(plain, 0.0)


def test_a_configuration_of_before_is_written_as_before():
    assert "individual" not in FinetuneConfig().model_dump()["schedule"]


def test_where_there_is_no_margin_to_follow_it_is_refused():
    with pytest.raises(ArgumentError, match=r"schedule.individual = True: objective fare looks at no label"):
        read_config({"schedule": {"individual": True}, "objective": {"name": "fare"}})
