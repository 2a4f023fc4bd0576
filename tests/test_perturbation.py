"""Adversarial weight perturbation: where weights move, that they come back, and what a step costs."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from temper.attacks.losses import cross_entropy
from temper.models import Classifier
from temper.models.preprocessing import Preprocessing
from temper.threat import Threat
from temper.training.config import completed, read_config
from temper.training.crafter import Crafter
from temper.training.perturbation import at_perturbed_weights, buffers_kept, gamma_at, perturbed
from temper.training.sections.learning import OptimiserConfig

X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def crafter(model: nn.Sequential) -> Crafter:
    classifier = Classifier(model, Preprocessing((0.5,) * 3, (0.5,) * 3, 8), head="4")
    return Crafter(classifier, [], completed(read_config({"attack": {"steps": 2}})), nullcontext)


def with_gradient(model: nn.Module) -> nn.Module:
    functional.cross_entropy(model(X), Y).backward()
    return model


def test_each_layer_moves_along_its_gradient_by_gamma_of_its_norm():
    model = with_gradient(network())
    own = {name: value.detach().clone() for name, value in model.named_parameters()}
    gradient = {name: value.grad.clone() for name, value in model.named_parameters()}
    with perturbed(model, 0.01):
        moves = {name: value.detach() - own[name] for name, value in model.named_parameters()}
        assert all(value.grad is None for value in model.parameters())
    for name in ("0.weight", "4.weight"):
        wanted = 0.01 * own[name].norm() * gradient[name] / gradient[name].norm()
        torch.testing.assert_close(moves[name], wanted, rtol=1e-3, atol=1e-6)
    for name in ("0.bias", "1.weight", "1.bias", "4.bias"):  # vectors stay
        assert not moves[name].any()


def test_the_loss_is_higher_there():
    model = with_gradient(network())
    before = functional.cross_entropy(model(X), Y)
    with perturbed(model, 0.01):
        assert functional.cross_entropy(model(X), Y) > before


@pytest.mark.parametrize("fails", [False, True])
def test_weights_come_back_bit_for_bit(fails):
    model = with_gradient(network())
    own = {name: value.detach().clone() for name, value in model.named_parameters()}
    with pytest.raises(ZeroDivisionError) if fails else torch.no_grad(), perturbed(model, 0.3):
        _ = 1 / (0 if fails else 1)
    assert all(torch.equal(value, own[name]) for name, value in model.named_parameters())


def test_a_layer_without_a_gradient_stays():
    model = with_gradient(network())
    model[0].weight.grad = None
    model[4].weight.grad.zero_()
    own = {name: value.detach().clone() for name, value in model.named_parameters()}
    with perturbed(model, 0.3):
        assert all(torch.equal(value, own[name]) for name, value in model.named_parameters())


def test_batch_norms_see_a_batch_once():
    model = network()
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    with buffers_kept(model):
        model(X)
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())


def test_the_gradient_is_that_of_the_authors_proxy():
    """Their code: a second network takes a step of SGD up the loss, and lends the direction of its difference."""
    model, proxy = network(), network()
    optimiser = torch.optim.SGD(proxy.parameters(), lr=0.01)
    (-functional.cross_entropy(proxy(X), Y)).backward()
    optimiser.step()
    reference = network()
    with torch.no_grad():
        for weight, moved in zip(reference.parameters(), proxy.parameters(), strict=True):
            if weight.dim() > 1:
                difference = moved - weight
                weight.add_(0.01 * weight.norm() / (difference.norm() + 1e-20) * difference)
    functional.cross_entropy(reference(X), Y).backward()

    def gradient() -> Tensor:
        loss = functional.cross_entropy(model(X), Y)
        loss.backward()
        return loss.detach()

    loss = at_perturbed_weights(gradient, model, crafter(model), 0.01)
    assert loss > functional.cross_entropy(model(X), Y)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_images_are_crafted_once_and_the_same_at_both_places():
    model = network()
    own = crafter(model)
    (attack,) = own.attacks([Threat("Linf", 8 / 255)], 1, torch.arange(6))
    seen: list[tuple[Tensor, Tensor]] = []

    def gradient() -> Tensor:
        seen.append((own.logits(X), attack(X, Y, cross_entropy)))
        functional.cross_entropy(model(seen[-1][1]), Y).backward()
        return torch.zeros(3)

    at_perturbed_weights(gradient, model, own, 0.1)
    first, second = seen
    assert all(one is other for one, other in zip(first, second, strict=True))
    gradient()  # and afterwards anew, of the model as it is
    assert seen[-1][0] is not first[0]


@pytest.mark.parametrize(("share", "eps", "gamma"), [(0.04, 0.1, 0.0), (0.05, 0.1, 0.01), (1.0, 0.0, 0.0)])
def test_it_begins_after_the_warm_up_and_where_images_are_attacked(share, eps, gamma):
    assert gamma_at(OptimiserConfig(awp=0.01, awp_warmup=0.05), eps, share) == gamma
    assert gamma_at(OptimiserConfig(), eps, share) == 0


def test_in_bf16_weights_come_back_and_gradients_are_near_those_of_float32():
    """Autocast computes in bf16; weights, their move and their gradients are float32."""

    def found(*, low: bool) -> list[Tensor]:
        model = network()
        own = [value.detach().clone() for value in model.parameters()]

        def gradient() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                loss = functional.cross_entropy(model(X), Y)
            loss.backward()
            return loss.detach()

        at_perturbed_weights(gradient, model, crafter(model), 0.05)
        assert all(torch.equal(value, before) for value, before in zip(model.parameters(), own, strict=True))
        return [value.grad for value in model.parameters()]

    for low, full in zip(found(low=True), found(low=False), strict=True):
        assert low.dtype == torch.float32
        assert (low - full).norm() <= 0.1 * full.norm() + 1e-3
