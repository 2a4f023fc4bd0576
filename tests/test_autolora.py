"""AutoLoRa: its loss by an independent formula, which weights learn from which images, and what is left of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor
from torch.nn import functional

import tiny
from temper import models
from temper.attacks.losses import cross_entropy
from temper.errors import ArgumentError
from temper.models import Classifier
from temper.models.preprocessing import Preprocessing
from temper.runs.finetune import train_only
from temper.training import learner
from temper.training.branch import TwoBranches, add_branch, drop_branch, through_branch
from temper.training.checkpoints import last_checkpoint, load_checkpoint
from temper.training.config import read_config
from temper.training.objectives import make
from tiny_runs import assert_nearly_same_training, assert_same_weights, config, steps, stopped_and_resumed, weights

GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(6, 3, 8, 8, generator=GENERATOR)
X_ADV = (X + 0.1 * torch.randn(X.shape, generator=GENERATOR)).clamp(0, 1)
Y = torch.tensor([0, 1, 2, 3, 0, 1])
SOFT = functional.one_hot(Y, 10) * 0.75 + 0.025
WEIGHTS = torch.linspace(0.5, 2, 10)
AUTOLORA = {"objective": {"name": "autolora"}, "schedule": {"name": "custom", "function": "tiny:constant"}}


@pytest.fixture(autouse=True)
def _tiny_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def branched(*, moved: bool = True) -> Classifier:
    """A network with a branch, which is one unless ``moved`` is false: it begins at nothing."""
    torch.manual_seed(0)
    classifier = Classifier(tiny.network(), Preprocessing((0.5,) * 3, (0.25,) * 3, 8), head="head")
    add_branch(classifier, 2)
    if moved:
        with torch.no_grad():
            for up in classifier.get_submodule("branch").get_parameter("up.0"):
                up.copy_(torch.randn(2))
    return classifier.eval()


def test_a_branch_begins_as_the_backbone_and_updates_every_layer_but_the_head():
    classifier = branched(moved=False)
    assert torch.equal(through_branch(classifier, X), classifier(X))
    assert classifier.get_submodule("branch").names == ("network.conv.weight",)
    drop_branch(classifier)
    assert set(classifier.state_dict()) == {f"network.{name}" for name in tiny.network().state_dict()}


def test_through_the_branch_go_the_weights_with_its_updates():
    classifier = branched()
    branch, merged = classifier.get_submodule("branch"), branched()
    with torch.no_grad():
        update = branch.get_parameter("up.0") @ branch.get_parameter("down.0") / 2
        assert torch.linalg.matrix_rank(update) == 2
        merged.network.conv.weight += update.view(8, 3, 3, 3)
    torch.testing.assert_close(through_branch(classifier, X), merged(X))
    assert (classifier(X) - merged(X)).abs().max() > 0.01


def losses(labels: Tensor, accuracy: float, class_weights: Tensor | None = None) -> tuple[float, float]:
    """The objective's loss, and the formula's."""
    classifier = branched()
    asked = []

    def attack(x: Tensor, y: Tensor, loss) -> Tensor:
        asked.append((y, loss))
        return X_ADV

    objective = make("autolora", classifier, None, 0.0, class_weights, natural_accuracy=accuracy)
    result = objective(TwoBranches(classifier), X, labels, attack)
    torch.testing.assert_close(result.logits, classifier(X_ADV))
    assert torch.equal(asked[0][0], Y)
    if labels is Y:
        assert asked[0][1] is cross_entropy
    with torch.no_grad():
        p, q = (special.softmax(z.double().numpy(), 1) for z in (through_branch(classifier, X), classifier(X_ADV)))
    shares = labels.double().numpy() if labels.dim() > 1 else np.eye(10)[labels]
    natural, robust = -(shares * np.log(p)).sum(1), -(shares * np.log(q)).sum(1)
    each = (1 - accuracy) * natural + accuracy * robust + 6 * accuracy * special.rel_entr(p, q).sum(1)
    weighed = 1 if class_weights is None else shares @ class_weights.double().numpy()
    return result.loss.item(), float((each * weighed).mean())


@pytest.mark.parametrize("accuracy", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("labels", [Y, SOFT], ids=["one class", "shares"])
def test_the_formula(labels, accuracy):
    loss, expected = losses(labels, accuracy)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_class_weights_weigh_the_whole_loss_of_a_sample():
    loss, expected = losses(Y, 0.4, WEIGHTS)
    assert loss == pytest.approx(expected, rel=1e-5)


def gradients(images: str) -> dict[str, Tensor]:
    """Of what the natural or the attacked half gives; only those that are not 0."""
    classifier = branched()
    natural, attacked = TwoBranches(classifier)(torch.cat([X, X_ADV])).chunk(2)
    ({"natural": natural, "attacked": attacked}[images] ** 2).sum().backward()
    own = [(name, value.grad) for name, value in classifier.named_parameters()]
    return {name: gradient for name, gradient in own if gradient is not None and gradient.any()}


def test_natural_images_teach_the_branch_and_attacked_ones_the_backbone():
    """Both teach the head."""
    head = {"network.head.weight", "network.head.bias"}
    assert set(gradients("natural")) == {"branch.down.0", "branch.up.0"} | head
    assert set(gradients("attacked")) == {f"network.{n}" for n, _ in tiny.network().named_parameters()}


def test_each_half_has_batch_statistics_of_its_own():
    classifier = branched().train()
    TwoBranches(classifier)(torch.cat([X, X_ADV]))
    assert classifier.network.norm.num_batches_tracked == 2


def test_it_trains_all_weights():
    with pytest.raises(ArgumentError, match=r"protocol.name = 'lora': objective autolora trains all weights"):
        read_config({"objective": {"name": "autolora"}, "protocol": {"name": "lora"}})


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_what_is_kept_is_the_plain_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The accuracy that weighs its terms is measured as each epoch begins, and its passes are counted."""
    measured: list[float] = []

    def noted(session, epoch: int) -> float:
        measured.append(measure(session, epoch))
        return measured[-1]

    measure = learner.natural_accuracy
    monkeypatch.setattr(learner, "natural_accuracy", noted)
    run = train_only(read_config(config(tmp_path / "run", **AUTOLORA)))
    before = models.load("tiny:network", num_classes=10, image_size=8, seed=0).state_dict()
    assert {f"network.{name}" for name in weights(run)} == set(before)
    assert not torch.equal(weights(run)["conv.weight"], before["network.conv.weight"])
    assert len(measured) == 3
    assert 0 < measured[-1] < 1
    newest = last_checkpoint(run.folder / "checkpoints")
    assert newest is not None
    saved = load_checkpoint(newest)
    assert saved.progress.natural_accuracy == measured[-1]
    assert saved.model["branch.up.0"].abs().max() > 0
    # PGD with two steps, the update of both images, and a look at each image as an epoch begins.
    assert run.trained is not None
    assert run.trained.passes.forward == 3 * 90 * (2 + 2 + 1)
    assert run.trained.passes.backward == 3 * 90 * (2 + 2)


@pytest.mark.slow
@pytest.mark.numerical
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("more", [{}, {"optimiser": {"awp": 0.02, "ema": 0.9}}], ids=["plain", "with awp and ema"])
def test_stopped_and_resumed_it_ends_bit_identical(more, tmp_path: Path) -> None:
    own = AUTOLORA | more
    whole = train_only(read_config(config(tmp_path / "whole", **own)))
    resumed = stopped_and_resumed(tmp_path / "run", **own)
    assert_same_weights(resumed, whole)
    assert steps(resumed) == steps(whole)
    assert resumed.trained == whole.trained


@pytest.mark.slow
@pytest.mark.numerical
@pytest.mark.usefixtures("undrawn", "warm_processes")
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    same = AUTOLORA | {"model": {"name": "tiny:plain", "image_size": 8}, "epochs": 2, "precision": "fp32"}
    one = train_only(read_config(config(tmp_path / "one", **same)))
    two = train_only(read_config(config(tmp_path / "two", **same, devices=2)))
    assert_nearly_same_training(one, two)
