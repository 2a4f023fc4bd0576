"""The losses that attacks climb: per sample, finite, and either towards a class or away from one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from temper.attacks.apgd import APGD
from temper.attacks.attack import input_gradient
from temper.attacks.fmn import FMN
from temper.attacks.losses import (
    cross_entropy,
    flipped,
    kl_divergence,
    logit_difference,
    logit_difference_targeted,
    towards_a_class,
)
from temper.attacks.square import Square
from temper.attacks.tangent import Tangent

pytestmark = pytest.mark.numerical


def test_losses_are_per_sample_and_never_averaged():
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(6, 4, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1])
    probabilities = logits.softmax(1)
    torch.testing.assert_close(cross_entropy(logits, y), -probabilities[range(6), y].log())
    clean = torch.randn(6, 4, generator=generator)
    expected = stats.entropy(clean.softmax(1).numpy(), probabilities.numpy(), axis=1)
    np.testing.assert_allclose(kl_divergence(clean)(logits, y), expected, rtol=1e-5)
    assert kl_divergence(clean)(clean, y).abs().max() < 1e-6


def test_the_clean_side_of_the_kl_is_constant():
    clean = torch.randn(2, 3, requires_grad=True)
    loss = kl_divergence(clean)(clean * 2, torch.tensor([0, 1])).sum()
    (gradient,) = torch.autograd.grad(loss, clean)
    other = clean.detach().requires_grad_()
    (expected,) = torch.autograd.grad(kl_divergence(clean.detach())(other * 2, torch.tensor([0, 1])).sum(), other)
    torch.testing.assert_close(gradient, expected)


def test_a_samples_gradient_is_its_own_whatever_the_batch(bent):
    model, x, y = bent
    logits, losses, gradient = input_gradient(model, x, lambda z: cross_entropy(z, y))
    assert not logits.requires_grad
    assert not losses.requires_grad
    for i in range(3):
        _, loss, alone = input_gradient(model, x[i : i + 1], lambda z, i=i: cross_entropy(z, y[i : i + 1]))
        torch.testing.assert_close(gradient[i : i + 1], alone, rtol=1e-5, atol=1e-12)
        torch.testing.assert_close(losses[i : i + 1], loss)


def test_gradients_are_taken_inside_no_grad(bent):
    model, x, y = bent
    with torch.no_grad():
        _, _, gradient = input_gradient(model, x, lambda z: cross_entropy(z, y))
    assert gradient.abs().sum() > 0
    assert not x.requires_grad


def test_low_precision_logits_lose_nothing_more():
    logits = torch.tensor([[8.0, 0.0]], dtype=torch.bfloat16)
    loss = cross_entropy(logits, torch.tensor([0]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(np.log1p(np.exp(-8)), rel=1e-3)


def test_only_finite_logits_flip():
    logits = torch.tensor([[2.0, 1.0], [1.0, 2.0], [float("nan"), 2.0], [float("-inf"), 2.0]])
    assert flipped(logits, torch.zeros(4, dtype=torch.int64)).tolist() == [False, True, False, False]


@pytest.mark.parametrize("attack", [APGD(3), FMN(3), Square(3), Tangent(3)], ids=lambda attack: type(attack).__name__)
def test_whoever_writes_a_loss_says_whether_it_is_towards_a_class(attack):
    @towards_a_class
    def towards(logits, labels, target):
        return logit_difference_targeted(logits, labels, target)

    assert replace(attack, climbs=towards).targeted
    assert not replace(attack, climbs=logit_difference).targeted
