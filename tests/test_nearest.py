"""FMN and Tangent, attacks for the nearest flip: against models whose margins are known, and on real networks."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attack_cases import EVERY_NORM, images_of, keys_of
from linear_models import linear_case
from temper.attacks.attack import Attack, Model, Problem, State, ask, perturb
from temper.attacks.ball import distance, rows
from temper.attacks.crafting import crafting
from temper.attacks.fmn import FMN
from temper.attacks.losses import flipped, logit_difference, logit_difference_targeted
from temper.attacks.tangent import PATIENCE, Tangent

pytestmark = pytest.mark.numerical

ATTACKS = {"fmn": FMN(60, climbs=logit_difference_targeted), "tangent": Tangent(30)}
BOTH = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())


def untargeted(attack: Attack) -> Attack:
    return replace(attack, climbs=logit_difference)


def search(attack: Attack, model: Model, x: Tensor, y: Tensor, norm: str, *, target=None, keys=None) -> State:
    """The state after a whole run, in which the flips are what it says, the others are ``x``, and all is in the box."""
    limit = torch.full((len(x),), torch.inf, dtype=x.dtype)
    state = attack.begin(Problem(x, y, limit, norm, keys, target))
    for _ in range(attack.queries):
        attack.update(state, ask(attack, model, state), norm, model)
        assert ((state["query"] >= 0) & (state["query"] <= 1)).all()
    best, found = state["best"], state["distance"].isfinite()
    with torch.no_grad():
        assert flipped(model(best), y)[found].all()
    assert torch.equal(distance(best - x, norm)[found], state["distance"][found])
    assert torch.equal(best[~found], x[~found])
    return state


def polished(model: nn.Module, x: Tensor, y: Tensor, best: Tensor, norm: str) -> Tensor:
    """Distances of the flips nearest to ``x`` on the segments from there: what the engine makes of a result."""
    low, high = torch.zeros(len(x), dtype=x.dtype), torch.ones(len(x), dtype=x.dtype)
    for _ in range(12):
        middle = (low + high) / 2
        flips = flipped(model(x + rows(middle, x) * (best - x)), y)
        low, high = torch.where(flips, low, middle), torch.where(flips, middle, high)
    return distance(best - x, norm) * high


# --- linear classifiers: exact margins ------------------------------------------------------------

# How far above the exact margin a flip may lie. Steps along the gradient only approach the corner of an L1 ball.
ENOUGH = {"Linf": 1.01, "L2": 1.01, "L1": 1.05}


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("box", ["far", "near"])
@EVERY_NORM
@pytest.mark.parametrize("name", ATTACKS)
def test_linear_margins_are_reached_and_never_undercut(name, norm, box, classes):
    """Where the first two classes lead, each is the nearest to the other."""
    model, x, y = linear_case(classes, box)
    margins = model.margins(x, y, norm)
    with crafting(model):
        found = search(ATTACKS[name], model, x, y, norm, target=1 - y)["distance"]
    assert (found >= margins * (1 - 1e-6)).all()
    assert (found <= margins * ENOUGH[norm]).all()


@pytest.mark.slow
@EVERY_NORM
@BOTH
def test_the_nearest_of_ten_classes_is_found_by_trying_all(attack, norm):
    """Ten classes alike: no search undercuts the margin, and the best of nine reaches it."""
    model, x, y = linear_case(10, "far", lead=0)
    margins = model.margins(x, y, norm)
    with crafting(model):
        each = [search(attack, model, x, y, norm, target=(y + shift) % 10)["distance"] for shift in range(1, 10)]
        anywhere = search(untargeted(attack), model, x, y, norm)["distance"]
    nearest = torch.stack(each).amin(0)
    assert (torch.minimum(nearest, anywhere) >= margins * (1 - 1e-6)).all()
    assert (nearest <= margins * 1.05).all()
    assert anywhere.isfinite().all()


@pytest.mark.slow
@EVERY_NORM
@BOTH
def test_the_scale_of_the_logits_does_not_matter(attack, norm):
    """Logits a billion times smaller, as gradients of a confident model are, give the same images."""
    model, x, y = linear_case(2, "near")
    expected = search(attack, model, x, y, norm, target=1 - y)["best"]
    model.weight.data *= 1e-9
    model.bias.data *= 1e-9
    found = search(attack, model, x, y, norm, target=1 - y)["best"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


# --- boundaries that bend -------------------------------------------------------------------------


class Ring(nn.Module):
    """Class 1 outside a ball around the middle of the box: its margins are radius minus distance from there, in L2,
    and planes through its tangent points lie wholly on the near side."""

    def forward(self, x: Tensor) -> Tensor:
        beyond = distance(x - 0.5, "L2") ** 2 - 4.0
        return torch.stack([-beyond, beyond], 1)


@BOTH
def test_a_boundary_that_bends_towards_the_image_is_followed(attack):
    """The nearest point lies along the radius; started from the middle's side, no step lands there by itself."""
    x = 0.5 + 0.02 * torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.zeros(6, dtype=torch.int64)
    margins = 2.0 - distance(x - 0.5, "L2")
    found = search(attack, Ring(), x, y, "L2", target=1 - y)["distance"]
    assert (found >= margins * (1 - 1e-9)).all()
    assert (found <= margins * 1.02).all()


