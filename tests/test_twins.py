"""TWINS: its loss by an independent formula, what each wing normalises by and learns, and what is left of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor, nn
from torch.nn import functional

import tiny
from temper import models
from temper.attacks.losses import cross_entropy
from temper.errors import ArgumentError
from temper.models import Classifier
from temper.models.preprocessing import Preprocessing
from temper.runs.finetune import finetune, train_only
from temper.training.averaging import EpochAverage
from temper.training.checkpoints import last_checkpoint, load_checkpoint
from temper.training.config import read_config
from temper.training.objectives import make
from temper.training.objectives.twins import halves
from temper.training.optimisation import make_optimiser
from temper.training.wings import TwoWings, add_wing, drop_wing, through_frozen
from tiny_runs import assert_nearly_same_training, assert_same_weights, config, steps, stopped_and_resumed, weights

GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(6, 3, 8, 8, generator=GENERATOR)
X_ADV = (X + 0.1 * torch.randn(X.shape, generator=GENERATOR)).clamp(0, 1)
Y = torch.tensor([0, 1, 2, 3, 0, 1])
SOFT = functional.one_hot(Y, 10) * 0.75 + 0.025
WEIGHTS = torch.linspace(0.5, 2, 10)
TWINS = {"objective": {"name": "twins"}, "schedule": {"name": "custom", "function": "tiny:constant"}}
WINGS = {f"wing.held.0.{name}" for name in ("weight", "bias")}
STATISTICS = ("running_mean", "running_var")


@pytest.fixture(autouse=True)
def _tiny_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def pretrained() -> Classifier:
    """A network whose batch norm has seen images and learnt something."""
    torch.manual_seed(0)
    classifier = Classifier(tiny.network(), Preprocessing((0.5,) * 3, (0.25,) * 3, 8), head="head")
    classifier.network.dropout.p = 0.0
    norm = classifier.network.norm
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            value.add_(torch.rand(8))
    return classifier.eval()


def winged(*, moved: bool = True) -> Classifier:
    """The same with a frozen wing, whose adaptive one has moved on unless told otherwise."""
    classifier = pretrained()
    add_wing(classifier)
    if moved:
        norm = classifier.network.norm
        with torch.no_grad():
            for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                value.mul_(1.5)
    return classifier


def test_both_wings_begin_as_the_network_and_what_is_left_is_plain():
    classifier, before = winged(moved=False), pretrained()
    assert torch.equal(classifier(X), before(X))
    assert torch.equal(through_frozen(classifier, X), before(X))
    assert {name for name, _ in classifier.named_parameters() if name.startswith("wing.")} == WINGS
    drop_wing(classifier)
    assert set(classifier.state_dict()) == set(before.state_dict())


def test_the_frozen_wing_normalises_by_pretraining_whatever_the_mode():
    classifier, expected = winged(), pretrained()(X)
    for mode in (True, False):
        torch.testing.assert_close(through_frozen(classifier.train(mode), X), expected)
        assert all(module.training == mode for module in classifier.network.modules())
    assert (classifier.eval()(X) - expected).abs().max() > 0.01


def test_an_update_moves_the_statistics_of_the_adaptive_wing_alone():
    classifier, alone = winged().train(), winged().train()
    TwoWings(classifier)(X)
    alone(halves(X)[1])
    own, held = classifier.network.norm, classifier.get_submodule("wing.held.0")
    for name in STATISTICS:
        assert torch.equal(own.get_buffer(name), alone.network.norm.get_buffer(name))
        assert torch.equal(held.get_buffer(name), pretrained().network.norm.get_buffer(name))
    assert own.num_batches_tracked == 1


def test_measuring_statistics_anew_leaves_pretraining_s():
    classifier = winged()
    EpochAverage(1).after_epoch(classifier, 1, lambda: torch.optim.swa_utils.update_bn([X], classifier))
    held = classifier.get_submodule("wing.held.0")
    assert all(torch.equal(held.get_buffer(n), pretrained().network.norm.get_buffer(n)) for n in STATISTICS)


def learning(wing: str) -> set[str]:
    """The parameters that what one wing says teaches."""
    classifier = winged().train()
    frozen, adaptive = halves(TwoWings(classifier)(X))
    ({"frozen": frozen, "adaptive": adaptive}[wing] ** 2).sum().backward()
    return {name for name, value in classifier.named_parameters() if value.grad is not None and value.grad.any()}


def test_the_wings_share_all_but_scale_and_shift():
    shared = {f"network.{layer}.{kind}" for layer in ("conv", "head") for kind in ("weight", "bias")}
    own = {f"network.norm.{kind}" for kind in ("weight", "bias")}
    assert learning("frozen") == shared | WINGS
    # Batch statistics take the convolution's shift away again, whatever it is.
    assert learning("adaptive") | {"network.conv.bias"} == shared | own


def test_the_frozen_wing_is_trained_as_a_norm_of_the_backbone():
    """At the backbone's rate, and without decay."""
    classifier, settings = winged(), read_config({"optimiser": {"backbone_lr": 0.5, "head_lr": 0.25}}).optimiser
    groups = make_optimiser(classifier, settings).param_groups
    norms = {id(value) for name, value in classifier.named_parameters() if name in WINGS}
    (group,) = (each for each in groups if norms & {id(value) for value in each["params"]})
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.0)


