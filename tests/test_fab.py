"""FAB against models whose margins are known, and what it promises about batches, starts and costs."""

import numpy as np
import pytest
import torch
from torch import Tensor

from attack_cases import EVERY_NORM, images_of, keys_of
from linear_models import Linear, linear_case
from temper.attacks.attack import Attack, Model, Problem, State, ask, perturb
from temper.attacks.ball import distance
from temper.attacks.crafting import crafting
from temper.attacks.fab import FABTargeted
from temper.attacks.losses import flipped

pytestmark = pytest.mark.numerical


def advance(attack: Attack, model: Model, state: State, norm: str, steps: int) -> State:
    for _ in range(steps):
        with torch.no_grad():
            attack.update(state, ask(attack, model, state), norm, model)
    return state


def walk(attack: Attack, model: Model, x: Tensor, y: Tensor, norm: str, *, eps=torch.inf, keys=None, target=None):
    """The state after a whole run; the flips in it are flips at the distance it says, the others are ``x``."""
    radius = torch.as_tensor(eps, dtype=x.dtype).expand(len(x))
    state = advance(attack, model, attack.begin(Problem(x, y, radius, norm, keys, target)), norm, attack.steps)
    best, found = state["best"], state["distance"].isfinite()
    with torch.no_grad():
        assert flipped(model(best), y)[found].all()
    assert torch.equal(distance(best - x, norm)[found], state["distance"][found])
    assert torch.equal(best[~found], x[~found])
    assert ((best >= 0) & (best <= 1)).all()
    return state


# --- linear classifiers: exact margins ------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("box", ["far", "near"])
@EVERY_NORM
def test_linear_margins_are_reached_and_never_undercut(classes, box, norm):
    """Where the first two classes lead, each is the nearest to the other."""
    model, x, y = linear_case(classes, box)
    margins = model.margins(x, y, norm)
    with crafting(model):
        found = walk(FABTargeted(20), model, x, y, norm, target=1 - y)["distance"]
    assert (found >= margins * (1 - 1e-6)).all()
    assert (found <= margins * 1.01).all()


@pytest.mark.slow
@pytest.mark.parametrize("box", ["far", "near"])
@EVERY_NORM
def test_among_ten_classes_alike_the_nearest_is_found(box, norm):
    model, x, y = linear_case(10, box, lead=0)
    margins = model.margins(x, y, norm)
    with crafting(model):
        each = [walk(FABTargeted(20), model, x, y, norm, target=(y + other) % 10)["distance"] for other in range(1, 10)]
    assert (torch.stack(each) >= margins * (1 - 1e-6)).all()
    assert (torch.stack(each).amin(0) <= margins * 1.01).all()


@EVERY_NORM
def test_random_starts_end_at_the_same_margin(norm):
    model, x, y = linear_case(2, "far")
    margins = model.margins(x, y, norm)
    with crafting(model):
        state = walk(FABTargeted(20), model, x, y, norm, eps=2 * margins, keys=keys_of(len(x)), target=(y + 1) % 2)
    assert (state["distance"] >= margins * (1 - 1e-6)).all()
    assert (state["distance"] <= margins * 1.05).all()


@EVERY_NORM
def test_where_nothing_flips_the_image_comes_back_at_no_distance(norm):
    """Half of the samples have a class that leads by more than any image can undo."""
    model, x, y = linear_case(2, "near")
    model.bias.data[0] += 1e4
    y = torch.tensor([0, 1] * 6)  # so that every second sample is flipped from the beginning
    with crafting(model):
        state = walk(FABTargeted(5), model, x, y, norm, target=(y + 1) % 2)
    assert (state["distance"][::2] == torch.inf).all()
    assert (state["distance"][1::2] == 0).all()
    assert torch.equal(state["best"], x)


