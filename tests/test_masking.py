"""Masked gradients: signs are seen sample by sample, and what they cost is spent there alone."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from temper.attacks.square import Square
from temper.attacks.suites import SUITES, TARGETS
from temper.attacks.work import Note
from temper.errors import TemperWarning
from temper.evaluation import search
from temper.evaluation.measurement import measure
from temper.evaluation.samples import from_arrays
from temper.threat import Threat

pytestmark = pytest.mark.numerical

EPS = [Threat("Linf", 0.06)]
FAST = SUITES["fast"]
SHALLOW = replace(FAST, stages=FAST.first)
# As FAST with a shorter random search: these tests look at who gets it, not at how strong it is.
RANDOM = next(stage for stage in FAST.stages if stage.name == "square-5000")
QUICK = replace(FAST, stages=(*FAST.first, replace(RANDOM, attack=Square(600))))


class Net(nn.Module):
    """Two convolutions; pixels may be rounded to so many levels, and only above a brightness of the first pixel."""

    def __init__(self, levels: int = 0, above: float = -1.0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Flatten())
            self.head = nn.Linear(128, 5)
        self.levels, self.above = levels, above

    def forward(self, x: Tensor) -> Tensor:
        if self.levels:
            coarse = (x * self.levels).round() / self.levels
            x = torch.where(x[:, :1, :1, :1] > self.above, coarse, x)
        return self.head(self.net(x))


def samples(net: nn.Module, count: int = 48):
    x = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    x[:, :, 0, 0] = (torch.arange(count) % 2)[:, None].float()  # far from any brightness between
    with torch.no_grad():
        return from_arrays(x, net(x).argmax(1))


def frame(net: nn.Module, suite, **options):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", TemperWarning)
        done = measure(net, options.pop("given", None) or samples(net), EPS, suite, 0, **options)
    return done.table.frame, [str(each.message) for each in told]


def noted(rise=1.0, still=-5.0, moved=-5.0, blind=-9.0, radius=0.1):
    """Findings on one sample, 10 from a flip, that withstood the first attacks with these notes."""
    found = search.Findings(FAST.in_norm("Linf"), np.array([7]), np.full((1, 9), 10.0), "Linf")
    found.add(search.Outcome(7, TARGETS, np.inf, np.inf, 1, 9, Note(targets=tuple(range(9)))))
    for stage, leads, own, at in (
        ("apgd-ce", (-9.0,), 1.0, 0.1),
        ("apgd-t", (still,), 1.0, 0.1),
        ("apgd-t-2", (moved,), rise, 0.1),
        ("square", (blind,), 1.0, radius),
    ):
        found.add(search.Outcome(7, stage, at, np.inf, 1, 1, Note(leads, own)))
    return found


@pytest.mark.parametrize(
    ("notes", "shown"),
    [
        ({}, set()),
        ({"rise": 0.0}, {"flat"}),
        ({"rise": 0.6}, set()),  # faint, and
        ({"rise": -0.5}, set()),  # faint however far it is off: a curved boundary shows the same
        ({"rise": 40.0}, set()),
        ({"still": -5.5}, set()),
        ({"blind": -6.0}, set()),
        ({"still": -7.0}, {"starts"}),
        ({"blind": -4.0}, {"blind"}),
        ({"blind": -4.0, "radius": 0.05}, set()),  # of another radius
        ({"blind": -8.0}, set()),
        ({"rise": 0.6, "still": -5.5}, {"slope", "starts"}),
        ({"rise": 0.6, "blind": -8.0}, {"slope", "blind"}),
        ({"rise": 0.6, "blind": -8.6}, set()),  # short of .3 of the way that gradients came
        ({"rise": 1.4, "blind": -6.0}, {"slope", "blind"}),
    ],
)
def test_a_clear_sign_counts_and_so_do_two_faint_ones(notes, shown):
    found = noted(**notes)
    assert {sign for sign, samples in found.signs().items() if samples[0]} == shown
    assert found.masked()[0] == bool(shown)
    assert found.survived()[0] == (0 if shown else min(0.1, notes.get("radius", 0.1)))  # deeper attacks are to come


def test_what_a_table_adds_leaves_the_signs_that_were_noted():
    found = noted(rise=0.001, blind=-8.0)
    row = {"sample": [7], "upper": [np.inf], "survived": [0.1], "attack": [""], "forward": [90], "backward": [70]}
    for outcome in list(found.missing(pd.DataFrame(row), [0.1])):
        found.add(outcome)
    assert found.signs()["slope"][0]
    assert found.survived()[0] == 0.1
    assert (found.forward[0], found.backward[0]) == (90, 70)
    assert list(found.missing(pd.DataFrame(row), [0.1])) == []


@pytest.mark.parametrize(
    ("notes", "wanted"),
    [
        ({"still": -2.1, "moved": -2.1}, set()),
        ({"still": -1.9, "moved": -1.9}, {"near"}),
        ({"still": -0.7, "moved": -0.7}, {"near"}),
        ({"still": -0.3, "moved": -0.3}, {"near", "edge"}),
        ({"rise": 0.5, "blind": -8.0}, {"near", "edge", "masked"}),
        ({"rise": 0.0}, {"near", "edge", "masked", "flat"}),
    ],
)
def test_the_nearer_a_flip_and_the_worse_the_gradients_the_more_attacks(notes, wanted):
    found = noted(**notes).wanted()
    assert {stage.on for stage in FAST.stages if found[stage.name][0]} == {"all", "whole", *wanted}


@pytest.mark.parametrize(
    ("upper", "wanted"),
    [(0.12, set()), (0.105, {"near"}), (0.1005, {"near", "edge"})],
)
def test_where_a_flip_outside_is_known_its_distance_decides_too(upper, wanted):
    found = noted(still=-0.1, moved=-0.1)
    found.add(search.Outcome(7, "tangent", np.inf, upper))
    own = found.wanted()
    assert {stage.on for stage in FAST.stages if own[stage.name][0]} == {"all", *wanted}
    assert not own["square"][0]  # gradients have flipped it


@pytest.mark.slow
def test_what_gradients_do_not_see_is_found_where_they_are_masked():
    shallow, deep = (frame(Net(3), suite)[0] for suite in (SHALLOW, QUICK))
    assert (deep["upper"] <= shallow["upper"]).all()
    found = np.isfinite(deep["upper"]) & np.isinf(shallow["upper"])
    assert found.any()
    assert set(deep["attack"][found]) == {"square-5000"}


@pytest.mark.slow
def test_a_network_without_signs_pays_only_where_it_comes_near_a_flip():
    near = tuple(stage for stage in FAST.stages if stage.on in ("near", "edge"))
    frames = [frame(Net(), suite) for suite in (SHALLOW, replace(FAST, stages=(*FAST.first, *near)), FAST)]
    (shallow, _), (nearer, _), (deep, told) = frames
    assert np.isinf(shallow["upper"]).sum() > 5
    for column in ("upper", "forward", "backward"):
        assert nearer[column].tolist() == deep[column].tolist()
    assert (shallow["forward"] == deep["forward"]).mean() > 0.8
    assert not [each for each in told if "signs of masked" in each]


@pytest.mark.slow
def test_one_that_came_near_a_flip_is_searched_from_more_starts():
    net = Net()
    deep, shallow = (frame(net, suite)[0] for suite in (FAST, SHALLOW))
    more = deep["forward"] > shallow["forward"]
    assert more.any()
    assert (shallow["upper"][more] == np.inf).all()
    assert (deep["upper"] <= shallow["upper"]).all()


@pytest.mark.slow
def test_samples_are_judged_one_by_one_and_counted_in_the_warning():
    net = Net(6, above=0.5)
    deep, told = frame(net, QUICK)
    shallow, _ = frame(net, SHALLOW)
    more = (deep["forward"] > shallow["forward"]).to_numpy()
    assert more[1::2].any()
    assert not more[::2].any()  # their gradients are as they should be
    (warning,) = (each for each in told if "signs of masked" in each)
    assert f"on {more.sum()} of " in warning
    assert f"the loss has no gradient ({more.sum()})" in warning


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 64])
def test_the_decision_depends_on_the_sample_alone(size):
    net = Net(6, above=0.5)
    whole, _ = frame(net, QUICK)
    part, _ = frame(net, QUICK, given=samples(net).take([5, 6, 11, 21, 40]), batch_size=size)
    picked = whole.set_index("sample").loc[part["sample"]].reset_index()
    for column in ("upper", "survived", "attack", "forward", "backward"):
        assert picked[column].tolist() == part[column].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("stopped_after", [30, 80, 110])
def test_signs_outlive_an_interruption(tmp_path, monkeypatch, stopped_after):
    net = Net(6, above=0.5)
    whole, told = frame(net, QUICK)
    real, count = search.Findings.add, 0

    class KilledError(Exception):
        pass

    def add(self, outcome):
        nonlocal count
        count += 1
        if count > stopped_after:
            raise KilledError
        real(self, outcome)

    monkeypatch.setattr(search.Findings, "add", add)
    with pytest.raises(KilledError):
        frame(net, QUICK, journal=tmp_path)
    monkeypatch.setattr(search.Findings, "add", real)
    again, repeated = frame(net, QUICK, journal=tmp_path)
    assert again.equals(whole)
    assert [each for each in repeated if "signs" in each] == [each for each in told if "signs" in each]