def test_a_wing_holds_what_batch_norms_have():
    """One without scale and shift, one in a row with another, and none that keeps no statistics."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, track_running_stats=False), nn.Flatten(), nn.Linear(192, 4)
    )
    classifier = Classifier(network, Preprocessing((0.5,) * 3, (0.25,) * 3, 8), head="3")
    add_wing(classifier)
    names = set(classifier.get_submodule("wing").state_dict())
    assert names == {f"held.0.{name}" for name in STATISTICS}
    assert TwoWings(classifier.train())(X).shape == (6, 4)


def losses(labels: Tensor, beta: float | None, size: int = 6, counted: Tensor | None = None) -> tuple[float, float]:
    """The objective's loss of so many images, and the formula's."""
    classifier, asked = winged(), []

    def attack(x: Tensor, y: Tensor, loss) -> Tensor:
        asked.append((x, y, loss))
        return X_ADV[:size]

    result = make("twins", classifier, beta, 0.0, counted)(TwoWings(classifier), X[:size], labels[:size], attack)
    ((x, y, loss),) = asked  # one attack on all of them
    assert torch.equal(x, X[:size])
    assert torch.equal(y, Y[:size])
    assert (loss is cross_entropy) == (labels is Y)
    with torch.no_grad():
        frozen, adaptive = pretrained()(X_ADV[: size // 2]), classifier(X_ADV[size // 2 : size])
    torch.testing.assert_close(result.logits, torch.cat([frozen, adaptive]))
    p = special.softmax(torch.cat([frozen, adaptive]).double().numpy(), 1)
    shares = labels[:size].double().numpy() if labels.dim() > 1 else np.eye(10)[labels[:size]]
    each = -(shares * np.log(p)).sum(1) * (1 if counted is None else shares @ counted.double().numpy())
    factors = np.where(np.arange(size) < size // 2, 1 if beta is None else beta, 1)
    return result.loss.item(), float((each * factors).sum() / (size / 2))


@pytest.mark.parametrize("beta", [None, 0.0, 0.4])
@pytest.mark.parametrize("labels", [Y, SOFT], ids=["one class", "shares"])
def test_the_formula(labels, beta):
    loss, expected = losses(labels, beta)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_of_an_odd_number_of_images_each_counts_as_much():
    loss, expected = losses(Y, 0.4, size=5)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_class_weights_weigh_the_loss_of_a_sample():
    loss, expected = losses(Y, 0.4, counted=WEIGHTS)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_without_an_attack_both_wings_see_clean_images():
    classifier = winged()

    def never(x: Tensor) -> Tensor:
        raise AssertionError("nothing is crafted at eps = 0")

    result = make("twins", never, None, 0.0)(TwoWings(classifier), X, Y, None)
    torch.testing.assert_close(result.logits, TwoWings(classifier)(X))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"protocol": {"name": "lora"}}, r"protocol.name = 'lora': objective twins trains all weights and a frozen"),
        ({"batch_size": 7, "devices": 2}, r"batch_size = 7: leaves less than 4 samples for each of 2 devices"),
        ({"micro_batch": 3}, r"micro_batch = 3: objective twins halves what is in it; give at least 4"),
    ],
)
def test_what_cannot_be_halved_or_trained_is_refused(own, message):
    with pytest.raises(ArgumentError, match=message):
        read_config({"objective": {"name": "twins"}, **own})


def test_a_backbone_without_batch_norm_is_refused(tmp_path):
    own = config(tmp_path / "run", **TWINS | {"model": {"name": "tiny:plain", "image_size": 8}})
    with pytest.raises(ArgumentError, match=r"objective.name = 'twins': .*tiny:plain has none; take at, or another"):
        finetune(own)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_what_is_kept_is_the_plain_adaptive_wing(tmp_path: Path) -> None:
    """Both wings' scales have learnt; frozen statistics are pretraining's to the end. Two updates without an attack and
    seven with PGD's two steps cost what those of adversarial training cost."""
    schedule = {"name": "abrupt", "start": 0.34}
    run = train_only(read_config(config(tmp_path / "run", objective={"name": "twins"}, schedule=schedule)))
    before = models.load("tiny:network", num_classes=10, image_size=8, seed=0).state_dict()
    assert {f"network.{name}" for name in weights(run)} == set(before)
    newest = last_checkpoint(run.folder / "checkpoints")
    assert newest is not None
    saved = load_checkpoint(newest).model
    for name in STATISTICS:
        assert torch.equal(saved[f"wing.held.0.{name}"], before[f"network.norm.{name}"])
        assert torch.equal(weights(run)[f"norm.{name}"], saved[f"network.norm.{name}"])
        assert not torch.equal(saved[f"network.norm.{name}"], before[f"network.norm.{name}"])
    assert not torch.equal(saved["wing.held.0.weight"], saved["network.norm.weight"])
    assert run.trained is not None
    assert run.trained.passes.forward == run.trained.passes.backward == 30 * (2 * 1 + 7 * (1 + 2))


