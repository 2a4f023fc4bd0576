"""The batch engine: what flows through it, what it counts, and that nothing outside a sample changes its answer."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from linear_models import linear_case
from temper.attacks import verification
from temper.attacks.apgd import APGD
from temper.attacks.attack import Answer, Attack, input_gradient
from temper.attacks.ball import distance
from temper.attacks.engine import AttackEngine
from temper.attacks.fab import FABTargeted
from temper.attacks.losses import cross_entropy, dlr_targeted, flipped
from temper.attacks.pgd import PGD
from temper.attacks.square import Square
from temper.attacks.suites import Stage
from temper.attacks.verification import filled
from temper.attacks.work import Work
from temper.errors import ModelError

pytestmark = pytest.mark.numerical

CE = Stage("apgd-ce", APGD(12))
TARGETED = Stage("apgd-t", APGD(8, runs=3, climbs=dlr_targeted))


FAB = Stage("fab-t", FABTargeted(8, runs=3), random_start=False)


class Watched(nn.Module):
    """Two convolutions, and the sizes of the batches that were asked."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3), nn.Tanh(), nn.Flatten())
            self.head = nn.Linear(128, 5)
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.head(self.net(x) * 3)


def work_for(model: nn.Module, count: int = 40) -> Work:
    x = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ranked = model(x).argsort(1, descending=True)
    return Work(x, ranked[:, 0], torch.arange(count) * 7, ranked[:, 1:])


def run(model, work, stage, eps, size, norm="Linf", **options):
    radii = torch.as_tensor(eps, dtype=torch.float64).expand(len(work))
    return sorted(
        AttackEngine(model, [], size, **options).flow(stage, work, norm, radii, 0), key=lambda each: each.place
    )


@pytest.mark.parametrize("stage", [CE, TARGETED])
def test_every_sample_leaves_once_and_flips_are_real(stage):
    model = Watched()
    work = work_for(model)
    found = run(model, work, stage, 0.03, 16)
    assert [each.place for each in found] == list(range(40))
    broken = [each for each in found if each.nearest is not None]
    assert 0 < len(broken) < 40
    for each in broken:
        x = work.x[each.place]
        assert flipped(model(each.nearest[None]), work.y[each.place : each.place + 1]).all()
        assert float(distance((each.nearest - x).double()[None], "Linf")) == pytest.approx(each.distance)
        assert each.distance <= 0.03
        assert each.nearest.min() >= 0
        assert each.nearest.max() <= 1
    assert all(np.isinf(each.distance) for each in found if each.nearest is None)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [CE, TARGETED, Stage("pgd", PGD(5)), FAB, Stage("square", Square(30))])
@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16])
def test_answers_are_bit_for_bit_the_same_in_every_batch_size_and_order(stage, half):
    model, stage = Watched(), replace(stage, bears=(half,))
    work = work_for(model, 12)
    answers = [
        [(each.distance, each.forward, each.backward) for each in run(model, work, stage, 0.03, size, half=half)]
        for size in (1, 7, 64)
    ]
    assert answers[0] == answers[1] == answers[2]
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    shuffled = run(model, work.take(order), stage, 0.03, 24, half=half)
    assert [answers[0][place] for place in order.tolist()] == [(e.distance, e.forward, e.backward) for e in shuffled]


def test_the_batch_stays_full_while_samples_wait_and_shrinks_when_none_does():
    model = Watched()
    work = work_for(model, 200)
    model.sizes.clear()
    found = run(model, work, CE, 0.03, 32)
    asked = model.sizes[1:]  # the first pass tries how the weights can be laid out
    searching = [size for size in asked if size == 32]
    alone = [size for size in asked if size == 1]
    assert len(alone) == sum(each.nearest is not None for each in found)  # each flip is asked about alone, once
    rest = [size for size in asked if size not in (1, 32)]
    assert set(rest) <= {16}
    assert len(searching) > len(rest)
    # Nothing is computed for samples that are done: the rows asked are little more than the passes spent.
    assert sum(each.forward for each in found) <= sum(model.sizes) <= 1.5 * sum(each.forward for each in found)


def test_passes_are_counted_per_sample():
    model = Watched()
    work = work_for(model, 4)
    tiny = run(model, work, CE, 1e-6, 16)  # nothing flips: 13 questions and the check of the best image
    assert {(each.forward, each.backward) for each in tiny} == {(14, 13)}
    tiny = run(model, work, TARGETED, 1e-6, 16)
    assert {(each.forward, each.backward) for each in tiny} == {(30, 27)}
    easy = run(model, work, CE, 0.5, 16)
    assert all(each.forward < 14 and each.backward < 13 and each.nearest is not None for each in easy)


def test_two_classes_have_one_target():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    work = work_for(model, 5)
    found = run(model, work, TARGETED, 1e-6, 16)
    assert {each.backward for each in found} == {9}


def test_an_interruption_ends_the_flow_and_drops_what_is_in_flight():
    model = Watched()
    ticks = itertools.count()
    found = run(model, work_for(model, 64), CE, 1e-6, 16, interrupted=lambda: next(ticks) >= 20)
    assert len(found) == 16


class Hungry(Watched):
    """Runs out of memory on more than so many images."""

    def __init__(self, limit: int, message: str) -> None:
        super().__init__()
        self.limit, self.message = limit, message

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.limit:
            raise RuntimeError(self.message)
        return super().forward(x)


