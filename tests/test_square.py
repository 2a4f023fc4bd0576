"""The Square attack against models whose margins are known, and what it promises about batches, streams and costs."""

import math

import pytest
import torch
from torch import Tensor, nn

from attack_cases import EPS, EVERY_NORM, images_of, keys_of
from linear_models import linear_case
from temper.attacks.attack import Problem, State, ask, perturb
from temper.attacks.ball import distance
from temper.attacks.crafting import crafting
from temper.attacks.losses import flipped, logit_difference, logit_difference_targeted
from temper.attacks.pgd import PGD
from temper.attacks.square import Square, _hills, sides
from temper.errors import ArgumentError
from temper.threat import NORMS, Norm

pytestmark = pytest.mark.numerical


def advance(attack: Square, model: nn.Module, state: State, norm: Norm, steps: int) -> list[tuple[Tensor, Tensor]]:
    """Answer so many questions; every question and what was best after it."""
    seen = []
    for _ in range(steps):
        query = state["query"]
        attack.update(state, ask(attack, model, state), norm, model)
        seen.append((query, state["best"]))
    return seen


def problem(
    model: nn.Module, x: Tensor, eps: float, norm: Norm, seed: int = 0, target: Tensor | None = None
) -> Problem:
    radius = torch.full((len(x),), eps, dtype=x.dtype)
    return Problem(x, model(x).argmax(1), radius, norm, keys_of(len(x), seed), target)


# --- ball and box -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 7), (2, 17, 6), (3, 32, 32), (1, 28, 28), (1, 1, 1)])
@EVERY_NORM
def test_every_question_lies_in_ball_and_box(norm, shape):
    """Half of the images have pixels at the faces of the box; radii from nothing to more than the box holds."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, *shape, generator=generator)
    x[::2] = x[::2].round()
    eps = torch.tensor([0, 1e-6, 0.01, 0.01, 0.3, 0.3, 2, 2]) * {"Linf": 1, "L2": 3, "L1": 20}[norm]
    model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3)).requires_grad_(False)
    rounding = 6e-8 * math.prod(shape) ** {"Linf": 0, "L2": 1 / 2, "L1": 1}[norm]  # half a step of float32 per pixel
    attack = Square(40)
    state = attack.begin(Problem(x, model(x).argmax(1), eps, norm, keys_of(8)))
    for query, best in advance(attack, model, state, norm, 40):
        for images in (query, best):
            assert ((images >= 0) & (images <= 1)).all()
            assert (distance((images - x).double(), norm) <= eps * (1 + 1e-6) + rounding).all()
        assert torch.equal(query[0], x[0])


# --- linear classifiers: exact margins --------------------------------------------------------------

# How far above the exact margin 150 queries must succeed; random search moves whole squares, while the best
# perturbations of random weights look like noise, in L1 like a few pixels.
ENOUGH = {"Linf": 4.5, "L2": 6.0, "L1": 8.0}


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("box", ["far", "near"])
@EVERY_NORM
def test_linear_classifiers_never_flip_below_their_margin(norm, box, classes):
    model, x, y = linear_case(classes, box, lead=0)
    margins = model.margins(x, y, norm)
    for share, expected in ((0.999, False), (ENOUGH[norm], True)):
        eps = margins * share
        with crafting(model):
            moved = perturb(Square(150), model, x, y, eps, norm, keys=keys_of(len(x)), keep_flips=True)
        assert (flipped(model(moved), y) == expected).all()


# --- networks ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps", "least"), [("Linf", 8 / 255, 6), ("L2", 2.0, 6), ("L1", 20.0, 7)])
def test_networks_break(network, shared_data, norm, eps, least):
    """Of 24 images; pyautoattack's Square breaks 8 to 10 in as many queries, the first question none."""
    model = network("cifar_resnet4b")
    x, y = images_of(shared_data / "images" / "cifar10_test.npz", 40)
    with crafting(model):
        correct = ~flipped(model(x), y)
        x, y = x[correct][:24], y[correct][:24]
        moved = perturb(Square(200), model, x, y, eps, norm, keys=keys_of(24), keep_flips=True)
        assert flipped(model(moved), y).sum() >= least


@EVERY_NORM
def test_models_without_useful_gradients_break(bent, norm):
    """Rounded logits have no gradient, and PGD goes nowhere."""
    network, x, y = bent

    def rounded(images: Tensor) -> Tensor:
        logits = network(images)
        return (10 * logits).round() / 10 + 0 * logits

    for attack, keys in ((PGD(20), None), (Square(100), keys_of(12))):
        moved = perturb(attack, rounded, x, y, 2 * EPS[norm], norm, keys=keys)
        assert flipped(rounded(moved), y).any() == isinstance(attack, Square)


