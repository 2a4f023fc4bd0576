"""Weights from files: every layout, damage, what must fit; and classifiers saved and restored."""

import re
import shutil
import sys
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from temper.errors import ArgumentError, ModelError
from temper.models import Classifier, fingerprint, load, load_tensors, save
from temper.models.preprocessing import Preprocessing
from written import one_line, write_module

TINY = {"depth": 1, "embed_dim": 12, "num_heads": 2}  # of a timm vision transformer


# --- weights from files ---------------------------------------------------------------------------


def vit(**arguments):
    return load("timm:vit_tiny_patch16_224", weights="none", image_size=32, model_args=TINY, **arguments)


@pytest.mark.parametrize(
    "layout",
    [
        "plain",
        "state_dict",
        "model",
        "net",
        "module.",
        "module.module.",
        "net.",
        "model.module.",
        "backbone._orig_mod.",
    ],
)
def test_checkpoints_of_every_layout(tmp_path, layout):
    original = load("bundled", weights="none", seed=3)
    state = original.network.state_dict()
    if layout.endswith("."):
        state = {"state_dict": {f"{layout}{name}": tensor for name, tensor in state.items()}, "epoch": 3}
    elif layout != "plain":
        state = {layout: state, "epoch": 3, "best": 0.5}
    torch.save(state, tmp_path / "net.pth")
    loaded = load("bundled", weights=tmp_path / "net.pth", seed=4)
    assert fingerprint(loaded) == fingerprint(original)
    assert (loaded.info["loaded"], loaded.info["head"]) == (1.0, "kept")


@pytest.mark.parametrize("prefix", ["", "net.", "module.module."])
def test_what_only_training_needs_is_left_aside(tmp_path, prefix):
    original = load("bundled", weights="none", seed=3)
    state = {f"{prefix}{name}": tensor for name, tensor in original.network.state_dict().items()}
    beside = {"criterion.weight": torch.ones(10), "loss_fn.temperature": torch.ones(1), "n_averaged": torch.tensor(3)}
    torch.save({"state_dict": state | beside}, tmp_path / "net.pth")
    assert fingerprint(load("bundled", weights=tmp_path / "net.pth")) == fingerprint(original)
    twice = state | {f"ema.{name}": tensor for name, tensor in state.items()}
    torch.save(twice, tmp_path / "two.pth")
    with pytest.raises(ModelError, match=r"keep those of one network alone|unexpected: ema") as error:
        load("bundled", weights=tmp_path / "two.pth")
    one_line(error)


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        (lambda name: f"model.module.{name}", r"read without model\. and module\."),
        (lambda name: name if name.startswith("head") else f"backbone.{name}", r"read without backbone\."),
        (lambda name: name.replace("blocks.", "blocks._orig_mod."), r"read without _orig_mod\."),
    ],
)
def test_how_names_are_read_is_said(tmp_path, caplog, rename, said):
    original = load("bundled", weights="none", seed=3)
    torch.save({rename(name): tensor for name, tensor in original.network.state_dict().items()}, tmp_path / "net.pth")
    with caplog.at_level("INFO"):
        assert fingerprint(load("bundled", weights=tmp_path / "net.pth")) == fingerprint(original)
    assert re.search(said, caplog.text)


def test_a_backbone_apart_from_its_head_must_still_fit_whole(tmp_path):
    state = {f"backbone.{name}": tensor for name, tensor in load("bundled").network.state_dict().items()}
    state["neck.weight"] = torch.ones(3)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ModelError, match="backbone, neck stand side by side; keep those of one network alone"):
        load("bundled", weights=tmp_path / "net.pth")


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_way_out_of_a_pickled_model_works(tmp_path, monkeypatch, wrapped):
    monkeypatch.chdir(tmp_path)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    torch.save({"model": network, "epoch": 3} if wrapped else network, "whole.pt")
    with pytest.raises(ModelError, match=r"whole.pt: .*a whole model that was pickled.*keep only its tensors") as error:
        load_tensors("whole.pt")
    exec(one_line(error).partition("installed: ")[2])
    assert torch.equal(load_tensors("whole-tensors.pt")["1.weight"], network[1].weight)


