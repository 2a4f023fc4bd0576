"""What can be added to training, each in a whole run: stopped and resumed, it ends bit for bit as if it had not been;
two processes give what one gives; and it does what it is for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tiny
from temper import models
from temper.core.interrupt import Stopped
from temper.runs.finetune import finetune, train_only
from temper.runs.run import Run
from temper.training.checkpoints import last_checkpoint
from temper.training.config import read_config
from tiny_runs import assert_same_weights, config, steps, weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

#: Every piece, by what it adds to the configuration.
PIECES: dict[str, dict[str, Any]] = {
    "swa": {"optimiser": {"swa": 0.3}},
    "awp": {"optimiser": {"awp": 0.02, "awp_warmup": 0.2}},
    "awp in parts": {"optimiser": {"awp": 0.02}, "objective": {"name": "trades"}, "micro_batch": 7},
}


@pytest.fixture(autouse=True)
def _tiny_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def attacked(out: Path, **changes: Any) -> dict[str, Any]:
    """A run with the whole epsilon throughout."""
    return config(out, schedule={"name": "custom", "function": "tiny:constant"}, **changes)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run without any piece."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        return finetune(attacked(tmp_path_factory.mktemp("plain") / "run"))


@pytest.mark.numerical
@pytest.mark.parametrize("piece", PIECES)
def test_stopped_and_resumed_it_ends_bit_identical(piece: str, tmp_path: Path, plain: Run) -> None:
    own = PIECES[piece]
    whole = finetune(attacked(tmp_path / "whole", **own))
    assert any(not torch.equal(value, weights(plain)[name]) for name, value in weights(whole).items())
    with pytest.raises(Stopped, match="--resume continues"):
        finetune(config(tmp_path / "run", schedule={"name": "custom", "function": "tiny:interrupting"}, **own))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "interrupting", tiny.constant)
        resumed = finetune(
            config(tmp_path / "run", schedule={"name": "custom", "function": "tiny:interrupting"}, **own), resume=True
        )
    assert_same_weights(resumed, whole)
    assert steps(resumed) == steps(whole)


@pytest.mark.numerical
@pytest.mark.parametrize("piece", PIECES)
def test_two_processes_give_what_one_gives(piece: str, tmp_path: Path) -> None:
    # bf16 rounds the same sums differently in another order, on machines that compute it.
    same: dict[str, Any] = {"model": {"name": "tiny:plain", "image_size": 8}, "epochs": 2, "precision": "fp32"}
    one = finetune(attacked(tmp_path / "one", **same, **PIECES[piece]))
    two = finetune(attacked(tmp_path / "two", **same, **PIECES[piece], devices=2))
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose([row["loss"] for row in steps(two)], [row["loss"] for row in steps(one)], rtol=1e-3)


def test_the_average_of_the_epochs_is_what_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Run
) -> None:
    """Of 3 epochs, the last two; training itself is untouched by it."""
    ends: list[dict[str, torch.Tensor]] = []

    def kept(folder: Path, checkpoint: Any) -> Path:
        path = save(folder, checkpoint)
        if checkpoint.progress.step % 3 == 0:
            ends.append(load_file(path / "model.safetensors"))
        return path

    from temper.training import loop

    save = loop.save_checkpoint
    monkeypatch.setattr(loop, "save_checkpoint", kept)
    run = finetune(attacked(tmp_path / "run", optimiser={"swa": 0.4}))
    assert [row["loss"] for row in steps(run)] == [row["loss"] for row in steps(plain)]
    name = "network.conv.weight"
    assert len(ends) == 3
    saved = models.load(run.folder).state_dict()
    torch.testing.assert_close(saved[name], (ends[1][name] + ends[2][name]) / 2)
    newest = last_checkpoint(run.folder / "checkpoints")
    assert newest is not None
    assert torch.equal(load_file(newest / "average.safetensors")[name], saved[name])
    # Statistics of the averaged weights, not those of the last ones: three batches, each counted once.
    assert saved["network.norm.num_batches_tracked"] == 3
    assert not torch.equal(saved["network.norm.running_mean"], ends[2]["network.norm.running_mean"])


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_weight_perturbation_costs_a_pass_more_and_no_attack(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, passed = tiny.Tiny.forward, {True: 0, False: 0}

    def counted(self: tiny.Tiny, x: torch.Tensor) -> torch.Tensor:
        passed[self.training] += len(x)
        return forward(self, x)

    def images(name: str, **optimiser: float) -> tuple[int, int]:
        """That pass in train mode, and as attacks and validation see the model."""
        passed.update({True: 0, False: 0})
        settings = attacked(tmp_path / name, objective={"name": objective}, epochs=1, optimiser=optimiser)
        train_only(read_config(settings))
        return passed[True], passed[False]

    monkeypatch.setattr(tiny.Tiny, "forward", counted)
    without, perturbed = images("without"), images("with", awp=0.01, awp_warmup=0)
    once = 90 * (2 if objective == "trades" else 1)
    assert perturbed == (without[0] + once, without[1])
    assert images("late", awp=0.01, awp_warmup=0.6)[0] == without[0] + once // 3  # the last of three updates