@pytest.mark.slow
def test_a_full_memory_halves_the_batch_and_changes_nothing():
    model = Watched()
    work = work_for(model)
    full = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    hungry = AttackEngine(Hungry(16, full), [], 64)
    radii = torch.full((40,), 0.03, dtype=torch.float64)
    found = sorted(hungry.flow(CE, work, "Linf", radii, 0), key=lambda each: each.place)
    assert [each.distance for each in found] == [each.distance for each in run(model, work, CE, 0.03, 64)]
    assert hungry.batch_size == 16
    with pytest.raises(ModelError, match="not even 16 images fit into memory"):
        list(AttackEngine(Hungry(4, full), [], 64).flow(CE, work, "Linf", radii, 0))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        list(AttackEngine(Hungry(4, "mat1 and mat2 do not fit"), [], 64).flow(CE, work, "Linf", radii, 0))


class Overshoot(Attack):
    """A search that returns a flip a little beyond the plane of a linear model."""

    nearest = True

    def begin(self, problem):
        n = len(problem.x)
        return {
            "x": problem.x, "y": problem.y, "eps": problem.eps, "step": problem.y.new_zeros(n), "query": problem.x,
            "best": problem.x, "distance": torch.full((n,), torch.inf, dtype=problem.x.dtype),
        }  # fmt: skip

    def update(self, state, answer: Answer, norm, judge) -> None:
        reach = 1.04 * answer.losses.abs() / answer.gradient.flatten(1).abs().sum(1)
        step = answer.gradient.sign() * reach.view(-1, 1, 1, 1)
        state["best"] = (state["x"] + step).clamp(0, 1)
        state["distance"] = distance(state["best"] - state["x"], norm)
        state["step"] = state["step"] + 1

    def loss(self, logits, state):
        return logits.topk(2, 1).values[:, 1] - logits.topk(2, 1).values[:, 0]


def test_the_nearest_flip_is_brought_closer_but_never_below_the_margin():
    model, x, y = linear_case(2, "far", lead=2.0)
    model, x = model.float(), x.float()
    margins = model.margins(x, y, "Linf")
    work = Work(x, y, torch.arange(len(x)), 1 - y[:, None])
    found = run(model, work, Stage("overshoot", Overshoot(1)), float("inf"), 16)
    reached = torch.tensor([each.distance for each in found])
    assert (reached >= margins * (1 - 1e-4)).all()
    assert (reached <= margins * 1.002).all()
    limited = run(model, work, Stage("overshoot", Overshoot(1)), (margins * 1.05).double(), 16)
    assert all(each.distance <= float(margins[each.place]) * 1.05 for each in limited)


def test_images_are_filled_up_to_a_size_that_rounds_like_larger_ones():
    x = torch.rand(5, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    more = filled(x)
    assert len(more) == verification.GRAIN["cpu"]
    assert torch.equal(more[:5], x)
    assert more.is_contiguous(memory_format=torch.channels_last)
    assert filled(more) is more


def test_idle_rows_take_later_runs_of_the_samples_in_flight():
    model = Watched()
    work = work_for(model, 5)
    model.sizes.clear()
    found = run(model, work, TARGETED, 1e-6, 16)
    # 5 samples x 3 runs fit into 16 rows: 9 questions, and one check of all best images, instead of three times that.
    assert model.sizes[1:] == [16] * 10
    assert {(each.forward, each.backward) for each in found} == {(30, 27)}


class Loud(Watched):
    """Its logits are beyond the numbers of float16 wherever the first pixel is bright."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + 1e6 * (x[:, :1, 0, 0] > 0.5))


@pytest.mark.parametrize("stage", [CE, TARGETED])
def test_samples_that_low_precision_has_no_numbers_for_are_searched_at_full_precision(stage):
    stage = replace(stage, bears=(torch.float16,))
    model = Loud()
    work = work_for(model)
    low, full = (run(model, work, stage, 0.03, 16, half=half) for half in (torch.float16, None))
    loud = [place for place in range(40) if work.x[place, 0, 0, 0] > 0.6]
    assert 5 < len(loud) < 35
    assert [low[place].distance for place in loud] == [full[place].distance for place in loud]
    assert all(low[place].forward > full[place].forward for place in loud)  # the attempt counts
    quiet = [place for place in range(40) if work.x[place, 0, 0, 0] < 0.4]
    assert any(low[place].forward <= full[place].forward for place in quiet)


def test_half_is_used_only_by_stages_that_bear_it():
    seen = []

    class Spy(Watched):
        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            seen.append(logits.dtype)
            return logits

    model = Spy()
    for bears in ((), (torch.float16,), (torch.float16, torch.bfloat16)):
        work = work_for(model, 3)
        seen.clear()
        run(model, work, replace(CE, bears=bears), 1e-6, 16, half=torch.bfloat16)
        assert (torch.bfloat16 in seen) == (torch.bfloat16 in bears)
        assert seen[-1] == torch.float32  # the check


def test_gradients_of_a_confident_model_do_not_vanish_in_float16():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model[1].bias += torch.tensor([30.0, 0, 0])  # the other classes have a probability of 1e-13
    y = torch.zeros(4, dtype=torch.int64)
    _, _, exact = input_gradient(model, x, lambda logits: cross_entropy(logits, y))
    with torch.autocast("cpu", torch.float16):
        _, _, low = input_gradient(model, x, lambda logits: cross_entropy(logits, y))
    assert (low != 0).any(dim=(1, 2, 3)).all()
    assert torch.cosine_similarity(1e14 * low.flatten(1), 1e14 * exact.flatten(1)).min() > 0.999