# --- what does not matter: batches, order, other rows' steps ----------------------------------------


@EVERY_NORM
def test_results_do_not_depend_on_the_batch(bent, norm):
    model, x, y = bent
    keys = keys_of(len(x))

    def run(who: list[int]) -> Tensor:
        return perturb(Square(40), model, x[who], y[who], EPS[norm], norm, keys=keys[who])

    together = run(list(range(12)))
    shuffled = [7, 3, 11, 0, 5]
    assert torch.equal(run(shuffled), together[shuffled])
    for i in (0, 4, 11):
        assert torch.equal(run([i]), together[[i]])


@EVERY_NORM
def test_rows_at_different_steps_do_not_disturb_each_other(bent, norm):
    """Squares of different sizes side by side, as in the engine, where samples come and go."""
    model, x, _ = bent
    attack, task = Square(60), problem(model, x, EPS[norm], norm)
    expected = attack.begin(task)
    advance(attack, model, expected, norm, 60)
    ahead, late = attack.begin(task), attack.begin(task)
    advance(attack, model, ahead, norm, 35)
    mixed = {name: torch.cat([ahead[name][:6], late[name][6:]]) for name in ahead}
    advance(attack, model, mixed, norm, 25)
    assert torch.equal(mixed["best"][:6], expected["best"][:6])
    advance(attack, model, mixed, norm, 35)
    assert torch.equal(mixed["best"][6:], expected["best"][6:])


@EVERY_NORM
def test_keys_decide_what_is_asked(bent, norm):
    model, x, _ = bent
    attack = Square(10)

    def questions(seed: int) -> list[Tensor]:
        state = attack.begin(problem(model, x, EPS[norm], norm, seed))
        return [query for query, _ in advance(attack, model, state, norm, 10)]

    generator = torch.get_rng_state()
    first, again, other = questions(0), questions(0), questions(1)
    assert torch.equal(torch.get_rng_state(), generator)
    for mine, same, different in zip(first, again, other, strict=True):
        assert torch.equal(mine, same)
        assert (mine != different).flatten(1).any(1).all()
    # Nor do two samples of a batch, here the same image twice, get the same squares.
    state = attack.begin(problem(model, x[[0, 0]], EPS[norm], norm))
    assert (state["query"][0] != state["query"][1]).any()


def test_it_needs_streams_and_images(bent):
    model, x, y = bent
    with pytest.raises(ArgumentError, match="random streams"):
        perturb(Square(5), model, x, y, 0.1, "Linf")
    with pytest.raises(ArgumentError, match="N, C, H, W"):
        perturb(Square(5), model, x.flatten(1), y, 0.1, "Linf", keys=keys_of(12))


@EVERY_NORM
def test_an_empty_batch_stays_empty(bent, norm):
    model, x, y = bent
    moved = perturb(Square(5), model, x[:0], y[:0], 0.1, norm, keys=keys_of(0))
    assert moved.shape == (0, 3, 8, 8)


# --- what is kept -----------------------------------------------------------------------------------


@EVERY_NORM
def test_the_first_question_is_kept_and_then_what_raises_the_loss(bent, norm):
    model, x, y = bent
    attack = Square(50)
    seen = advance(attack, model, attack.begin(problem(model, x, EPS[norm], norm)), norm, 50)
    assert torch.equal(seen[0][0], seen[0][1])
    asked = torch.stack([logit_difference(model(query), y) for query, _ in seen])
    kept = torch.stack([logit_difference(model(best), y) for _, best in seen])
    assert torch.equal(kept, asked.cummax(0).values)
    assert (kept[-1] > kept[0]).all()


@EVERY_NORM
def test_targeted_runs_climb_towards_their_class(bent, norm):
    model, x, y = bent
    attack = Square(60, climbs=logit_difference_targeted)
    assert attack.targeted
    assert not Square(60).targeted
    gains = []
    for shift in (1, 2):
        target = (y + shift) % 5
        moved = perturb(attack, model, x, y, EPS[norm], norm, keys=keys_of(12), target=target)
        aims = [(y + other) % 5 for other in (1, 2)]
        gains.append([logit_difference_targeted(model(moved), y, aim).mean() for aim in aims])
        assert (
            logit_difference_targeted(model(moved), y, target) > logit_difference_targeted(model(x), y, target)
        ).all()
    assert gains[0][0] > gains[1][0]
    assert gains[1][1] > gains[0][1]


@EVERY_NORM
def test_answers_that_are_not_numbers_are_never_kept(bent, norm):
    model, x, _ = bent
    attack = Square(6)
    state = attack.begin(problem(model, x, EPS[norm], norm))
    advance(attack, model, state, norm, 2)
    best = state["best"]
    broken = nn.Sequential(model, nn.Threshold(torch.inf, torch.nan))
    advance(attack, broken, state, norm, 3)
    assert torch.equal(state["best"], best)
    advance(attack, model, state, norm, 1)
    assert state["best_loss"].isfinite().all()


