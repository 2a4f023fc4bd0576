"""The funnel: short runs towards several classes, long ones from the nearest flips that they found."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from attack_cases import EVERY_NORM, bent_case, keys_of
from linear_models import linear_case
from temper.attacks.attack import Model, Problem, State, ask, learn, perturb
from temper.attacks.ball import distance
from temper.attacks.crafting import crafting
from temper.attacks.engine import AttackEngine
from temper.attacks.fab import FABTargeted
from temper.attacks.fmn import FMN
from temper.attacks.funnel import Funnel, Scout
from temper.attacks.losses import flipped, logit_difference_targeted
from temper.attacks.suites import SUITES, Stage
from temper.attacks.tangent import Tangent
from temper.attacks.work import Work

SMALL = Funnel(classes=3, scouts=(Scout(4), Tangent(4)), strays=(), finishes=(Tangent(6), Scout(6)))


def searched(attack: Funnel, model: Model, x: Tensor, y: Tensor, norm: str, rivals: Tensor) -> tuple[State, Tensor]:
    """The state after a whole run, and every image that was asked about, [Q, N, ...]."""
    unlimited = torch.full((len(x),), torch.inf, dtype=x.dtype)
    state, asked = attack.begin(Problem(x, y, unlimited, norm, rivals=rivals)), []
    for _ in range(attack.queries):
        asked.append(state["query"])
        learn(attack, state, ask(attack, model, state), norm, model)
        assert ((state["query"] >= 0) & (state["query"] <= 1)).all()
    return state, torch.stack(asked)


def rivals_of(model: Model, x: Tensor, y: Tensor) -> Tensor:
    return model(x).scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)[:, :-1]


@EVERY_NORM
def test_the_nearest_of_ten_classes_is_found_in_one_run(norm):
    """Ten classes alike, so that the likeliest is often not the nearest; the exact margin is never undercut."""
    model, x, y = linear_case(10, "far", lead=0)
    margins = model.margins(x, y, norm)
    attack = SUITES["margin"].in_norm(norm).stages[0].attack
    assert isinstance(attack, Funnel)
    with crafting(model):
        state, _ = searched(replace(attack, classes=9), model, x, y, norm, rivals_of(model, x, y))
    assert (state["distance"] >= margins * (1 - 1e-6)).all()
    assert (state["distance"] <= margins * (1.05 if norm == "L1" else 1.01)).all()


@EVERY_NORM
def test_it_keeps_the_nearest_flip_that_it_asked_about(norm):
    model, x, y = bent_case()
    state, asked = searched(SMALL, model, x, y, norm, rivals_of(model, x, y))
    lengths = torch.stack([torch.where(flipped(model(q), y), distance(q - x, norm), torch.inf) for q in asked])
    assert lengths.isfinite().any(0).sum() >= 6
    torch.testing.assert_close(state["distance"], lengths.amin(0))
    found = state["distance"].isfinite()
    assert torch.equal(distance(state["best"] - x, norm)[found], state["distance"][found])
    assert torch.equal(state["best"][~found], x[~found])


@EVERY_NORM
def test_its_runs_are_those_of_the_attacks_it_is_made_of(norm):
    """Short ones towards each class from the image, kind by kind; then long ones from the nearest two flips."""
    model, x, y = bent_case()
    rivals = rivals_of(model, x, y)
    _, asked = searched(SMALL, model, x, y, norm, rivals)
    runs = [(scout, rivals[:, place]) for scout in SMALL.scouts for place in range(3)]
    flips = []
    for place, (scout, target) in enumerate(runs):
        state, alone = single(scout, model, x, y, norm, target, None)
        assert torch.equal(asked[4 * place : 4 * place + 4], alone)
        flips.append((state["distance"], state["best"], target))
    lengths, images, targets = (torch.stack(each) for each in zip(*flips, strict=True))
    order = lengths.sort(dim=0, stable=True).indices
    for place in range(2):
        chosen, every = order[place], torch.arange(len(x))
        begun = lengths[chosen, every], images[chosen, every]
        _, alone = single(SMALL.finishes[place], model, x, y, norm, targets[chosen, every], begun)
        some = begun[0].isfinite()
        assert some.sum() >= 6
        assert torch.equal(asked[24 + 6 * place : 30 + 6 * place][:, some], alone[:, some])


def single(attack, model, x, y, norm, target, begun):
    """A run of one of its attacks alone, from the image or from a flip (its distance, and itself)."""
    unlimited = torch.full((len(x),), torch.inf, dtype=x.dtype)
    state, asked = attack.begin(Problem(x, y, unlimited, norm, target=target)), []
    if begun is not None:
        state["distance"], state["best"], state["query"] = begun[0], begun[1], begun[1]
    for _ in range(attack.queries):
        asked.append(state["query"])
        learn(attack, state, ask(attack, model, state), norm, model)
    return state, torch.stack(asked)


@EVERY_NORM
def test_strays_begin_at_random_points_no_farther_than_the_nearest_flip(norm):
    """Named by the samples' keys; the runs before them begin at the image all the same."""
    model, x, y = bent_case()
    attack, rivals = replace(SMALL, strays=(Scout(4),)), rivals_of(model, x, y)
    unlimited = torch.full((len(x),), torch.inf, dtype=x.dtype)

    def starts(keys):
        state, begun = attack.begin(Problem(x, y, unlimited, norm, keys, rivals=rivals)), []
        for step in range(36):
            if step % 4 == 0:
                begun.append((state["query"], state["held distance"][:, 0]))
            learn(attack, state, ask(attack, model, state), norm, model)
        return begun

    one, again, other, none = (starts(keys) for keys in (keys_of(12), keys_of(12), keys_of(12, 1), None))
    assert all(torch.equal(query, x) for query, _ in one[:6] + none)
    for place in range(6, 9):
        query, nearest = one[place]
        found = nearest.isfinite()
        assert found.sum() >= 6
        assert (distance(query - x, norm) <= nearest * (1 + 1e-6))[found].all()
        assert torch.equal(query[~found], x[~found])
        assert torch.equal(query, again[place][0])
        assert not torch.equal(query, other[place][0])
    assert not torch.equal(one[6][0][found], one[7][0][found])


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_engine_gives_it_as_many_classes_as_there_are(classes):
    """And counts as many passes as it says; a model of 2 classes has one rival."""
    model, x, y = bent_case()
    rivals = rivals_of(model, x, y)[:, : classes - 1]
    engine = AttackEngine(model.float(), [], 16)
    work = Work(x.float(), y, torch.arange(len(x)), rivals)
    unlimited = torch.full((len(x),), torch.inf, dtype=torch.float64)
    done = list(engine.flow(Stage("funnel", SMALL, random_start=False), work, "L2", unlimited, 0))
    few = SMALL.among(classes - 1)
    assert few.steps == 8 * min(classes - 1, 3) + 6 * 2
    assert {each.backward for each in done} == {few.steps}
    assert sum(each.nearest is not None for each in done) >= 4