@pytest.mark.slow
@pytest.mark.numerical
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "more",
    [
        {"micro_batch": 7},
        {"optimiser": {"awp": 0.02, "ema": 0.9}},
        {"precision": "bf16", "norm": "Linf,L1", "eps": "16/255,6"},
    ],
    ids=["in parts", "with awp and ema", "in bf16, in two norms"],
)
def test_stopped_and_resumed_it_ends_bit_identical(more, tmp_path: Path) -> None:
    own = TWINS | more
    whole = train_only(read_config(config(tmp_path / "whole", **own)))
    resumed = stopped_and_resumed(tmp_path / "run", **own)
    assert_same_weights(resumed, whole)
    assert steps(resumed) == steps(whole)
    assert resumed.trained == whole.trained


@pytest.mark.slow
@pytest.mark.numerical
@pytest.mark.usefixtures("undrawn", "warm_processes")
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    """On a batch norm that takes running statistics in training, too: else each process has a batch of its own."""
    model = {"name": "tiny:steady", "image_size": 8}
    same = TWINS | {"model": model, "data": {"train_limit": 96}, "batch_size": 32, "epochs": 2, "precision": "fp32"}
    one = train_only(read_config(config(tmp_path / "one", **same)))
    two = train_only(read_config(config(tmp_path / "two", **same, devices=2)))
    assert_nearly_same_training(one, two)
