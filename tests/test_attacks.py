"""PGD and APGD against models whose margins are known, and what they promise about batches, radii and costs."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attack_cases import EPS, EVERY_NORM, images_of, keys_of
from linear_models import DUAL, linear_case
from temper.attacks.apgd import APGD, L1_START, checkpoints
from temper.attacks.attack import Problem, ask, learn, perturb
from temper.attacks.ball import distance, project, random_point, steepest_step
from temper.attacks.crafting import crafting
from temper.attacks.fab import FABTargeted
from temper.attacks.fmn import FMN
from temper.attacks.losses import (
    cross_entropy,
    flipped,
    kl_divergence,
)
from temper.attacks.pgd import PGD
from temper.attacks.square import Square
from temper.attacks.tangent import Tangent
from temper.errors import ArgumentError

pytestmark = pytest.mark.numerical


def pgd(model, x, y, eps, norm, *, steps, keys, step_size=None, loss=cross_entropy, keep_flips=False) -> Tensor:
    attack = PGD(steps, step_size=step_size, climbs=loss)
    return perturb(attack, model, x, y, eps, norm, keys=keys, keep_flips=keep_flips)


def apgd(model, x, y, eps, norm, *, steps, keys, loss=cross_entropy, keep_flips=False) -> Tensor:
    return perturb(APGD(steps, climbs=loss), model, x, y, eps, norm, keys=keys, keep_flips=keep_flips)


ATTACKS = pytest.mark.parametrize("attack", [pgd, apgd])


# --- linear classifiers: exact margins ------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 1000])
@EVERY_NORM
def test_margins_far_from_the_box_are_the_dual_norms(classes, norm):
    """The oracle itself: gap / dual norm of the weights, from the textbook."""
    model, x, y = linear_case(classes, "far")
    weight, logits = model.weight.detach(), model(x).detach()
    expected = [
        min(
            ((logits[i, c] - logits[i, k]) / torch.linalg.vector_norm(weight[k] - weight[c], DUAL[norm])).item()
            for k in range(classes)
            if k != c
        )
        for i, c in enumerate(y.tolist()[:4])
    ]
    np.testing.assert_allclose(model.margins(x[:4], y[:4], norm), expected, rtol=1e-4)


# How far above the exact margin an attack of 50 steps must succeed. PGD's fixed step leaves part of a random start
# in L2, and in L1 it moves the largest 1 % of the coordinates alike where moving the largest alone would be best.
ENOUGH = {
    ("pgd", "Linf"): 1.01,
    ("pgd", "L2"): 1.05,
    ("pgd", "L1"): 1.5,
    ("pgd", "L1", "near"): 4.0,  # pixels at the faces of the box take part of the steps; without within_box, for good
    ("apgd", "Linf"): 1.01,
    ("apgd", "L2"): 1.03,
    ("apgd", "L1"): 1.3,
}


@pytest.mark.parametrize("classes", [2, 1000])
@pytest.mark.parametrize("box", ["far", "near"])
@EVERY_NORM
@ATTACKS
def test_linear_classifiers_flip_just_above_their_margin_and_never_below(attack, norm, box, classes):
    model, x, y = linear_case(classes, box)
    margins = model.margins(x, y, norm)
    enough = ENOUGH.get((attack.__name__, norm, box), ENOUGH[attack.__name__, norm])
    for share, expected in ((0.999, False), (enough, True)):
        eps = margins * share
        with crafting(model):
            moved = attack(model, x, y, eps, norm, steps=50, keys=keys_of(len(x)), keep_flips=True)
        assert ((moved >= 0) & (moved <= 1)).all()
        assert (distance((moved - x).double(), norm) <= eps * (1 + 1e-6) + 1e-6).all()
        assert (flipped(model(moved), y) == expected).all()


@pytest.mark.parametrize("box", ["far", "near"])
@EVERY_NORM
@ATTACKS
def test_no_class_is_reached_below_the_margin(attack, norm, box):
    """Ten classes alike; a random start and 2 steps as well as many."""
    model, x, y = linear_case(10, box, lead=0)
    assert len(y.unique()) > 3
    for steps in (2, 30):
        eps = model.margins(x, y, norm) * 0.999
        moved = attack(model, x, y, eps, norm, steps=steps, keys=keys_of(len(x)), keep_flips=True)
        assert not flipped(model(moved), y).any()


# --- networks -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("name", "eps"), [("resnet20", 1 / 255), ("cifar_resnet4b", 2 / 255)])
def test_apgd_is_as_strong_as_pgd(network, shared_data, name, eps):
    model = network(name)
    x, y = images_of(shared_data / "images" / "cifar10_test.npz", 64)
    with crafting(model):
        broken, losses = {}, {}
        for attack in (pgd, apgd):
            logits = model(attack(model, x, y, eps, "Linf", steps=10, keys=keys_of(64)))
            broken[attack], losses[attack] = int(flipped(logits, y).sum()), cross_entropy(logits, y).mean()
        clean = int(flipped(model(x), y).sum())
    assert clean + 5 < broken[pgd] <= broken[apgd] + 1  # one image may go either way
    assert losses[apgd] > 0.98 * losses[pgd]


@pytest.mark.slow
def test_proven_samples_are_never_broken(network, shared_data):
    model = network("cifar_resnet4b")
    with np.load(shared_data / "proven" / "cifar10_resnet21__resnet_4b.npz") as proven:
        robust = proven["verdict"] == "robust"
        x, y = torch.from_numpy(proven["x"][robust]), torch.from_numpy(proven["label"][robust])
        eps = torch.from_numpy(proven["eps"][robust]) * (1 - 1e-4)
    assert len(x) >= 10
    with crafting(model):
        assert not flipped(model(x), y).any()
        for attack in (pgd, apgd):
            for seed in range(3):
                moved = attack(model, x, y, eps, "Linf", steps=20, keys=keys_of(len(x), seed), keep_flips=True)
                assert not flipped(model(moved), y).any()


# --- what does not matter: batches, order, scale --------------------------------------------------


@pytest.mark.parametrize("keep_flips", [False, True])
@EVERY_NORM
@ATTACKS
def test_results_do_not_depend_on_the_batch(bent, attack, norm, keep_flips):
    model, x, y = bent
    keys = keys_of(len(x))

    def run(who: list[int]) -> Tensor:
        return attack(model, x[who], y[who], EPS[norm], norm, steps=12, keys=keys[who], keep_flips=keep_flips)

    together = run(list(range(12)))
    assert 0 < flipped(model(together), y).sum() < 12
    shuffled = [7, 3, 11, 0, 5]
    torch.testing.assert_close(run(shuffled), together[shuffled], rtol=0, atol=1e-7)
    for i in (0, 4, 11):
        torch.testing.assert_close(run([i]), together[[i]], rtol=0, atol=1e-7)


@EVERY_NORM
@ATTACKS
def test_a_radius_per_sample_is_each_samples_own(bent, attack, norm):
    model, x, y = bent
    eps = EPS[norm] * torch.linspace(0, 2, len(x), dtype=torch.float64)
    together = attack(model, x, y, eps, norm, steps=8, keys=keys_of(len(x)))
    for i, radius in enumerate(eps.tolist()):
        one = slice(i, i + 1)
        alone = attack(model, x[one], y[one], radius, norm, steps=8, keys=keys_of(len(x))[one])
        torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-7)
    assert torch.equal(together[0], x[0])


@EVERY_NORM
@ATTACKS
def test_other_keys_are_other_starts_and_no_keys_start_at_the_image(bent, attack, norm):
    model, x, y = bent
    seen: list[Tensor] = []

    def run(keys: Tensor | None) -> Tensor:
        seen.clear()

        def watched(images: Tensor) -> Tensor:
            seen.append(images.detach())
            return model(images)

        attack(watched, x, y, EPS[norm], norm, steps=2, keys=keys)
        return seen[0]

    assert torch.equal(run(None), x)
    first = run(keys_of(12, 0))
    assert torch.equal(run(keys_of(12, 0)), first)
    assert not torch.isclose(run(keys_of(12, 1)), first).flatten(1).all(1).any()


@ATTACKS
def test_global_generators_are_untouched(bent, attack):
    model, x, y = bent
    state = torch.get_rng_state()
    attack(model, x, y, 0.1, "L2", steps=2, keys=keys_of(12))
    assert torch.equal(torch.get_rng_state(), state)


@EVERY_NORM
@ATTACKS
def test_an_empty_batch_stays_empty(bent, attack, norm):
    model, x, y = bent
    moved = attack(model, x[:0], y[:0], 0.1, norm, steps=3, keys=keys_of(0), keep_flips=True)
    assert moved.shape == (0, 3, 8, 8)


# --- steps ----------------------------------------------------------------------------------------


def iterates(attack: Callable[..., Tensor], model: nn.Module, x: Tensor, y: Tensor, *args, **options):
    """Every image batch that an attack shows the model, and what it returns."""
    seen: list[Tensor] = []

    def watched(images: Tensor) -> Tensor:
        seen.append(images.detach())
        return model(images)

    return seen, attack(watched, x, y, *args, **options)


@EVERY_NORM
def test_steps_scale_with_the_radius(norm):
    """On a linear model far from the box, iterates at twice the radius are twice as far."""
    model, x, y = linear_case(2, "far")
    for attack, options in ((pgd, {}), (pgd, {"step_size": 0.3}), (apgd, {})):
        seen, _ = iterates(attack, model, x, y, 0.001, norm, steps=5, keys=None, **options)
        wide, _ = iterates(attack, model, x, y, 0.002, norm, steps=5, keys=None, **options)
        for near, far in zip(seen, wide, strict=True):
            torch.testing.assert_close(far - x, 2 * (near - x), rtol=0, atol=1e-6)
        length = {"apgd": 1.0}.get(attack.__name__, options.get("step_size", 2.5 / 5))
        torch.testing.assert_close(
            distance(seen[1] - x, norm), torch.full((len(x),), 0.001 * length, dtype=x.dtype), rtol=2e-2, atol=1e-6
        )


@ATTACKS
def test_costs_are_as_promised(bent, attack):
    model, x, y = bent
    passes = []

    def counted(images: Tensor) -> Tensor:
        passes.append(images.requires_grad)
        return model(images)

    attack(counted, x, y, 0.001, "Linf", steps=6, keys=None)
    assert (sum(passes), len(passes)) == {"pgd": (6, 6), "apgd": (6, 7)}[attack.__name__]


@EVERY_NORM
@ATTACKS
def test_a_flip_that_was_seen_is_returned(bent, attack, norm):
    model, x, y = bent
    options = {"step_size": 1.5} if attack is pgd else {}  # long steps leave the flipped region again
    seen, kept = iterates(attack, model, x, y, EPS[norm], norm, steps=20, keys=keys_of(12), keep_flips=True, **options)
    flips = torch.stack([flipped(model(images), y) for images in seen])
    assert 0 < flips.any(0).sum() < 12
    for i in torch.nonzero(flips.any(0)).flatten().tolist():
        assert torch.equal(kept[i], seen[int(flips[:, i].int().argmax())][i])


@EVERY_NORM
def test_apgd_returns_the_highest_loss_and_pgd_the_last_iterate(bent, norm):
    model, x, y = bent
    seen, best = iterates(apgd, model, x, y, EPS[norm], norm, steps=15, keys=keys_of(12))
    losses = torch.stack([cross_entropy(model(images), y) for images in seen])
    assert torch.equal(cross_entropy(model(best), y), losses.amax(0))
    # One step more shows the model what one step less returned.
    seen, _ = iterates(pgd, model, x, y, EPS[norm], norm, steps=6, keys=None, step_size=0.2)
    last = pgd(model, x, y, EPS[norm], norm, steps=5, keys=None, step_size=0.2)
    torch.testing.assert_close(last, seen[-1], rtol=0, atol=1e-12)


def test_attacks_climb_the_loss_they_are_given(bent):
    """Against KL of a uniform prediction, the attack must not care about labels."""
    model, x, y = bent
    loss = kl_divergence(model(x))
    for attack in (pgd, apgd):
        moved = [attack(model, x, labels, 0.02, "Linf", steps=5, keys=keys_of(12), loss=loss) for labels in (y, 4 - y)]
        assert torch.equal(*moved)
        assert (loss(model(moved[0]), y) > 0.01).all()


# --- APGD's checkpoints ---------------------------------------------------------------------------


def test_checkpoints_of_100_steps_are_the_published_ones():
    """p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06) (arXiv:2003.01690, section 3.1)."""
    shares = [Fraction(0), Fraction(22, 100)]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - Fraction(3, 100), Fraction(6, 100)))
    expected = [int(100 * share) for share in shares[1:] if share <= 1]
    assert checkpoints(100, "Linf") == checkpoints(100, "L2") == expected == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 10, 20, 33, 50, 75, 200])
def test_other_lengths_round_as_the_authors_code_does(steps):
    """Periods in whole steps, rounded down, one at least; counted as in the published attack's loop."""
    period, decrease, shortest = (max(percent * steps // 100, 1) for percent in (22, 3, 6))
    expected, counter = [], 0
    for step in range(1, steps + 1):
        counter += 1
        if counter == period:
            expected.append(step)
            period, counter = max(period - decrease, shortest), 0
    assert checkpoints(steps, "Linf") == expected


def test_l1_checkpoints_are_evenly_spaced():
    assert checkpoints(100, "L1") == list(range(4, 100, 4))
    assert checkpoints(5, "L1") == [1, 2, 3, 4]


@pytest.mark.parametrize("steps", [10, 20, 50])
def test_sparse_search_goes_on_with_its_starts_own_sparsity_in_a_smaller_ball(steps):
    """As the authors' code does, and not with the fifth of the pixels that a search begins with."""
    model, x, y = linear_case(3, "far")
    attack, size = APGD(steps, wide=True), x[0].numel()
    radius = torch.full((len(x),), 0.5, dtype=x.dtype)
    state = attack.begin(Problem(x, y, radius, "L1", torch.arange(len(x))))
    starts, _ = attack._phases("L1")
    narrowed = 0
    for step in range(1, steps + 1):
        learn(attack, state, ask(attack, model, state), "L1", model)
        if step not in starts[1:]:
            continue
        narrowed += 1
        moved = (state["best"] != x).flatten(1).sum(1)
        assert torch.equal(state["support"].long(), moved)
        torch.testing.assert_close(1 - state["sparsity"].double(), (moved / size / 1.5).clamp(1 / size, 1).double())
        assert (1 - state["sparsity"] - L1_START).abs().max() > 1e-3
    assert narrowed == 2


@pytest.mark.parametrize("norm", ["L3", ""])
def test_an_unknown_norm_is_an_error_and_never_another_one(norm):
    x, y = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    for attack in (PGD(2), APGD(2), Square(2), FMN(2), Tangent(2), FABTargeted(2)):
        with pytest.raises(ArgumentError, match=f"norm = '{norm}': choose one of Linf, L2, L1"):
            perturb(attack, nn.Flatten(), x, y, 0.1, norm, keys=keys_of(2), target=1 - y)
    uses = [
        lambda: distance(x, norm),
        lambda: steepest_step(x, norm),
        lambda: project(x, x, 0.1, norm),
        lambda: random_point(x, 0.1, norm, keys_of(2)),
    ]
    for use in uses:
        with pytest.raises((KeyError, AssertionError)):
            use()