def test_nothing_is_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(ModelError, match=r"bomb.pt: no torch checkpoint, or one with Python objects") as error:
        load("bundled", weights=tmp_path / "bomb.pt")
    one_line(error)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
def test_damaged_weights(tmp_path, name):
    whole, state = tmp_path / f"whole-{name}", {"weight": torch.rand(100, 100)}
    if name.endswith("pt"):
        torch.save(state, whole)
    else:
        safetensors.torch.save_file(state, whole)
    assert torch.equal(load_tensors(whole)["weight"], state["weight"])
    (tmp_path / name).write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(ModelError, match=name) as error:
        load_tensors(tmp_path / name)
    one_line(error)


def test_a_checkpoint_without_state_dict(tmp_path):
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "log.pt")
    with pytest.raises(ModelError, match=r"log.pt: holds epoch, loss, not a state dict"):
        load_tensors(tmp_path / "log.pt")


def weights_file(tmp_path, change) -> str:
    state = load("bundled").network.state_dict()
    change(state)
    safetensors.torch.save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / "w.safetensors"
    )
    return str(tmp_path / "w.safetensors")


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"\xff\xd8\xff\xe0\x00\x10JFIF", b"\x80\x02", b"PK\x03\x04", b"GIF89a"]),
)
@example(b"", b"i")
def test_bytes_that_are_no_checkpoint_are_said_to_be_none(tmp_path_factory, content, start):
    path = tmp_path_factory.getbasetemp() / "weights.pt"
    path.write_bytes(start + content)
    with pytest.raises(ModelError, match=r"weights\.pt") as error:
        load_tensors(path)
    assert "checkpoint" in one_line(error) or "not a state dict" in one_line(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("blocks.0.conv1.weight"), "missing: blocks.0.conv1.weight"),
        (lambda state: state.update(extra=torch.ones(1)), "unexpected: extra"),
        (
            lambda state: state.update({"stem.0.weight": torch.ones(16, 3, 5, 5)}),
            r"wrong shape: stem.0.weight \(16, 3, 5, 5\) instead of \(16, 3, 3, 3\)",
        ),
    ],
)
def test_a_backbone_must_fit_whole(tmp_path, change, message):
    with pytest.raises(ModelError, match=message) as error:
        load("bundled", weights=weights_file(tmp_path, change), num_classes=4)
    assert "w.safetensors" in one_line(error)


def test_only_the_head_may_differ(tmp_path):
    def twenty_classes(state):
        state.update({"head.weight": torch.ones(20, 128), "head.bias": torch.zeros(20)})

    file = weights_file(tmp_path, twenty_classes)
    as_it_is = load("bundled", weights=file)
    assert (as_it_is.num_classes, as_it_is.info["head"], as_it_is.info["loaded"]) == (20, "kept", 1.0)
    assert bool((as_it_is.head.weight == 1).all())
    fresh = load("bundled", weights=file, num_classes=5)
    assert (fresh.num_classes, fresh.info["head"]) == (5, "fresh")
    total = sum(parameter.numel() for parameter in fresh.parameters())
    assert fresh.info["loaded"] == pytest.approx(1 - 5 * 129 / total)

    headless = weights_file(tmp_path, lambda state: [state.pop(f"head.{part}") for part in ("weight", "bias")])
    assert load("bundled", weights=headless, num_classes=5).info["head"] == "fresh"
    with pytest.raises(ModelError, match=r"has no head \(head\); give num_classes"):
        load("bundled", weights=headless)


def test_counters_of_batch_norm_may_be_absent(tmp_path):
    def without_counters(state):
        for name in [name for name in state if name.endswith("num_batches_tracked")]:
            del state[name]

    assert load("bundled", weights=weights_file(tmp_path, without_counters)).info["loaded"] == 1.0


def test_one_weights_file_only(tmp_path):
    with pytest.raises(ArgumentError, match="already names its weights file"):
        load("timm:resnet18@a.safetensors", weights="b.safetensors")


