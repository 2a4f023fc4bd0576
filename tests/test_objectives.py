"""Objectives: each formula against an independent computation, and what is left of it without an attack."""

from typing import get_args

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor, nn
from torch.nn import functional

from temper.attacks.losses import cross_entropy
from temper.training.objectives import OBJECTIVES, make
from temper.training.sections.learning import ObjectiveName

GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(6, 3, 4, 4, generator=GENERATOR)
X_ADV = (X + 0.1 * torch.randn(X.shape, generator=GENERATOR)).clamp(0, 1)
Y = torch.tensor([0, 1, 2, 3, 0, 1])
WEIGHT = torch.randn(48, 4, generator=GENERATOR)


def model(x: Tensor) -> Tensor:
    return x.flatten(1) @ WEIGHT


class Attack:
    """Returns X_ADV and remembers which loss it was asked to climb."""

    def __init__(self) -> None:
        self.losses: list = []

    def __call__(self, x: Tensor, y: Tensor, loss) -> Tensor:
        assert torch.equal(x, X)
        assert torch.equal(y, Y)
        self.losses.append(loss)
        return X_ADV


def probabilities(x: Tensor) -> np.ndarray:
    return special.softmax(x.flatten(1).double().numpy() @ WEIGHT.double().numpy(), 1)


P, Q = probabilities(X), probabilities(X_ADV)  # clean, attacked
ROWS = np.arange(6)
CE_CLEAN, CE_ATTACKED = -np.log(P[ROWS, Y]), -np.log(Q[ROWS, Y])
KL = special.rel_entr(P, Q).sum(1)


def boosted(p: np.ndarray) -> np.ndarray:
    others = p.copy()
    others[ROWS, Y] = 0
    return -np.log(p[ROWS, Y]) - np.log(1 - others.max(1))


FORMULAS = {
    "standard": CE_CLEAN.mean(),
    "at": CE_ATTACKED.mean(),
    "trades": CE_CLEAN.mean() + 6 * KL.mean(),
    "trades-guide": CE_CLEAN.mean() + KL.mean(),
    "mart": (boosted(Q) + 5 * KL * (1 - P[ROWS, Y])).mean(),
}
CLEAN_FORMS = dict.fromkeys(FORMULAS, CE_CLEAN.mean()) | {"mart": boosted(P).mean()}


def test_every_name_is_covered():
    """Those that ask for something else than logits have tests of their own."""
    assert set(get_args(ObjectiveName)) == {*FORMULAS, "autolora", "twins", "fare"}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name):
    result = make(name, model, None, 0.0)(model, X, Y, Attack())
    assert result.loss.item() == pytest.approx(FORMULAS[name], rel=1e-5)
    judged = X if name == "standard" else X_ADV
    torch.testing.assert_close(result.logits, model(judged))


@pytest.mark.parametrize("name", ["trades", "trades-guide", "mart"])
def test_beta_weighs_the_divergence(name):
    at = [make(name, model, beta, 0.0)(model, X, Y, Attack()).loss.item() for beta in (0.0, 1.0, 3.0)]
    divergence = (KL * (1 - P[ROWS, Y])).mean() if name == "mart" else KL.mean()
    assert np.diff(at) == pytest.approx([divergence, 2 * divergence], rel=1e-4)


@pytest.mark.parametrize("name", FORMULAS)
def test_without_an_attack_the_clean_form_is_left(name):
    """At eps = 0: one pass over the clean images, nothing crafted."""
    passes = []

    def counted(x: Tensor) -> Tensor:
        passes.append(x)
        return model(x)

    def never(x: Tensor) -> Tensor:
        raise AssertionError("nothing is crafted at eps = 0")

    result = make(name, never, None, 0.0)(counted, X, Y, None)
    assert result.loss.item() == pytest.approx(CLEAN_FORMS[name], rel=1e-5)
    assert len(passes) == 1
    assert torch.equal(passes[0], X)
    torch.testing.assert_close(result.logits, model(X))


@pytest.mark.parametrize("name", FORMULAS)
def test_the_clean_form_is_the_limit(name):
    """An attack that moves nothing gives the same loss as none."""
    with_attack = make(name, model, None, 0.0)(model, X, Y, lambda x, y, loss: x).loss
    assert with_attack.item() == pytest.approx(CLEAN_FORMS[name], rel=1e-5)


def test_standard_never_attacks():
    attack = Attack()
    make("standard", model, None, 0.0)(model, X, Y, attack)
    assert attack.losses == []


@pytest.mark.parametrize("name", ["at", "trades-guide", "mart"])
def test_most_attacks_climb_cross_entropy(name):
    attack = Attack()
    make(name, model, None, 0.0)(model, X, Y, attack)
    assert attack.losses == [cross_entropy]


def test_the_trades_attack_climbs_the_divergence_from_the_crafting_model():
    """The clean logits it moves away from are those of the model that is attacked (eval mode), held constant."""
    attack, crafted = Attack(), []

    def craft_logits(x: Tensor) -> Tensor:
        crafted.append(torch.is_grad_enabled())
        return model(x)

    make("trades", craft_logits, None, 0.0)(model, X, Y, attack)
    assert crafted == [False]
    (loss,) = attack.losses
    np.testing.assert_allclose(loss(model(X_ADV), Y), KL, rtol=1e-4)
    np.testing.assert_allclose(loss(model(X), Y), 0, atol=1e-6)