def test_it_goes_for_one_class_where_one_is_named():
    model, x, y = bent_case()
    target = rivals_of(model, x, y)[:, 0]
    found = perturb(SMALL, model, x, y, float("inf"), "L2", target=target)
    assert flipped(model(found), y).sum() >= 4


def test_long_runs_go_for_the_nearest_classes_where_short_ones_found_no_flip():
    """Short runs of one tiny step flip nothing; what follows starts at the image, and is no search without a class."""
    model, x, y = bent_case()
    rivals = rivals_of(model, x, y)
    still = Funnel(classes=3, scouts=(Scout(1, gamma=1e-9),), strays=(), finishes=(Tangent(6), Scout(6)))
    _, asked = searched(still, model, x, y, "L2", rivals)
    for place, long in enumerate(still.finishes):
        _, alone = single(long, model, x, y, "L2", rivals[:, place], None)
        assert torch.equal(asked[3 + 6 * place : 9 + 6 * place], alone)


def test_its_passes_are_those_of_its_runs():
    fab = Funnel(classes=2, scouts=(FABTargeted(4), Scout(4)), strays=(), finishes=(FABTargeted(6),))
    assert fab.passes() == (2 * (8 + 4) + 12, 2 * 8 + 6)
    assert SMALL.among(1).passes() == (8 + 12, 8 + 12)


def test_steps_as_wide_as_the_ball_reach_across_it_in_any_size():
    """FMN's own step of length 1 hardly moves in a ball of that width, or leaves a small one far behind."""
    x = torch.full((1, 3, 8, 8), 0.5)
    state = {"x": x, "step": torch.zeros(1), "radius": torch.tensor([0.1])}
    assert Scout(10).lengths(state, "L2") == pytest.approx(0.1)
    assert Scout(10).lengths(state, "Linf") == pytest.approx(0.1 * 192**0.5)
    assert Scout(10).lengths(state | {"radius": torch.tensor([torch.inf])}, "L1") == pytest.approx(192**0.5)
    assert FMN(10, climbs=logit_difference_targeted).lengths(state, "L2") == 1.0