@pytest.mark.slow
def test_imagenet_backbone_from_a_local_file(shared_data):
    classifier = load(
        f"timm:mobilenetv2_100@{shared_data / 'backbones' / 'mobilenetv2_100.safetensors'}",
        mean=0.5,
        std=0.5,
        model_args={"pad_type": "same"},
    )
    assert (classifier.image_size, classifier.num_classes, classifier.info["loaded"]) == (224, 1000, 1.0)
    with zipfile.ZipFile(shared_data / "images" / "imagenet_sample1000.zip") as archive:
        names = [name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg"))]
        classes = sorted({name.split("/")[-2] for name in names})
        chosen = sorted(names, key=lambda name: name.split("/")[-2])[::17]
        arrays = [np.asarray(Image.open(archive.open(name)).convert("RGB").resize((224, 224))) for name in chosen]
    labels = torch.tensor([classes.index(name.split("/")[-2]) for name in chosen])
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        accuracy = (classifier(images).argmax(1) == labels).float().mean()
    assert len(labels) == 59
    assert accuracy > 0.7


# --- save and load --------------------------------------------------------------------------------


def same(first: Classifier, second: Classifier, images: torch.Tensor) -> bool:
    return fingerprint(first) == fingerprint(second) and torch.equal(first(images), second(images))


def test_a_saved_classifier_is_restored_bit_exactly(tmp_path):
    classifier = load("bundled", num_classes=3, mean=0.4, std=[0.1, 0.2, 0.3], image_size=24)
    save(
        classifier.to(memory_format=torch.channels_last),
        tmp_path / "run",
        extra={"class_names": ["a", "b", "c"]},
    )
    restored = load(tmp_path / "run")
    assert same(restored, classifier.to(memory_format=torch.contiguous_format), torch.rand(2, 3, 24, 24))
    assert restored.info["class_names"] == ["a", "b", "c"]
    assert restored.image_size == 24
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["model.json", "weights.safetensors"]
    save(restored, tmp_path / "again")
    assert (tmp_path / "again" / "model.json").read_text() == (tmp_path / "run" / "model.json").read_text()


def test_a_saved_transformer_keeps_its_size_and_arguments(tmp_path):
    classifier = vit(num_classes=4)
    save(classifier, tmp_path)
    images = torch.rand(2, 3, 32, 32)
    assert same(load(tmp_path), classifier, images)
    larger = load(tmp_path, image_size=64, num_classes=6)
    assert larger(torch.rand(2, 3, 64, 64)).shape == (2, 6)
    assert larger.info["head"] == "fresh"
    # The weights file is the network's own state dict: timm's names, so it serves as local weights too.
    weights = load_tensors(tmp_path / "weights.safetensors")
    assert weights.keys() == classifier.network.state_dict().keys()


def test_a_saved_factory_network_needs_its_module(workplace, monkeypatch):
    write_module(
        workplace,
        "tied",
        """
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.second.weight = self.first.weight
    def forward(self, x):
        return self.head(self.second(self.first(x.flatten(1))))
""",
    )
    classifier = load("tied:Tied", num_classes=5, image_size=2)
    save(classifier, "run")
    restored = load("run")
    assert same(restored, classifier, torch.rand(2, 3, 2, 2))
    assert restored.network.second.weight is restored.network.first.weight
    del sys.modules["tied"]
    shutil.move("tied.py", "elsewhere.py")
    with pytest.raises(ModelError, match=r"no module 'tied'; run from the folder that holds tied.py"):
        load("run")


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"no model.json in it"):
        load(tmp_path)
    save(load("bundled"), tmp_path)
    with pytest.raises(ArgumentError, match="is a saved model: leave out weights"):
        load(tmp_path, weights="none")
    description = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(description.replace('"format": 1', '"format": 2'))
    with pytest.raises(ModelError, match="format 2, not 1"):
        load(tmp_path)
    (tmp_path / "model.json").write_text(description[:50])
    with pytest.raises(ModelError, match=r"model.json: is damaged"):
        load(tmp_path)
    (tmp_path / "model.json").write_text(description)
    (tmp_path / "weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"weights.safetensors: not found"):
        load(tmp_path)


def test_a_network_built_by_hand_cannot_be_saved(tmp_path):
    classifier = Classifier(nn.Linear(2, 2), Preprocessing((0.0,), (1.0,), None), head="")
    with pytest.raises(ModelError, match="nothing says how to build this network again"):
        save(classifier, tmp_path)