@EVERY_NORM
def test_a_model_without_gradients_or_with_nan_finds_nothing(norm):
    x, y = torch.rand(4, 3, 4, 4), torch.zeros(4, dtype=torch.int64)
    for number in (0.0, torch.nan):

        def model(images: Tensor, number: float = number) -> Tensor:
            logits = images.flatten(1).sum(1, keepdim=True) * torch.tensor([number, 0.0, 0.0])
            return logits + torch.tensor([1.0, 0.0, 0.0])

        assert (walk(FABTargeted(3), model, x, y, norm, target=(y + 1) % 3)["distance"] == torch.inf).all()


# --- networks -------------------------------------------------------------------------------------


# The medians that the authors' code (pyautoattack 0.2.0) reaches in 10 steps on the first 16 CIFAR-10 test images, and
# how many of them it flips: in L1, where overshooting a plane is clipped away at the faces of the box, not all.
AUTHORS = {"Linf": (0.016779, 16), "L2": (0.56141, 16), "L1": (5.6308, 14)}


@pytest.mark.slow
@EVERY_NORM
def test_margins_of_a_real_network_are_as_short_as_those_of_the_authors(network, shared_data, norm):
    model = network("cifar_resnet4b")
    x, _ = images_of(shared_data / "images" / "cifar10_test.npz", 16)
    with crafting(model):
        top = model(x).topk(2, 1).indices
        towards = walk(FABTargeted(10), model, x, top[:, 0], norm, target=top[:, 1])["distance"]
    median, count = AUTHORS[norm]
    assert towards.median() <= median * 1.1
    assert towards.isfinite().sum() >= count


def test_proven_radii_are_never_undercut(network, shared_data):
    model = network("cifar_resnet4b")
    with np.load(shared_data / "proven" / "cifar10_resnet21__resnet_4b.npz") as proven:
        robust = proven["verdict"] == "robust"
        x, y = torch.from_numpy(proven["x"][robust]), torch.from_numpy(proven["label"][robust])
        eps = torch.from_numpy(proven["eps"][robust])
    with crafting(model):
        runner_up = model(x).topk(2, 1).indices[:, 1]
        found = walk(FABTargeted(10), model, x, y, "Linf", target=runner_up)["distance"]
    assert (found >= eps * (1 - 1e-4)).all()
    assert found.isfinite().any()


# --- what does not matter: batches, order, when a row began ----------------------------------------


@EVERY_NORM
def test_results_do_not_depend_on_the_batch(bent, norm):
    model, x, y = bent

    def run(who: list[int]) -> State:
        target = (y[who] + 1) % 5
        return walk(FABTargeted(10), model, x[who], y[who], norm, eps=0.1, keys=keys_of(12)[who], target=target)

    together = run(list(range(12)))
    assert together["distance"].isfinite().sum() >= 10
    for who in ([7, 3, 11, 0, 5], [0], [4], [11]):
        part = run(who)
        for name in ("best", "distance", "query"):
            torch.testing.assert_close(part[name], together[name][who], rtol=0, atol=1e-7)


@EVERY_NORM
def test_rows_may_be_at_different_steps(bent, norm):
    model, x, y = bent
    attack, eps = FABTargeted(9), torch.full((12,), torch.inf, dtype=x.dtype)
    whole = attack.begin(Problem(x, y, eps, norm, target=(y + 1) % 5))
    first, second = ({name: rows[part] for name, rows in whole.items()} for part in (slice(0, 6), slice(6, 12)))
    advance(attack, model, first, norm, 4)
    mixed = {name: torch.cat([first[name], second[name]]) for name in whole}
    advance(attack, model, mixed, norm, 5)
    assert mixed["step"].tolist() == [9] * 6 + [5] * 6
    late = advance(attack, model, {name: rows[6:] for name, rows in mixed.items()}, norm, 4)
    advance(attack, model, whole, norm, 9)
    for name in ("best", "distance", "query"):
        torch.testing.assert_close(torch.cat([mixed[name][:6], late[name]]), whole[name], rtol=0, atol=1e-7)


