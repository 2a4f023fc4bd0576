"""What a search is said to cost at most, against the passes that searches of many kinds really took."""

import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bench_grid import TINY, tiny
from temper.attacks.apgd import APGD
from temper.attacks.engine import AttackEngine
from temper.attacks.fab import FABTargeted
from temper.attacks.losses import logit_difference_targeted
from temper.attacks.pgd import PGD
from temper.attacks.square import Square
from temper.attacks.suites import CLOSER, SUITES, Stage, Suite, get_suite
from temper.attacks.tangent import Tangent
from temper.attacks.work import Work
from temper.benchmark.costs import Sizes, cost, search_passes
from temper.benchmark.grid import cells
from temper.benchmark.spec import read_spec
from temper.evaluation.search import Findings, search
from temper.threat import NORMS

SIZES = {"Linf": 0.05, "L2": 0.5, "L1": 5.0}


class Bumpy(nn.Module):
    """A small network that, by wish, is hard on a search.

    Args:
        classes: K.
        lying: in low precision its logits tell of flips that are none, ever surer, so that each is checked.
        lost: share of the images on which low precision has no numbers.
        alone: an image alone is of the first class, so that every flip is refused in the end.
    """

    def __init__(self, classes: int, *, lying: bool, lost: float, alone: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(classes)
        self.weight = nn.Parameter(torch.randn(48, classes, generator=generator))
        self.lying, self.lost, self.alone, self.asked = lying, lost, alone, 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += 1
        logits = (3 * x.flatten(1).float()).sin() @ self.weight.float()
        if torch.is_autocast_enabled("cpu"):
            if self.lying:
                logits = logits + self.asked * torch.arange(logits.shape[1])
            logits = torch.where(x[:, :1, 0, 0] < self.lost, torch.nan, logits)
        sure = torch.eye(logits.shape[1])[:1] * 1e3
        return logits + sure * (self.alone and len(x) == 1)


def most(suite: Suite, model: nn.Module, norm: str, radii: list[float], half: torch.dtype | None) -> tuple[int, int]:
    """The most passes that a search took of a sample."""
    x = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ranked = model(torch.cat([x, x])).argsort(1, descending=True)[:5]
    work = Work(x, ranked[:, 0], torch.arange(5), ranked[:, 1:])
    found = Findings(suite.in_norm(norm), work.ids.numpy())
    list(search(AttackEngine(model, [], 16, half=half), work, norm, radii, found, 0))
    return int(found.forward.max()), int(found.backward.max())


STAGES = [
    Stage("apgd", APGD(4), bears=(torch.bfloat16,)),
    Stage("apgd-t", APGD(3, runs=3, climbs=logit_difference_targeted), bears=(torch.bfloat16,)),
    Stage("pgd", PGD(3, runs=2)),
    Stage("fab", FABTargeted(3, runs=2), random_start=False, bears=(torch.bfloat16,)),
    Stage("square", Square(6), bears=(torch.bfloat16,)),
]
NEAREST = [
    Stage("tangent", Tangent(4, runs=3), random_start=False),
    Stage("fab", FABTargeted(3, runs=2), random_start=False, norms=("L2", "L1")),
]


@st.composite
def suites(draw: st.DrawFn) -> Suite:
    """Suites as there may be."""
    if draw(st.booleans()):
        return Suite("nearest", tuple(draw(st.permutations(NEAREST))))
    stages = tuple(draw(st.lists(st.sampled_from(STAGES), min_size=1, max_size=4, unique=True)))
    if len(stages) == 1 and draw(st.booleans()):
        return Suite("one", stages, resolution=draw(st.sampled_from([1 / 4, 1 / 10, 1 / 64])))
    return Suite("ball", stages, closer=draw(st.sampled_from([None, replace(CLOSER, attack=Tangent(3))])))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    suite=suites(),
    norm=st.sampled_from([*NORMS]),
    shares=st.lists(st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.8, 1.0, 3.0]), min_size=1, max_size=5, unique=True),
    classes=st.integers(2, 6),
    half=st.sampled_from([None, torch.bfloat16]),
    lying=st.booleans(),
    lost=st.sampled_from([0.0, 0.3, 1.1]),
    alone=st.booleans(),
)
def test_no_search_takes_more_passes_than_planned(suite, norm, shares, classes, half, lying, lost, alone):
    model = Bumpy(classes, lying=lying, lost=lost, alone=alone)
    forward, backward = most(suite, model, norm, [SIZES[norm] * share for share in shares], half)
    planned = search_passes(suite, {norm: len(shares)})
    assert 0 < forward <= planned[0]
    assert backward <= planned[1]


