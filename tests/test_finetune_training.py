"""What a fine-tuning computes: attacks, objectives, protocols, several processes, and losses that are not finite."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tiny
from temper import models
from temper.errors import NonFiniteLossError
from temper.runs.finetune import finetune, train_only
from temper.training import crafter
from temper.training.checkpoints import last_checkpoint
from temper.training.config import read_config
from tiny_runs import assert_nearly_same_training, config, steps, weights

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def _tiny_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def test_no_attack_runs_while_epsilon_is_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacked: list[float] = []

    def spy(attack: Any, model: Any, x: torch.Tensor, y: Any, eps: float, *args: Any, **options: Any) -> torch.Tensor:
        attacked.append(eps)
        return x

    monkeypatch.setattr(crafter, "perturb", spy)
    run = finetune(config(tmp_path / "run", schedule={"name": "abrupt", "start": 1 / 3}, epochs=3))
    # T1 is the end of epoch 1; its last step is the first at full epsilon (the ramp's end counts as reached).
    assert [row["eps"] > 0 for row in steps(run)] == [False, False] + [True] * 7
    assert attacked == [16 / 255] * 7


def test_standard_objective_never_attacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crafter, "perturb", None)
    run = finetune(config(tmp_path / "run", objective={"name": "standard"}))
    assert run.finished


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trades", "trades-guide", "mart"])
@pytest.mark.parametrize("attack", [{"name": "apgd", "steps": 2}])
def test_objectives_train(name: str, attack: dict[str, Any], tmp_path: Path) -> None:
    run = finetune(config(tmp_path / "run", objective={"name": name}, attack=attack, epochs=2))
    assert np.isfinite([row["loss"] for row in steps(run)]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("L2", 0.5), ("L1", 3.0)])
def test_other_norms_train_and_are_measured(norm: str, eps: float, tmp_path: Path) -> None:
    run = finetune(config(tmp_path / "run", norm=norm, eps=eps, epochs=2))
    assert f"robust accuracy at {norm}:{eps:g}" in run.record["results"]


def test_linear_probe_changes_the_head_alone(tmp_path: Path) -> None:
    before = models.load("tiny:network", num_classes=10, image_size=8, seed=0).state_dict()
    run = finetune(config(tmp_path / "run", protocol={"name": "linear"}))
    after = models.load(run.folder).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"network.head.weight", "network.head.bias"}  # not even batch-norm statistics


def test_linear_then_full_changes_the_backbone_in_its_second_phase(tmp_path: Path) -> None:
    before = models.load("tiny:network", num_classes=10, image_size=8, seed=0).state_dict()
    run = finetune(config(tmp_path / "run", protocol={"name": "linear-then-full"}, epochs=4))
    after = models.load(run.folder).state_dict()
    assert not torch.equal(before["network.conv.weight"], after["network.conv.weight"])
    rates = [row["lr"] for row in steps(run)]
    assert rates[3] > rates[2]  # each phase has a learning-rate schedule of its own


def test_the_last_layer_alone_may_have_a_learning_rate_of_its_own(tmp_path: Path) -> None:
    protocol = {"name": "linear-then-full", "linear_share": 0.5, "linear_lr": 0.05}
    optimiser = {"lr_schedule": "constant", "warmup": 0}
    run = train_only(read_config(config(tmp_path / "run", protocol=protocol, optimiser=optimiser, epochs=2)))
    assert [row["lr"] for row in steps(run)] == [0.05] * 3 + [0.001] * 3


@pytest.mark.slow
def test_lora_is_merged_into_plain_weights(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    before = models.load("tiny:network", num_classes=10, image_size=8, seed=0).state_dict()
    settings = config(tmp_path / "run", protocol={"name": "lora", "lora_rank": 2}, epochs=2)
    after = models.load(finetune(settings).folder).state_dict()
    assert after.keys() == before.keys()
    assert torch.equal(before["network.conv.bias"], after["network.conv.bias"])
    update = (after["network.conv.weight"] - before["network.conv.weight"]).flatten(1)
    assert 1 <= torch.linalg.matrix_rank(update, tol=1e-6) <= 2


@pytest.mark.slow
@pytest.mark.numerical
def test_accumulated_gradients_equal_the_whole_batch(tmp_path: Path) -> None:
    plain = {"name": "tiny:plain", "image_size": 8}
    whole = finetune(config(tmp_path / "whole", model=plain, precision="fp32"))
    parts = finetune(config(tmp_path / "parts", model=plain, precision="fp32", micro_batch=7))
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.numerical
def test_two_processes_equal_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "temper")
    # bf16 rounds the same sums differently in another order, on machines that compute it.
    same: dict[str, Any] = {"model": {"name": "tiny:plain", "image_size": 8}, "epochs": 2, "precision": "fp32"}
    one = finetune(config(tmp_path / "one", **same))
    caplog.clear()
    two = finetune(config(tmp_path / "two", **same, devices=2))
    assert [line[:14] for line in caplog.messages if "epoch" in line] == ["two, epoch 1/2", "two, epoch 2/2"]
    assert [row["step"] for row in steps(two)] == [row["step"] for row in steps(one)]
    assert_nearly_same_training(one, two)


def poisoned(out: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A run whose numbers cease to be finite in its second epoch, or sooner."""
    if way == "rate":
        return config(out, optimiser={"backbone_lr": 1e30, "head_lr": 1e30})
    if way == "bf16":
        return config(out, precision="bf16", optimiser={"backbone_lr": 1e20, "head_lr": 1e20})
    forward, asked = tiny.Tiny.forward, []

    def spoilt(self: tiny.Tiny, x: torch.Tensor) -> torch.Tensor:
        logits = forward(self, x)
        asked.extend([1] * self.training)
        if not self.training or len(asked) < 6:
            return logits
        if way == "loss":
            return logits * torch.nan
        if way == "gradient":
            return logits + (logits * 0).abs().sqrt()  # whose slope at 0 is no number
        self.norm.running_var.data.fill_(torch.inf)
        return logits

    monkeypatch.setattr(tiny.Tiny, "forward", spoilt)
    return config(out)


