"""FARE: embeddings of attacked images are kept where the original's of the clean ones were; small random towers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from temper.attacks.attack import perturb
from temper.attacks.pgd import PGD
from temper.core import randomness
from temper.errors import ArgumentError
from temper.models.text_head import Tower
from temper.runs.finetune import train_only
from temper.runs.run import Run
from temper.training.config import completed, read_config
from temper.training.objectives import make
from temper.training.objectives.fare import distance_from
from tiny_runs import assert_nearly_same_training, assert_same_weights, config, steps, stopped_and_resumed, weights
from zero_shot import ARGS, NAMES, TOWER, images, load, write_texts

Y = torch.zeros(3, dtype=torch.int64)
CONSTANT = {"name": "custom", "function": "tiny:constant"}
FARE = {
    "objective": {"name": "fare"},
    "model": {"name": f"{TOWER}+texts.safetensors", "weights": "none", "args": ARGS, "image_size": 8},
    "precision": "fp32", "epochs": 2, "schedule": CONSTANT,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    write_texts("texts.safetensors")


@torch.no_grad()
def test_the_loss_is_the_squared_distance_of_embeddings_that_are_not_normalised():
    trained, before = load(seed=1), load(seed=2)
    moved = (images() + 0.1).clamp(0, 1)
    climbed = []

    def attack(x: Tensor, y: Tensor, loss) -> Tensor:
        climbed.append(loss)
        return moved

    objective = make("fare", trained, None, 0.0, original=Tower(before), head=trained.network.logits_from)
    result = objective(Tower(trained), images(), Y, attack)
    after = trained.network.tower((moved - trained.mean) / trained.std).double()
    expected = ((after - before.network.tower((images() - before.mean) / before.std).double()) ** 2).sum(1)
    np.testing.assert_allclose(climbed[0](Tower(trained)(moved), Y), expected, rtol=1e-4)
    assert result.loss.item() == pytest.approx(expected.mean().item(), rel=1e-4)
    torch.testing.assert_close(result.logits, trained(moved))
    still = objective(Tower(trained), images(), Y, None)
    assert still.loss.item() == pytest.approx(
        ((Tower(trained)(images()) - Tower(before)(images())) ** 2).sum(1).mean().item(), rel=1e-4
    )


def test_the_attack_starts_at_random_because_there_is_no_slope_at_the_image():
    tower = Tower(load())
    loss = distance_from(tower(images()))
    x = images().requires_grad_()
    (slope,) = torch.autograd.grad(loss(tower(x), Y).sum(), x)
    assert slope.abs().max() < 1e-4
    assert completed(read_config({"objective": {"name": "fare"}})).attack.random_start
    keys = randomness.sample_keys(0, torch.arange(3), "test")
    start, found = (perturb(PGD(n, climbs=loss), tower, images(), Y, 0.03, "Linf", keys=keys) for n in (1, 10))
    assert (loss(tower(found), Y) > loss(tower(start), Y)).all()


def test_it_needs_a_tower():
    with pytest.raises(ArgumentError, match=r"objective.name = 'fare': matches the embeddings .* clip:NAME"):
        train_only(read_config(config(Path("run"), objective={"name": "fare"})))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that nobody stops."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        patch.chdir(folder)
        write_texts("texts.safetensors")
        return train_only(read_config(config(folder / "run", **FARE)))


@pytest.mark.slow
@pytest.mark.numerical
@pytest.mark.usefixtures("undrawn")
def test_the_tower_stays_near_what_it_was_and_labels_are_not_read(whole: Run) -> None:
    """Passes: a look of the original, PGD with two steps, and the update."""
    before, after = load().network.state_dict(), load_file(whole.folder / "weights.safetensors")
    assert torch.equal(after["head.weight"], before["head.weight"])
    assert not torch.equal(after["tower.head.weight"], before["tower.head.weight"])
    assert whole.trained is not None
    assert (whole.trained.passes.forward, whole.trained.passes.backward) == (2 * 90 * 4, 2 * 90 * 3)
    write_texts("texts.safetensors", tuple(reversed(NAMES)))  # every label means something else
    turned = train_only(read_config(config(Path("turned"), **FARE)))
    own = weights(turned)
    assert all(torch.equal(own[name], value) for name, value in weights(whole).items() if name != "head.weight")
    assert [row["loss"] for row in steps(turned)] == [row["loss"] for row in steps(whole)]


@pytest.mark.slow
@pytest.mark.numerical
@pytest.mark.usefixtures("undrawn")
def test_stopped_and_resumed_it_ends_bit_identical(whole: Run) -> None:
    """What it is kept near to is the tower before training, whenever it goes on."""
    resumed = stopped_and_resumed(Path("run"), **FARE)
    assert_same_weights(resumed, whole)
    assert steps(resumed) == steps(whole)


@pytest.mark.slow
@pytest.mark.numerical
@pytest.mark.usefixtures("undrawn", "warm_processes")
def test_two_processes_give_what_one_gives(whole: Run) -> None:
    two = train_only(read_config(config(Path("two"), **FARE, devices=2)))
    assert_nearly_same_training(whole, two, atol=2e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_with_perturbed_weights_the_original_is_looked_at_once() -> None:
    run = train_only(read_config(config(Path("run"), **FARE, optimiser={"awp": 0.01, "awp_warmup": 0})))
    assert run.trained is not None
    assert run.trained.passes.forward == 2 * 90 * 5