@EVERY_NORM
def test_an_empty_batch_stays_empty(bent, norm):
    model, x, y = bent
    assert perturb(FABTargeted(2), model, x[:0], y[:0], torch.inf, norm, target=y[:0]).shape == (0, 3, 8, 8)


# --- starts, costs, what is kept --------------------------------------------------------------------


@EVERY_NORM
def test_runs_start_at_the_image_or_within_half_the_radius(bent, norm):
    _, x, y = bent
    eps = torch.linspace(0.01, 0.2, 12, dtype=x.dtype)

    def start(eps: Tensor, keys: Tensor | None) -> Tensor:
        return FABTargeted(5).begin(Problem(x, y, eps, norm, keys, y))["query"]

    assert torch.equal(start(eps, None), x)
    assert torch.equal(start(torch.full_like(eps, torch.inf), keys_of(12)), x)
    moved = start(eps, keys_of(12))
    assert ((moved >= 0) & (moved <= 1)).all()
    assert (distance(moved - x, norm) <= eps / 2 * (1 + 1e-6)).all()
    assert not torch.isclose(start(eps, keys_of(12, 1)), moved).flatten(1).all(1).any()
    mixed = start(torch.where(torch.arange(12) % 2 == 0, eps, torch.inf), keys_of(12))
    assert torch.equal(mixed[::2], moved[::2])
    assert torch.equal(mixed[1::2], x[1::2])


def test_costs_are_as_promised(bent):
    model, x, y = bent
    passes = {"forward": 0, "backward": 0}

    class Counting(torch.autograd.Function):
        @staticmethod
        def forward(ctx, images: Tensor) -> Tensor:
            return images.clone()

        @staticmethod
        def backward(ctx, slope: Tensor) -> Tensor:
            passes["backward"] += 1
            return slope

    def counted(images: Tensor) -> Tensor:
        passes["forward"] += 1
        return model(Counting.apply(images))

    attack = FABTargeted(6)
    perturb(attack, counted, x, y, torch.inf, "L2", target=(y + 1) % 5)
    assert (passes["forward"], passes["backward"]) == attack.passes() == (12, 6)
    assert attack.nearest
    assert attack.targeted


@EVERY_NORM
def test_the_nearest_flip_that_was_seen_is_kept(bent, norm):
    model, x, y = bent
    seen: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        seen.append(images.detach())
        return model(images)

    attack = FABTargeted(8)
    state = attack.begin(Problem(x, y, x.new_full((12,), torch.inf), norm, None, (y + 1) % 5))
    advance(attack, watched, state, norm, 8)
    lengths = torch.stack([distance(images - x, norm).where(flipped(model(images), y), torch.inf) for images in seen])
    assert torch.equal(state["distance"], lengths.amin(0))
    assert torch.isfinite(state["distance"]).sum() > 6


def test_the_steps_towards_a_plane_are_those_of_the_paper():
    """One pixel decides, 0.2 from the plane: overshoot by eta, back by beta, and the bias towards x by alpha."""
    model = Linear(2, 3, 0)
    model.weight.data = torch.tensor([[0.0, 0, 0], [1.0, 0, 0]], dtype=torch.float64)
    model.bias.data = torch.tensor([0.7, 0.0], dtype=torch.float64)
    x, y = torch.full((1, 3), 0.5, dtype=torch.float64), torch.tensor([0])
    attack = FABTargeted(2, alpha_max=0.05, eta=1.2, beta=0.8)
    state = attack.begin(Problem(x, y, torch.tensor([torch.inf]), "L2", None, 1 - y))
    advance(attack, model, state, "L2", 1)
    assert state["distance"].item() == pytest.approx(0.2 * 1.2)
    assert (state["query"] - x)[0, 0].item() == pytest.approx(0.2 * 1.2 * 0.8)
    advance(attack, model, state, "L2", 1)
    left = 0.2 - 0.192
    alpha = min(left / (left + 0.2), 0.05)
    expected = (0.192 + 1.2 * left) * (1 - alpha) + 0.24 * alpha
    assert state["distance"].item() == pytest.approx(expected)
