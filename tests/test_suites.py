"""Suites are data: printable, and with AutoAttack's budgets where they say so."""

import json

import pytest
import torch

from temper.attacks.attack import perturb
from temper.attacks.names import SUITE_NAMES
from temper.attacks.pgd import PGD
from temper.attacks.suites import SUITES, Stage, Suite, get_suite
from temper.errors import ArgumentError
from temper.threat import NORMS


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_is_data(name):
    suite = get_suite(name)
    described = json.loads(json.dumps(suite.describe()))
    assert described["name"] == name
    assert [attack["name"] for attack in described["attacks"]] == [stage.name for stage in suite.stages]
    for norm in NORMS:
        names = [stage.name for stage in suite.in_norm(norm).stages]
        assert names
        assert len(set(names)) == len(names)


def test_standard_has_autoattacks_budgets():
    def budgets(norm):
        return {
            stage.name: (stage.attack.runs, stage.attack.steps) for stage in SUITES["standard"].in_norm(norm).stages
        }

    usual = {"apgd-ce": (1, 100), "apgd-t": (9, 100), "fab-t": (9, 100), "square": (1, 5000)}
    assert budgets("Linf") == budgets("L2") == usual
    assert budgets("L1") == usual | {"apgd-ce": (5, 100), "apgd-t": (5, 100)}


def test_only_margin_searches_without_a_radius():
    assert [name for name, suite in SUITES.items() if suite.nearest] == ["margin"]


def test_the_names_that_are_known_without_torch_are_those_of_the_suites():
    assert set(SUITE_NAMES) == set(SUITES)


def test_a_suite_that_is_none_is_refused():
    with pytest.raises(ArgumentError, match="suite = 'strong': choose one of standard, fast, margin, apgd, pgd"):
        get_suite("strong")


class InOneNorm(PGD):
    norms = ("L2",)


def test_an_attack_runs_only_in_norms_that_it_knows():
    """A norm that is new must not be taken for another one by an attack that was written before it."""
    x, y = torch.rand(2, 1, 4, 4), torch.tensor([0, 1])

    def model(images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)

    perturb(InOneNorm(1), model, x, y, 0.1, "L2")
    with pytest.raises(ArgumentError, match="norm = 'L1': InOneNorm runs in L2 alone"):
        perturb(InOneNorm(1), model, x, y, 0.1, "L1")
    suite = Suite("two", (Stage("one", InOneNorm(1)), Stage("all", PGD(1))), closer=Stage("closer", InOneNorm(1)))
    assert [stage.name for stage in suite.in_norm("L1").stages] == ["all"]
    assert suite.in_norm("L1").closer is None
    assert suite.in_norm("L2") == suite
    with pytest.raises(ArgumentError, match="norm = 'L1': no attack of suite narrow runs in it"):
        Suite("narrow", suite.stages[:1]).in_norm("L1")
