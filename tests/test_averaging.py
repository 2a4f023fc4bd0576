"""Averages of the weights: each against its formula, and stochastic weight averaging against torch's own."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from temper.training.averaging import EpochAverage, MovingAverage, averaged, make_average
from temper.training.sections.learning import OptimiserConfig


def nothing() -> None:
    """No statistics to renew."""


# --- moving average -------------------------------------------------------------------------------


def test_the_average_follows_its_formula():
    module = nn.BatchNorm1d(2)
    average = MovingAverage(module, decay=0.9)
    expected = module.weight.detach().clone()
    for value in (3.0, -1.0):
        with torch.no_grad():
            module.weight.fill_(value)
        module.running_mean.fill_(value)
        module.num_batches_tracked += 1
        average.after_step(module, step=1000)  # late enough for the decay to have its full value
        expected = 0.9 * expected + 0.1 * value
    torch.testing.assert_close(average.state["weight"], expected)
    torch.testing.assert_close(average.state["running_mean"], torch.full((2,), 0.9 * 0.3 - 0.1))
    assert average.state["num_batches_tracked"] == 2  # integers are copied
    assert torch.equal(module.weight, torch.full((2,), -1.0))  # the module itself is not averaged


def test_a_young_average_forgets_its_start():
    module = nn.Linear(1, 1, bias=False)
    average = MovingAverage(module, decay=0.9)
    with torch.no_grad():
        module.weight.fill_(5.0)
    begun = average.state["weight"].clone()
    average.after_step(module, step=1)
    torch.testing.assert_close(average.state["weight"], 0.1 * begun + 0.9 * 5.0)  # decay 1 / (9 + 1)


def test_the_average_is_apart_from_the_module():
    module = nn.Linear(2, 2)
    average = MovingAverage(module, decay=0.5)
    before = average.state["weight"].clone()
    with torch.no_grad():
        module.weight.add_(1)
    assert torch.equal(average.state["weight"], before)
    assert not any(value.requires_grad for value in average.state.values())
    module.load_state_dict(average.state)
    assert torch.equal(module.weight, before)


# --- stochastic weight averaging --------------------------------------------------------------------


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


BATCHES = [torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(k)) for k in range(3)]


def moved(model: nn.Module, epoch: int) -> None:
    """An epoch of training: weights and statistics are others afterwards."""
    generator = torch.Generator().manual_seed(epoch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.train()
    model(torch.rand(4, 3, 4, 4, generator=generator))


def epochs(model: nn.Module, average: EpochAverage, numbers: range, renew: Callable[[], None]) -> None:
    for epoch in numbers:
        moved(model, epoch)
        average.after_epoch(model, epoch, renew)


def test_weights_and_statistics_are_those_of_torchs_own_averaged_model():
    model, average = network(), EpochAverage(first=3)
    theirs = copy.deepcopy(model)
    epochs(model, average, range(1, 7), lambda: update_bn(BATCHES, model))
    swa = AveragedModel(theirs)
    for epoch in range(1, 7):
        moved(theirs, epoch)
        if epoch >= 3:
            swa.update_parameters(theirs)
    update_bn(BATCHES, swa)
    assert average.state is not None
    for name, value in swa.module.state_dict().items():
        torch.testing.assert_close(average.state[name], value)


def test_the_model_itself_is_not_averaged():
    model, average, alone = network(), EpochAverage(first=1), network()
    epochs(model, average, range(1, 4), lambda: update_bn(BATCHES, model))
    for epoch in range(1, 4):
        moved(alone, epoch)
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in model.state_dict().items())


def test_before_the_start_there_is_no_average_and_nothing_is_renewed():
    model, average = network(), EpochAverage(first=3)
    epochs(model, average, range(1, 3), lambda: pytest.fail("renewed"))
    assert average.state is None
    own = model.state_dict()["0.weight"].clone()
    with averaged(model, average):
        assert torch.equal(model.state_dict()["0.weight"], own)


def test_it_goes_on_from_its_state_alone():
    model, whole = network(), EpochAverage(first=2)
    epochs(model, whole, range(1, 6), lambda: update_bn(BATCHES, model))
    model, first = network(), EpochAverage(first=2)
    epochs(model, first, range(1, 4), lambda: update_bn(BATCHES, model))
    resumed = EpochAverage(first=2)
    resumed.state = first.state
    epochs(model, resumed, range(4, 6), lambda: update_bn(BATCHES, model))
    assert all(torch.equal(value, resumed.state[name]) for name, value in whole.state.items())


def test_tied_weights_are_averaged_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    average, seen = EpochAverage(first=1), list[Tensor]()
    for epoch in (1, 2, 3):
        moved_to = torch.full((2, 2), float(epoch))
        with torch.no_grad():
            model[0].weight.copy_(moved_to)
        seen.append(moved_to)
        average.after_epoch(model, epoch, nothing)
    for name in ("0.weight", "1.weight"):
        torch.testing.assert_close(average.state[name], torch.stack(seen).mean(0))


@pytest.mark.parametrize(
    ("share", "first", "last", "wanted"), [(0.75, 1, 20, 16), (0, 1, 20, 1), (0.29, 1, 100, 30), (0.99, 1, 10, 10)]
)
def test_the_start_share_counts_whole_epochs(share, first, last, wanted):
    average = make_average(nn.Linear(1, 1), OptimiserConfig(swa=share), first, last, epochs=last)
    assert isinstance(average, EpochAverage)
    assert average.first == wanted


@pytest.mark.parametrize(("first", "last", "wanted"), [(1, 5, 5), (6, 20, 11)])
def test_a_phase_has_an_average_of_its_own(first, last, wanted):
    """What a linear probe ends with is averaged with nothing that comes later."""
    average = make_average(nn.Linear(1, 1), OptimiserConfig(swa=0.5), first, last, epochs=20)
    assert isinstance(average, EpochAverage)
    assert average.first == wanted


def test_no_average_is_made_unless_it_is_asked_for():
    assert make_average(nn.Linear(1, 1), OptimiserConfig(), 1, 2, epochs=2) is None
