"""Attacks on detectors: what they reach on a linear classifier can be computed."""

import pytest
import torch
from torch import Tensor, nn

from temper.attacks.ball import distance
from temper.detection.evasion import raise_score, sure_of_target
from temper.margins.scores import logit_margin


def linear(classes: int = 3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(27, classes))


def scored_by(model: nn.Module):
    def scored(images: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(images)
        return logits, logit_margin(logits)

    return scored


def images(count: int = 12) -> Tensor:
    return 0.4 + 0.2 * torch.rand(count, 3, 3, 3, generator=torch.Generator().manual_seed(1))


OPTIONS = {"ids": torch.arange(12), "steps": 40, "restarts": 2, "seed": 0}


def test_the_loss_is_the_lead_until_the_target_leads_and_then_the_score():
    outputs = torch.tensor([[1.0, 3.0, 2.0, 7.0], [5.0, 3.0, 2.0, 7.0]])
    target = torch.tensor([0, 0])
    assert sure_of_target(outputs, target, target).tolist() == [-2.0, 7.0]


def test_on_two_classes_the_best_score_in_a_ball_is_reached():
    """The logit margin of the other class is linear: its largest value in the ball is gap + eps * ||w||_1."""
    model = linear(2)
    x, eps = images(), torch.full((12,), 0.1, dtype=torch.float64)
    with torch.no_grad():
        logits = model(x)
    y = logits.argmax(1)
    other = 1 - y
    weight = model[1].weight.detach()
    gap = (logits.gather(1, other[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    best = gap + 0.1 * (weight[0] - weight[1]).abs().sum()
    found = raise_score(model, scored_by(model), x, other[:, None], eps, "Linf", **OPTIONS)
    assert torch.equal(found.score > 0, best > 1e-6)
    assert torch.allclose(found.score[best > 1e-6], best[best > 1e-6], rtol=1e-3)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_images_lie_in_ball_and_box_and_are_of_the_class_asked_for(norm):
    model, x = linear(), images()
    with torch.no_grad():
        logits = model(x)
    y = logits.argmax(1)
    targets = logits.scatter(1, y[:, None], -torch.inf).topk(2, 1).indices
    eps = torch.full((12,), {"Linf": 0.1, "L2": 0.4, "L1": 2.0}[norm], dtype=torch.float64)
    found = raise_score(model, scored_by(model), x, targets, eps, norm, **OPTIONS)
    reached = found.score.isfinite()
    assert reached.any()
    assert (distance(found.image.double() - x.double(), norm) <= eps).all()
    assert found.image.min() >= 0
    assert found.image.max() <= 1
    with torch.no_grad():
        after = model(found.image)
    assert (after.argmax(1) != y)[reached].all()
    assert torch.allclose(logit_margin(after)[reached].float(), found.score[reached], atol=1e-5)
    assert torch.equal(found.image[~reached], x[~reached])


def test_the_own_class_as_target_raises_the_score_of_the_decision():
    model, x = linear(), images()
    with torch.no_grad():
        logits = model(x)
    eps = torch.where(torch.arange(12) < 6, 0.05, 0.0).double()
    found = raise_score(model, scored_by(model), x, logits.argmax(1)[:, None], eps, "Linf", **OPTIONS)
    assert (found.score > logit_margin(logits))[:6].all()
    assert not found.score[6:].isfinite().any()  # balls without room are left alone


def test_samples_whose_score_is_enough_cost_nothing_more():
    model, x = linear(), images()
    with torch.no_grad():
        own = model(x).argmax(1)[:, None]
    eps = torch.full((12,), 0.05, dtype=torch.float64)
    once = raise_score(model, scored_by(model), x, own, eps, "Linf", enough=0.0, **OPTIONS)
    assert once.backward == 12 * 40
    assert raise_score(model, scored_by(model), x, own, eps, "Linf", **OPTIONS).backward == 2 * 12 * 40


def test_nothing_of_the_model_is_changed():
    model, x = linear().train(), images()
    before = [parameter.clone() for parameter in model.parameters()]
    raise_score(
        model, scored_by(model), x, torch.zeros(12, 1, dtype=torch.int64), torch.full((12,), 0.1), "Linf", **OPTIONS
    )
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