class Staircase(nn.Module):
    """Flips only where the mean pixel has risen by 0.3; on the way there the slope promises a boundary much nearer."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        climbed = torch.tanh(8 * (mean - 0.2)) - torch.tanh(torch.tensor(2.4, dtype=x.dtype))
        return torch.stack([-climbed, climbed], 1)


@EVERY_NORM
def test_tangent_finds_a_boundary_that_recedes(norm):
    x = torch.full((3, 1, 6, 6), 0.2, dtype=torch.float64)
    y = torch.zeros(3, dtype=torch.int64)
    found = search(Tangent(30), Staircase(), x, y, norm, target=1 - y)["distance"]
    margin = 0.3 * {"Linf": 1, "L2": 6, "L1": 36}[norm]
    assert (found >= margin * (1 - 1e-9)).all()
    assert (found <= margin * 1.02).all()


@pytest.mark.slow
@EVERY_NORM
@BOTH
def test_nothing_is_found_where_nothing_flips(attack, norm):
    """A constant model, which has no gradient either, and one whose first class always leads."""
    x, y = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(4, dtype=torch.int64)

    def constant(images: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]) + 0 * images.flatten(1)[:, :2]

    def safe(images: Tensor) -> Tensor:
        return torch.stack([images.flatten(1).sum(1) + 1, -images.flatten(1).sum(1)], 1)

    for model in (constant, safe):
        state = search(attack, model, x, y, norm, target=1 - y)
        assert state["distance"].isinf().all()
        assert torch.equal(perturb(attack, model, x, y, torch.inf, norm, target=1 - y), x)


# --- networks -------------------------------------------------------------------------------------

# Mean distances of the flips that FAB finds in 9 x 100 targeted steps (pyautoattack 0.2.0) on the first 32 test images
# that are classified correctly.
FAB_900 = {
    ("cifar_cnn_a_adv", "Linf"): 0.01788,
    ("cifar_cnn_a_adv", "L2"): 0.5647,
    ("cifar_cnn_a_adv", "L1"): 5.625,
    ("mnist_smallcnn_trades", "Linf"): 0.3393,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norm"), FAB_900)
def test_tangent_is_as_near_as_fab_with_ten_times_the_passes(network, shared_data, name, norm):
    """On a network whose gradients are easy, and on one that masks them."""
    model = network(name)
    x, y = images_of(shared_data / "images" / f"{name.split('_')[0]}_test.npz".replace("cifar_", "cifar10_"), 96)
    with crafting(model), torch.no_grad():
        logits = model(x)
        chosen = torch.nonzero(logits.argmax(1) == y).flatten()[:32]
        x, y, rivals = x[chosen], y[chosen], logits[chosen].scatter(1, y[chosen, None], -torch.inf).argsort(1).flip(1)
        found = [
            polished(model, x, y, search(Tangent(30), model, x, y, norm, target=rivals[:, run])["best"], norm)
            for run in range(3)
        ]
    assert torch.stack(found).amin(0).mean() <= 1.01 * FAB_900[name, norm]


# --- what does not matter, and what does ----------------------------------------------------------


@pytest.mark.slow
@EVERY_NORM
@BOTH
def test_results_do_not_depend_on_the_batch(bent, attack, norm):
    model, x, y = bent
    target = (y + 1) % 5

    def run(who: list[int]) -> Tensor:
        return search(attack, model, x[who], y[who], norm, target=target[who])["best"]

    together = run(list(range(12)))
    assert flipped(model(together), y).any()
    for who in ([7, 3, 11, 0, 5], [4]):
        assert torch.equal(run(who), together[who])


@EVERY_NORM
@BOTH
def test_keys_are_other_starts_close_to_the_image(bent, attack, norm):
    model, x, y = bent

    def start(keys: Tensor | None) -> Tensor:
        return attack.begin(Problem(x, y, torch.full((12,), torch.inf), norm, keys, y))["query"]

    assert torch.equal(start(None), x)
    first, second = start(keys_of(12, 0)), start(keys_of(12, 1))
    assert not torch.isclose(first, second).flatten(1).all(1).any()
    assert (distance(first - x, "Linf") <= 1 / 255 + 1e-9).all()
    search(untargeted(attack), model, x, y, norm, keys=keys_of(12))


@BOTH
def test_costs_are_as_promised(bent, attack):
    model, x, y = bent
    passes = []

    def counted(images: Tensor) -> Tensor:
        passes.append(images.requires_grad)
        return model(images)

    perturb(attack, counted, x, y, torch.inf, "Linf", target=(y + 1) % 5)
    assert (len(passes), sum(passes)) == attack.passes() == (attack.steps, attack.steps)
    assert attack.targeted
    assert not untargeted(attack).targeted


def test_an_image_that_is_flipped_already_is_its_own_nearest_flip(bent):
    model, x, y = bent
    state = search(Tangent(PATIENCE), model, x, (y + 1) % 5, "L2", target=y)
    assert (state["distance"] == 0).all()