# --- squares ----------------------------------------------------------------------------------------


def test_sides_follow_the_published_shares():
    """p = 0.8 of the pixels, halved 9 times: sqrt(0.8 / 2^k) * 32 pixels in images of 32 x 32."""
    assert sides(0.8, 32, 32, "Linf") == [29, 20, 14, 10, 7, 5, 4, 3, 2, 1]
    assert sides(0.8, 32, 32, "L2") == sides(0.8, 32, 32, "L1") == [29, 21, 15, 11, 7, 5, 5, 3, 3, 3]
    for norm in NORMS:
        assert max(sides(1.0, 40, 6, norm)) == 6
        assert min(sides(0.8, 2, 9, norm)) == (1 if norm == "Linf" else 2)


def test_squares_shrink_on_time(bent):
    """In a run of 1,000 questions the timetable of 10,000 passes ten times as fast."""
    model, _, _ = bent
    attack, x = Square(1000), torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64)
    expected = {0: 7, 1: 7, 2: 5, 5: 5, 6: 4, 20: 4, 21: 3, 50: 3, 51: 2, 999: 1}  # by questions answered before
    for step, side in expected.items():
        state = attack.begin(problem(model, x, 0.01, "Linf"))
        state["step"] = torch.tensor([step])
        attack.update(state, ask(attack, model, state), "Linf", model)
        moved = (state["query"] != state["best"]).any(1)[0]
        rows, columns = moved.any(1).nonzero(), moved.any(0).nonzero()
        assert max(rows.max() - rows.min(), columns.max() - columns.min()) < side <= 7
        assert attack._side(torch.tensor([step]), x, "Linf").item() == side


def test_no_linf_question_is_wasted():
    """A square that already looks as drawn gets the opposite signs; every pixel is at a bound at every time."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False)
    x, attack = torch.full((6, 1, 8, 8), 0.5), Square(60)
    state = attack.begin(problem(model, x, 0.25, "Linf"))
    for _ in range(60):
        advance(attack, model, state, "Linf", 1)
        assert (state["query"] != state["best"]).flatten(1).any(1).all()
        assert ((state["query"] - x).abs() == 0.25).all()


@pytest.mark.parametrize("side", [3, 4, 7, 10])
@pytest.mark.parametrize(("norm", "power", "order"), [("L2", 2, 2), ("L1", 4, 1)])
def test_hills_are_the_published_ones(norm, power, order, side):
    """The sums of arXiv:1912.00049 (eta), written out pixel by pixel; the second hill hangs below the first."""

    def hill(height: int) -> Tensor:
        summit, last = height // 2, side // 2
        values = torch.zeros(height, side, dtype=torch.float64)
        for row in range(height):
            for column in range(side):
                rises = last - max(abs(row - summit), abs(column - side // 2))
                values[row, column] = sum(1 / (last + 1 - k) ** power for k in range(rises + 1))
        return values / torch.linalg.vector_norm(values, order)

    expected = torch.cat([hill(side // 2), -hill(side - side // 2)])
    expected /= torch.linalg.vector_norm(expected, order)
    like = torch.zeros(2, 1, 12, 11, dtype=torch.float64)
    at, size, turned = torch.tensor([1, 1]), torch.tensor([side, side]), torch.tensor([False, True])
    upright, lying = _hills(at, at - 1, size, turned, like, norm)[:, 0]
    torch.testing.assert_close(upright[1 : 1 + side, :side], expected)
    torch.testing.assert_close(lying[1 : 1 + side, :side], expected.T)
    for hills in (upright, lying):
        assert hills.count_nonzero() == side**2
        assert torch.linalg.vector_norm(hills, order) == pytest.approx(1)


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_the_whole_radius_is_used_far_from_the_box(norm):
    """A move costs the square that pays for it, not the length."""
    model, x, y = linear_case(2, "far")
    attack, eps = Square(30), torch.full((12,), 0.3, dtype=x.dtype)
    state = attack.begin(Problem(x, y, eps, norm, keys_of(12)))
    for query, _ in advance(attack, model, state, norm, 30):
        torch.testing.assert_close(distance(query - x, norm), eps)


# --- costs ------------------------------------------------------------------------------------------


def test_costs_are_as_promised(bent):
    model, x, y = bent
    passes = []

    def counted(images: Tensor) -> Tensor:
        passes.append(images.requires_grad or torch.is_grad_enabled())
        return model(images)

    perturb(Square(7), counted, x, y, 0.001, "Linf", keys=keys_of(12))
    assert passes == [False] * 7
    assert Square(7).passes() == (7, 0)
