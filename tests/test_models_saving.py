"""What is trained is what is loaded: proved before training begins, and when it ends."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from temper import models
from temper.errors import ModelError
from temper.models.saving import check_restores, save
from temper.runs import finetune as finetuning
from temper.runs.finetune import finetune
from temper.training.rehearsal import rehearse

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """120 images in two classes told apart by their brightness."""
    labels = np.arange(120) % 2
    images = np.random.default_rng(0).integers(0, 100, (120, 8, 8, 3)) + labels[:, None, None, None] * 110
    np.savez(tmp_path / "data.npz", images=images.astype(np.uint8), labels=labels)
    return tmp_path / "data.npz"


def config(data: Path, name: str, **changes: Any) -> dict[str, Any]:
    return {
        "out": data.parent / "run", "model": {"name": f"kinds:{name}"}, "data": {"train": str(data)}, "epochs": 4,
        "batch_size": 8, "attack": {"name": "pgd", "steps": 1}, "evaluation": {"points": 1}, "accelerator": "cpu",
        "optimiser": {"head_lr": 0.05, "backbone_lr": 0.05},
    } | changes  # fmt: skip


HEADS = ["scaled", "cosine", "weight_norm", "old_weight_norm", "spectral_norm", "old_spectral_norm", "lazy", "Tied"]


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated", "ignore:Lazy modules")
@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_any_kind_is_restored_bit_exactly(tmp_path, name):
    classifier = models.load(f"kinds:{name}", example=torch.rand(2, 3, 8, 8), seed=3)
    images = torch.rand(4, 3, 8, 8)
    rehearse(classifier, images, 2)
    save(classifier, tmp_path / "run")
    assert torch.equal(models.load(tmp_path / "run")(images), classifier(images))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("name", ["scaled", "weight_norm", "old_spectral_norm"])
def test_what_training_ends_with_is_what_is_reported(data, monkeypatch, name):
    trained = []
    own = finetuning.train

    def train(fabric, task, classifier, within=None):
        progress = own(fabric, task, classifier, within)
        trained.append({key: value.clone() for key, value in classifier.eval().network.state_dict().items()})
        return progress

    monkeypatch.setattr(finetuning, "train", train)
    run = finetune(config(data, name))
    loaded = models.load(run.folder)
    assert loaded.info["head"] == "kept"
    saved = load_file(run.folder / "weights.safetensors")
    assert loaded.network.state_dict().keys() == saved.keys() == trained[0].keys()
    assert all(torch.equal(saved[key], trained[0][key]) for key in saved)
    assert run.record["results"]["clean accuracy"]["value"] == 1.0


@pytest.mark.slow
def test_a_run_on_other_classes_gets_a_fresh_head_from_its_factory(data):
    run = finetune(config(data, "scaled", epochs=1))
    first = models.load(run.folder)
    assert type(models.load(run.folder, num_classes=5).head).__name__ == "Scaled"
    with np.load(data) as arrays:
        np.savez(data.parent / "three.npz", images=arrays["images"], labels=arrays["labels"] + np.arange(120) // 60)
    again = config(data.parent / "three.npz", "scaled", epochs=1, out=data.parent / "again")
    second = models.load(finetune(again | {"model": {"name": str(run.folder)}}).folder)
    assert (second.num_classes, type(second.head).__name__, second.info["head"]) == (3, "Scaled", "fresh")
    models.refresh_head(first, seed=1)
    assert first.info["head"] == "fresh"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fleeting", "its logits differ by .*: it computes with something that is not among its saved weights"),
        ("Drifting", "its logits differ by"),
        ("random_constant", "its logits differ by"),
        ("not_finite", "kinds:not_finite: its logits on training images are not finite before training"),
        ("random_width", "once saved it could not be loaded again .*wrong shape"),
        (
            "fixed_scaled",
            "Scaled is more than a linear layer's weight and bias, so only the factory can build",
        ),
    ],
)
def test_what_could_not_be_loaded_is_refused_before_training(data, name, message):
    with pytest.raises(ModelError, match=message) as error:
        finetune(config(data, name))
    assert "\n" not in str(error.value)
    assert not (data.parent / "run").exists()


def test_a_persistent_buffer_is_saved(data):
    rehearse(models.load("kinds:persistent", image_size=8), torch.rand(2, 3, 8, 8), 2)


def test_the_rehearsal_leaves_no_trace():
    classifier = models.load("tiny:network", image_size=8).train()
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    stream = torch.get_rng_state()
    rehearse(classifier, torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), 2)
    assert all(torch.equal(value, before[name]) for name, value in classifier.state_dict().items())
    assert classifier.network.dropout.training
    assert all(parameter.grad is None for parameter in classifier.parameters())
    assert torch.equal(torch.get_rng_state(), stream)


def test_a_fresh_head_while_restoring_is_an_error(tmp_path):
    save(models.load("kinds:cosine", image_size=8), tmp_path)
    described = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(described.replace("kinds:cosine", "kinds:scaled"))
    with pytest.raises(ModelError, match=r"weights.safetensors: its head 4 is not that of the network that is"):
        models.load(tmp_path)


def test_weights_that_changed_their_meaning_are_seen():
    classifier = models.load("kinds:scaled", image_size=8)
    classifier.network.register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(ModelError, match="its logits differ by"):
        check_restores(classifier, torch.rand(2, 3, 8, 8))


@pytest.mark.slow
def test_parts_of_one_image_are_refused_where_batch_norm_needs_two(data, monkeypatch):
    from torch import nn

    import kinds

    def normed(num_classes: int = 2) -> nn.Module:
        return nn.Sequential(*kinds.body(), nn.BatchNorm1d(8), nn.Linear(8, num_classes))

    monkeypatch.setattr(kinds, "normed", normed, raising=False)
    with pytest.raises(
        ModelError, match=r"kinds:normed: has a batch norm that needs at least 2 images.*has 1; raise micro_batch"
    ):
        finetune(config(data, "normed", micro_batch=1))
    finetune(config(data, "normed", micro_batch=3, epochs=1))


def test_what_only_train_mode_refuses_is_told_before_training(data):
    with pytest.raises(ModelError, match="kinds:SmallAside: takes images of 3x8x8 in eval mode, but not in train mode"):
        finetune(config(data, "SmallAside"))


def test_bf16_on_a_cpu_is_refused_where_it_leaves_gradients_undefined():
    classifier, images = models.load("bundled", image_size=8, num_classes=3), torch.rand(4, 1, 8, 8)
    rehearse(classifier, images, 2)
    with pytest.raises(ModelError, match=r"bundled: at images of \dx8x8 .* use precision fp32"):
        rehearse(classifier, images, 2, bf16_on_cpu=True)
    rehearse(models.load("bundled", image_size=12, num_classes=3), torch.rand(4, 1, 12, 12), 2, bf16_on_cpu=True)
    assert not any(module._forward_pre_hooks for module in classifier.modules())