@pytest.mark.parametrize(
    ("way", "cause"),
    [
        ("rate", "the loss is nan|a gradient is not finite|is not finite after the update"),
        ("bf16", "the loss is (nan|inf)|a gradient is not finite|is not finite after the update"),
        ("loss", "the loss is nan, on samples "),
        ("gradient", r"a gradient is not finite \(the loss is \d"),
        ("statistics", "norm.running_var is not finite after the update"),
    ],
)
def test_what_is_not_finite_ends_training_in_one_line(way, cause, tmp_path, monkeypatch) -> None:
    with pytest.raises(NonFiniteLossError, match=rf"stops in epoch \d at step \d+: .*({cause})") as caught:
        finetune(poisoned(tmp_path / "run", way, monkeypatch))
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 500
    assert "lower optimiser.backbone_lr" in said
    good = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert f"last good checkpoint: {good or 'none yet'}" in said
    assert good is not None or way in ("rate", "bf16")
    if good is not None:
        assert all(tensor.isfinite().all() for tensor in load_file(good / "model.safetensors").values())
    assert not (tmp_path / "run" / "model.json").exists()


def test_a_last_update_that_spoils_the_weights_is_no_finished_run(tmp_path: Path) -> None:
    """No later loss tells of it."""
    one = config(tmp_path / "run", epochs=1, batch_size=90, optimiser={"backbone_lr": 1e30, "head_lr": 1e30})
    with pytest.raises(
        NonFiniteLossError, match=r"epoch 1 at step 1: logits on \d+ of 29 validation samples .*none yet"
    ):
        finetune(one)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["at", "trades"])
def test_auto_attacks_in_a_short_training(tmp_path: Path, objective: str) -> None:
    run = finetune(config(tmp_path / "run", schedule={"name": "auto"}, objective={"name": objective}))
    assert [row["eps"] for row in run.history()] == pytest.approx([0, 8 / 255, 16 / 255])
