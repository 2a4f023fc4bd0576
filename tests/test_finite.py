"""Ties, and models whose gradients, logits or batches are not what attacks expect."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attack_cases import shorter
from measured import Net, pictures, predictions
from temper import evaluate
from temper.attacks.apgd import APGD
from temper.attacks.attack import perturb
from temper.attacks.fab import FABTargeted
from temper.attacks.fmn import FMN
from temper.attacks.losses import flipped, predicted
from temper.attacks.pgd import PGD
from temper.attacks.square import Square
from temper.attacks.suites import SUITES, Suite
from temper.attacks.tangent import Tangent
from temper.errors import TemperWarning
from temper.evaluation.measurement import measure
from temper.evaluation.samples import from_arrays
from temper.threat import parse_threats

pytestmark = pytest.mark.numerical


class Edges(nn.Module):
    """A linear model of the lengths of an image's gradients: a root whose slope at 0 is NaN, or almost so."""

    def __init__(self, inside: float) -> None:
        super().__init__()
        self.inside = inside
        self.weight = nn.Parameter(torch.randn(3, 49, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1)
        across, down = x[:, :-1, 1:] - x[:, :-1, :-1], x[:, 1:, :-1] - x[:, :-1, :-1]
        return (across**2 + down**2 + self.inside).sqrt().flatten(1) @ self.weight.T


def bordered() -> Tensor:
    """Images with flat, black borders."""
    x = torch.zeros(12, 1, 8, 8)
    x[:, :, 2:6, 2:6] = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return x


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:accuracy does not fall")
@pytest.mark.filterwarnings("ignore:signs of masked gradients")
@pytest.mark.parametrize("suite", ["apgd", "pgd", "fast", "margin"])
@pytest.mark.parametrize("threat", ["Linf:0.1", "L2:1"])
def test_gradients_that_are_no_numbers_hide_nothing(suite, threat):
    images = bordered()
    labels = predictions(Edges(0.0), images)
    eps = threat.split(":")[1]
    with pytest.warns(TemperWarning, match="not finite .NaN or infinite. near 12 samples"):
        found = evaluate(Edges(0.0), images, labels, threat, suite=suite)
    smooth = evaluate(Edges(1e-12), images, labels, threat, suite=suite)
    broken, expected = (t.frame["upper"].le(float(eps)).sum() for t in (found, smooth))
    assert expected > 6
    assert broken >= expected - 1


def shortened(name: str) -> Suite:
    """A suite with all its stages, each of few steps."""
    suite = SUITES[name]
    stages = (replace(stage, attack=shorter(stage.attack, 12)) for stage in suite.stages)
    return replace(suite, stages=tuple(stages))


class Tied(nn.Module):
    """Two logits that are equal everywhere, and a third that is larger beyond a plane; none is, of a constant model."""

    def __init__(self, *, constant: bool = False) -> None:
        super().__init__()
        weight = torch.randn(48, generator=torch.Generator().manual_seed(0)) * (not constant)
        self.weight = nn.Parameter(weight)

    def above(self, x: Tensor) -> Tensor:
        """How far the equal logits are above the third: [N]."""
        return (x.flatten(1) - 0.5) @ self.weight + 1

    def forward(self, x: Tensor) -> Tensor:
        above = self.above(x)
        return torch.stack([above, above, torch.zeros_like(above)], 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::temper.errors.TemperWarning")
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("suite", sorted(SUITES))
def test_ties_are_flips_in_no_suite(suite, norm):
    images = pictures(8)
    threats = parse_threats({"Linf": "Linf:0.1", "L2": "L2:1", "L1": "L1:5"}[norm])

    def uppers(model: Tied, kept: Tensor) -> Tensor:
        labels = [0] * int(kept.sum())
        table = measure(model, from_arrays(images[kept], labels), threats, shortened(suite), 0).table
        assert (table.frame["prediction"] == 0).all()
        return torch.tensor(table.frame.sort_values("sample")["upper"].to_numpy())

    everything = torch.ones(8, dtype=torch.bool)
    assert uppers(Tied(constant=True), everything).isinf().all()
    tied = Tied()
    above = tied.above(images).detach()
    margins = above / tied.weight.detach().norm(p={"Linf": 1, "L2": 2, "L1": torch.inf}[norm])
    found = uppers(tied, above > 0)
    assert found.isfinite().any()
    assert (found >= margins[above > 0] * (1 - 1e-4)).all()


def test_a_tie_is_no_flip():
    logits = torch.tensor([[1.0, 1.0, 0.0], [1.0, 2.0, 2.0], [0.0, float("nan"), 0.0]])
    assert flipped(logits, torch.tensor([1, 1, 0])).tolist() == [False, False, False]
    assert flipped(logits, torch.tensor([2, 0, 0])).tolist() == [True, True, False]
    assert predicted(logits)[:2].tolist() == [0, 1]


def test_outputs_that_depend_on_the_batch_are_told():
    model = Net()
    model.norm = nn.BatchNorm2d(6, track_running_stats=False)
    images = pictures(6)
    with pytest.warns(TemperWarning, match="depend on the other images of the batch"):
        evaluate(model, images, predictions(model, images), "Linf:1e-4", suite="pgd")


class Rootless(nn.Module):
    """A linear model with a root of 0 beside it: the same logits, and no entry of any gradient is a number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(48, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return flat @ self.weight + (0 * flat).sqrt().sum(1, keepdim=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::temper.errors.TemperWarning")
@pytest.mark.parametrize("suite", ["apgd", "pgd", "fast", "margin"])
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_where_no_gradient_is_a_number_nothing_counts_as_survived(suite, norm):
    images = pictures(4)
    small = {"Linf": 1e-5, "L2": 1e-4, "L1": 1e-3}[norm]
    table = evaluate(Rootless(), images, predictions(Rootless(), images), f"{norm}:{small},{small / 2}", suite=suite)
    assert (table.frame["survived"] == 0).all()


def test_some_pixels_without_a_number_leave_the_others_to_lead():
    """Infinity keeps its direction, NaN the rest: an attack on the ball finds the flip all the same."""

    class Patchy(nn.Module):
        def __init__(self, spoil: float) -> None:
            super().__init__()
            self.spoil = spoil

        def forward(self, x: Tensor) -> Tensor:
            flat = x.flatten(1)
            if flat.requires_grad:
                flat.register_hook(lambda slope: slope.index_fill(1, torch.arange(0, 192, 3), self.spoil))
            return torch.stack([flat.mean(1), 1 - flat.mean(1)], 1) * 10

    x = torch.full((4, 3, 8, 8), 0.48)
    y = predicted(Patchy(0.0)(x))
    for spoil in (float("nan"), float("inf"), float("-inf")):
        for attack in (PGD(10), APGD(10)):
            for norm, eps in (("Linf", 0.1), ("L2", 1.5), ("L1", 20.0)):
                moved = perturb(attack, Patchy(spoil), x, y, eps, norm)
                assert torch.isfinite(moved).all()
                if spoil != spoil or spoil > 0:
                    assert flipped(Patchy(spoil)(moved), y).all(), (spoil, attack, norm)


@pytest.mark.parametrize(
    "attack", [PGD(8), APGD(8), APGD(12, wide=True), FMN(8), Tangent(8), FABTargeted(8), Square(20)]
)
@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_no_numbers_stop_no_attack(attack, norm, value):
    class Holes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3)), 0.1 * x[:, 0, 0, 0]], 1) * 10
            return torch.where(x[:, :1, 0, 0] > 0.55, value, logits)

    x = torch.full((4, 3, 8, 8), 0.48)
    y = predicted(Holes()(x))
    keys = torch.arange(4)
    target = (y + 1) % 2
    eps = {"Linf": 0.2, "L2": 3.0, "L1": 40.0}[norm]
    moved = perturb(attack, Holes(), x, y, eps, norm, keys=keys, target=target if attack.targeted else None)
    assert torch.isfinite(moved).all()
    if not isinstance(attack, PGD):  # which returns its last step, whatever that came to
        assert torch.isfinite(Holes()(moved)).all()


class Hesitant(nn.Module):
    """Linear, but one image alone is never classified otherwise than the first class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3)) * self.weight
        return torch.stack([1 - mean + (10.0 if len(x) == 1 else 0.0), mean], 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::temper.errors.TemperWarning")
@pytest.mark.parametrize("suite", sorted(set(SUITES) - {"standard"}))  # whose attacks are those of the others
@pytest.mark.parametrize("batch_size", [1, 16])
def test_a_flip_is_a_flip_for_one_image_alone(suite, batch_size):
    images = torch.full((2, 3, 8, 8), 0.45)
    table = evaluate(Hesitant(), images, [0, 0], "Linf:0.1", suite=suite, batch_size=batch_size)
    assert np.isinf(table.frame["upper"]).all()
