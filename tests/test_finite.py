"""Ties, and models whose gradients, logits or batches are not what attacks expect."""

import pytest
import torch
from torch import Tensor, nn

from temper import evaluate
from temper.attacks.losses import flipped, predicted
from temper.errors import TemperWarning
from test_evaluation import Net, pictures, predictions


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


@pytest.mark.filterwarnings("ignore:accuracy does not fall")
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


@pytest.mark.filterwarnings("ignore:the loss has no gradient")
@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("suite", ["apgd", "margin"])
def test_a_constant_model_never_flips(suite, norm):
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.ones(len(x), 5) + 0 * x.flatten(1)[:, :5]

    table = evaluate(Constant(), pictures(4), [0] * 4, f"{norm}:0.3", suite=suite)
    assert table.frame["upper"].isin([float("inf")]).all()
    assert (table.frame["prediction"] == 0).all()


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