def gradients(name: str) -> tuple[Tensor, Tensor]:
    """Gradients of the loss with respect to the clean and to the attacked logits."""
    logits: list[Tensor] = []

    def watched(x: Tensor) -> Tensor:
        out = model(x).requires_grad_()
        logits.append(out)
        return out

    loss = make(name, model, None, 0.0)(watched, X, Y, Attack()).loss
    (gradient,) = torch.autograd.grad(loss, logits)
    clean, attacked = gradient.chunk(2)
    return clean, attacked


@pytest.mark.parametrize(("name", "beta"), [("trades", 6.0), ("trades-guide", 1.0)])
def test_both_branches_of_trades_learn(name, beta):
    """d KL(p || q) / d clean logits = p (log p - log q - KL); / d attacked logits = q - p."""
    clean, attacked = gradients(name)
    onehot = np.eye(4)[Y]
    np.testing.assert_allclose(attacked, beta * (Q - P) / 6, atol=1e-6)
    through_clean = P * (np.log(P) - np.log(Q) - KL[:, None])
    np.testing.assert_allclose(clean, (P - onehot + beta * through_clean) / 6, atol=1e-5)


def test_mart_stays_finite_where_a_wrong_class_is_certain():
    logits = torch.tensor([[100.0, 0.0, -100.0]]).repeat(2, 1).requires_grad_()
    loss = make("mart", model, None, 0.0)(lambda x: logits, X[:1], Y[1:2], lambda x, y, loss: x).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", ["standard", "at", "trades", "trades-guide"])
def test_label_smoothing_smooths_the_cross_entropy_alone(name):
    smooth, plain = (make(name, model, None, share)(model, X, Y, Attack()).loss for share in (0.1, 0.0))
    judged = model(X_ADV if name == "at" else X)
    expected = functional.cross_entropy(judged, Y, label_smoothing=0.1) - functional.cross_entropy(judged, Y)
    assert (smooth - plain).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", ["trades", "trades-guide", "mart"])
def test_batch_norm_sees_clean_and_attacked_images_in_one_pass(name):
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 4))
    make(name, model, None, 0.0)(network, X, Y, Attack())
    assert network[0].num_batches_tracked == 1
    expected = 0.1 * torch.cat([X, X_ADV]).mean((0, 2, 3))
    torch.testing.assert_close(network[0].running_mean, expected)


SOFT = torch.tensor(
    [[0.7, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, 0.5], [0.1, 0, 0, 0.9], [0, 0.2, 0.8, 0], [1, 0, 0, 0]]
)
CE_SOFT = {name: -(SOFT.double().numpy() * np.log(p)).sum(1) for name, p in (("clean", P), ("attacked", Q))}
SOFT_FORMULAS = {
    "standard": CE_SOFT["clean"].mean(),
    "at": CE_SOFT["attacked"].mean(),
    "trades": CE_SOFT["clean"].mean() + 6 * KL.mean(),
    "trades-guide": CE_SOFT["clean"].mean() + KL.mean(),
}


class Soft(Attack):
    """The same for soft labels, of which an attack is told the largest."""

    def __call__(self, x: Tensor, y: Tensor, loss) -> Tensor:
        assert torch.equal(y, SOFT.argmax(1))
        self.losses.append(loss)
        return X_ADV


def test_the_table_says_who_bears_soft_labels():
    assert {name for name, facts in OBJECTIVES.items() if facts.labels == "shares"} == {
        *SOFT_FORMULAS,
        "autolora",
        "twins",
    }


@pytest.mark.parametrize("name", SOFT_FORMULAS)
def test_soft_labels(name):
    assert make(name, model, None, 0.0)(model, X, SOFT, Soft()).loss.item() == pytest.approx(SOFT_FORMULAS[name])


@pytest.mark.parametrize("name", ["at", "trades-guide"])
def test_with_soft_labels_the_attack_climbs_every_class_by_its_share(name):
    attack = Soft()
    make(name, model, None, 0.0)(model, X, SOFT, attack)
    np.testing.assert_allclose(attack.losses[0](model(X_ADV), SOFT.argmax(1)), CE_SOFT["attacked"], rtol=1e-5)


WEIGHTS = np.array([0.5, 2.0, 1.0, 3.0])
LOSSES = {
    "standard": CE_CLEAN,
    "at": CE_ATTACKED,
    "trades": CE_CLEAN + 6 * KL,
    "trades-guide": CE_CLEAN + KL,
    "mart": boosted(Q) + 5 * KL * (1 - P[ROWS, Y]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_class_weights_weigh_the_whole_loss_of_a_sample(name):
    """Over the number of samples, not over the weights in the batch: parts of a batch add up to the whole."""
    objective = make(name, model, None, 0.0, torch.tensor(WEIGHTS, dtype=torch.float32))
    assert objective(model, X, Y, Attack()).loss.item() == pytest.approx((LOSSES[name] * WEIGHTS[Y]).mean())


def test_a_mixture_counts_what_its_classes_count():
    objective = make("at", model, None, 0.0, torch.tensor(WEIGHTS, dtype=torch.float32))
    expected = (CE_SOFT["attacked"] * (SOFT.numpy() @ WEIGHTS)).mean()
    assert objective(model, X, SOFT, Soft()).loss.item() == pytest.approx(expected)