@pytest.mark.parametrize("suite", sorted(set(SUITES) - {"standard"}))  # 5,000 queries of Square, but the same stages
@pytest.mark.parametrize("norm", NORMS)
def test_nor_do_the_suites_that_there_are(suite, norm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        radii = [SIZES[norm] * share for share in (0.2, 0.6, 1.0)]
        spent = most(get_suite(suite), Bumpy(5, lying=True, lost=0.2, alone=False), norm, radii, torch.bfloat16)
    planned = search_passes(get_suite(suite), {norm: 3})
    assert spent[0] <= planned[0]
    assert spent[1] <= planned[1]


@pytest.mark.parametrize("stage", [stage for stage in STAGES + NEAREST if stage.attack.nearest], ids=lambda s: s.name)
@pytest.mark.parametrize("closer", [None, CLOSER], ids=["alone", "with a closer"])
def test_a_search_without_a_radius_ends_with_and_without_a_flip(stage, closer):
    suite = Suite("nearest", (stage,), closer=closer)
    for alone in (False, True):  # every flip is refused in the end
        forward, _ = most(suite, Bumpy(2, lying=False, lost=0, alone=alone), "L1", [0.5, 5.0], None)
        assert 0 < forward <= search_passes(suite, {"L1": 2})[0]


def test_what_is_planned_is_reached_where_everything_goes_wrong():
    """The bound is no looser than it must be: each question is checked, and its flip refused alone."""
    suite = Suite("square", (Stage("square", Square(6), bears=(torch.bfloat16,)),))
    planned = search_passes(suite, {"Linf": 1})
    assert planned == (2 * (6 + 2 * 7), 0)
    assert search_passes(suite, {"Linf": 3, "L2": 1}) == (4 * planned[0], 0)
    assert search_passes(get_suite("margin"), {"Linf": 9}) == (178 + 16, 178)  # a funnel is one run
    one = Suite("apgd", (Stage("apgd", APGD(10)),), resolution=1 / 64)
    assert search_passes(one, {"L2": 1}) == (7 * (11 + 2 * 12), 7 * 11)


@pytest.mark.parametrize(("objective", "images"), [("at", 1), ("trades", 2)])
def test_what_is_added_to_training_is_counted(objective, images):
    """Per training image and epoch: AWP passes an update's images again, forward and backward, after its warm-up; the
    average of epochs takes a forward pass."""

    def spent(**optimiser: float) -> tuple[float, float]:
        finetune = TINY["finetune"] | {"optimiser": optimiser}
        changes = {"objectives": [objective], "schedules": ["fixed"], "finetune": finetune}
        (cell,) = cells(read_spec(tiny(**changes, protocols={"full": {"epochs": 4}}, backbones=["bundled"])))
        costs = cost(cell, Sizes(100, 10))
        return costs.train_forward / 400, costs.train_backward / 400

    plain, perturbed, averaged = spent(), spent(awp=0.01, awp_warmup=0.5), spent(swa=0.25)
    assert perturbed == (plain[0] + 0.5 * images, plain[1] + 0.5 * images)
    assert averaged == (plain[0] + 0.75, plain[1])


@pytest.mark.parametrize(
    ("union", "objective", "passes"),
    # PGD with one step: per norm a pass both ways to craft; per update one of the images that the objective passes.
    [("e-at", "at", (2, 2)), ("max", "at", (2 + 2 + 1, 3)), ("avg", "at", (4, 4)), ("avg", "trades", (2 + 2 + 4, 6))],
)
def test_several_norms_cost_an_attack_in_each_unless_one_is_drawn(union, objective, passes):
    attack = TINY["finetune"]["attack"] | {"union": union}
    finetune = TINY["finetune"] | {"norm": "Linf,L1", "eps": "4/255,12", "attack": attack}
    changes = {"objectives": [objective], "schedules": ["fixed"], "finetune": finetune}
    (cell,) = cells(read_spec(tiny(**changes, protocols={"full": {"epochs": 4}})))
    costs = cost(cell, Sizes(100, 10))
    assert (costs.train_forward / 400, costs.train_backward / 400) == passes


@pytest.mark.parametrize(
    ("norms", "finetune", "passes"),
    # Of 10 images, after epochs 3 and 4: a look, and in each norm 10 steps of PGD and a look.
    [
        ("one", {}, (2 * 10 * 12, 2 * 10 * 10)),
        ("two", {"norm": "Linf,L1", "eps": "4/255,12"}, (2 * 10 * 23, 2 * 10 * 20)),
    ],
)
def test_measuring_robust_accuracy_meanwhile_is_planned(norms, finetune, passes):
    def spent(**validation: int) -> tuple[int, int]:
        own = TINY["finetune"] | finetune | {"validation": validation}
        (cell,) = cells(
            read_spec(tiny(objectives=["at"], schedules=["fixed"], finetune=own, protocols={"full": {"epochs": 4}}))
        )
        costs = cost(cell, Sizes(100, 10, 10))
        return costs.train_forward, costs.train_backward

    never, measured = spent(), spent(robust_every=3)
    assert (measured[0] - never[0], measured[1] - never[1]) == passes


@pytest.mark.parametrize(
    ("objective", "attacked", "unattacked"),
    # PGD with one step; AutoLoRa looks at every training image as an epoch begins, FARE's original at each one.
    [
        ("at", (2, 2), (1, 1)),
        ("autolora", (1 + 2 + 1, 3), (2 + 1, 2)),
        ("twins", (2, 2), (1, 1)),
        ("fare", (3, 2), (2, 1)),
    ],
)
def test_what_objectives_look_at_is_counted(objective, attacked, unattacked):
    """Per training image and epoch, at the whole epsilon and at none."""

    def spent(schedule: str) -> tuple[float, float]:
        changes = {"objectives": [objective], "schedules": {"now": SCHEDULED[schedule]}}
        (cell,) = cells(read_spec(tiny(**changes, protocols={"full": {"epochs": 4}})))
        costs = cost(cell, Sizes(100, 10))
        return costs.train_forward / 400, costs.train_backward / 400

    assert spent("fixed") == attacked
    half = [(a + b) / 2 for a, b in zip(attacked, unattacked, strict=True)]
    assert spent("half") == pytest.approx(half, abs=0.02)  # the schedule is looked at 64 times


SCHEDULED = {"fixed": {"name": "fixed"}, "half": {"name": "abrupt", "start": 0.5}}


def test_steps_that_follow_epsilon_are_counted_as_they_are_taken():
    """PGD with four steps on a ramp over all of the training: a quarter of it each with one, two, three and four."""
    attack = {"name": "pgd", "steps": 4, "steps_follow": True}
    changes = {"objectives": ["at"], "schedules": {"ramp": {"name": "linear", "end": 1.0}}}
    (cell,) = cells(
        read_spec(tiny(**changes, finetune=TINY["finetune"] | {"attack": attack}, protocols={"full": {"epochs": 4}}))
    )
    costs = cost(cell, Sizes(100, 10))
    assert (costs.train_forward / 400, costs.train_backward / 400) == (3.5, 3.5)
