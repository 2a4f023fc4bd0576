"""Classifiers: normalisation, every source, and what is said when something does not fit."""

import json
import re
import sys

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from torch import nn

from temper.errors import ArgumentError, ModelError
from temper.models import Classifier, bundled, fingerprint, load
from temper.models.preprocessing import Preprocessing
from written import one_line, write_module

# --- the classifier -------------------------------------------------------------------------------


def test_normalisation_is_inside():
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    classifier = Classifier(network, Preprocessing((0.1, 0.2, 0.3), (0.5, 1, 2), 2), head="1")
    images = torch.rand(4, 3, 2, 2)
    normalised = (images - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 1, 2]).view(3, 1, 1)
    torch.testing.assert_close(classifier(images), network(normalised))
    assert (classifier.num_classes, classifier.channels, classifier.head) == (3, 3, network[1])
    assert [name for name, _ in classifier.head_parameters()] == ["network.1.weight", "network.1.bias"]
    assert classifier.backbone_parameters() == []


def test_autocast_and_channels_last():
    classifier = load("bundled")
    images = torch.rand(3, 3, 32, 32)
    logits = classifier(images)
    channels_last = load("bundled").to(memory_format=torch.channels_last)
    torch.testing.assert_close(channels_last(images.to(memory_format=torch.channels_last)), logits)
    with torch.autocast("cpu", torch.bfloat16):
        assert (classifier(images) - logits).abs().max() < 0.1 * logits.abs().max()


def test_fingerprint_sees_weights_and_preprocessing_only():
    classifier = load("bundled")
    original = fingerprint(classifier)
    assert fingerprint(load("bundled").to(memory_format=torch.channels_last).train()) == original
    assert fingerprint(load("bundled", mean=0.5))["weights"] == original["weights"]
    others = [load("bundled", mean=0.5), load("bundled", std=0.5), load("bundled", image_size=16)]
    assert len({fingerprint(other)["preprocessing"] for other in (classifier, *others)}) == 4
    with torch.no_grad():
        classifier.network.head.bias[0] += 1e-6
    changed = fingerprint(classifier)
    assert changed["weights"] != original["weights"]
    assert changed["preprocessing"] == original["preprocessing"]


# --- the bundled network --------------------------------------------------------------------------


def test_bundled_network_is_small_and_takes_any_size():
    classifier = load("bundled")
    assert sum(parameter.numel() for parameter in classifier.parameters()) <= 400_000
    assert bundled.WEIGHTS.stat().st_size <= 2**20
    assert not classifier.training
    for size in (8, 28, 32, 65):
        assert classifier(torch.rand(2, 3, size, size)).shape == (2, 10)


def test_bundled_network_has_the_accuracy_of_its_card(shared_data):
    archive = np.load(shared_data / "images" / "cifar10_test.npz")
    images, labels = archive["images"][:1000], torch.from_numpy(archive["labels"][:1000])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        predictions = load("bundled")(pixels).argmax(1)
    card = bundled.WEIGHTS.with_name("CARD.md").read_text()
    claimed = re.search(r"(\d\.\d+) of which are classified correctly", card)
    assert (predictions == labels).float().mean().item() == pytest.approx(float(claimed[1]), abs=0.005)


def test_random_weights_come_from_the_seed_and_leave_the_global_stream():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (load("bundled", num_classes=4, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert fingerprint(first) == fingerprint(again)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert torch.equal(first.network.stem[0].weight, other.network.stem[0].weight)
    assert first.info["head"] == "fresh"
    assert load("bundled", num_classes=10).info["head"] == "kept"


# --- timm -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "test_vit", "tf_efficientnet_lite0"])
def test_timm_normalisation_and_size_are_from_its_own_config(name):
    classifier = load(f"timm:{name}", weights="none")
    config = timm.get_pretrained_cfg(name)
    torch.testing.assert_close(classifier.mean.flatten(), torch.tensor(config.mean))
    torch.testing.assert_close(classifier.std.flatten(), torch.tensor(config.std))
    assert (classifier.channels, classifier.image_size) == (config.input_size[0], config.input_size[1])
    assert classifier.num_classes == 1000


def test_overrides():
    classifier = load("timm:mobilenetv3_small_050", weights="none", mean=0.5, std=[0.1, 0.2, 0.3], image_size=64)
    assert classifier.mean.flatten().tolist() == [0.5] * 3
    torch.testing.assert_close(classifier.std.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    assert classifier.image_size == 64
    grey = load("timm:mobilenetv3_small_050", weights="none", model_args={"in_chans": 1})
    assert grey.channels == 1
    torch.testing.assert_close(grey.mean.item(), (0.485 + 0.456 + 0.406) / 3)
    assert grey(torch.rand(2, 1, 32, 32)).shape == (2, 1000)


@pytest.mark.parametrize(
    ("argument", "value", "fix"),
    [
        ("mean", [0.5, 0.5], "3 channels"),
        ("mean", 127.5, "divide 0..255 values by 255"),
        ("std", 0, "units of"),
        ("num_classes", 1, "at least 2"),
        ("image_size", 0, "positive"),
    ],
)
def test_arguments_that_cannot_work(argument, value, fix):
    with pytest.raises(ArgumentError, match=fix) as error:
        load("bundled", **{argument: value})
    assert one_line(error).startswith(f"{argument} = {value!r}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:resnet-18", "no model 'resnet-18'; did you mean resnet18"),
        ("timm:ResNet18", "did you mean resnet18"),
        ("timm:qqqqqqqq", r"timm.list_models\(\) lists the names"),
        ("timm:resnet18.a9_in1k", "no weights tagged 'a9_in1k'; known: a1_in1k"),
        ("timm:resnet18@gone.safetensors", "weights file gone.safetensors: not found"),
        ("./no/such/folder", "must be a run folder that exists, bundled, timm:NAME"),
        ("onnx:net.onnx", "no such file"),
        ("bundle", "must be a run folder"),
    ],
)
def test_models_that_do_not_exist(spec, message):
    with pytest.raises((ModelError, ArgumentError), match=message) as error:
        load(spec)
    assert spec.partition("@")[0] in one_line(error) or "gone" in one_line(error)


def test_a_timm_model_whose_arguments_add_outputs_is_refused():
    with pytest.raises(ModelError, match=r"timm:inception_v3 with .'aux_logits': True.: gives tuple of 2 outputs"):
        load("timm:inception_v3", weights="none", model_args={"aux_logits": True})


def test_a_timm_model_without_pretrained_weights_is_never_silently_random():
    name = next(name for name in timm.list_models("resnet*") if not timm.get_pretrained_cfg(name).has_weights)
    with pytest.raises(ModelError, match="timm has no weights for it"):
        load(f"timm:{name}")


def test_no_network_is_one_line_that_names_file_and_place(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(ModelError) as error:
        load("timm:mobilenetv3_small_050.lamb_in1k")
    message = one_line(error)
    assert "copy model.safetensors of timm/mobilenetv3_small_050.lamb_in1k" in message
    assert "use timm:mobilenetv3_small_050.lamb_in1k@mobilenetv3_small_050.safetensors" in message


def test_timm_arguments_it_does_not_take():
    with pytest.raises(ModelError, match=r"cannot be built with .*'pad_typ': 'same'"):
        load("timm:mobilenetv3_small_050", weights="none", model_args={"pad_typ": "same"})
    with pytest.raises(ArgumentError, match="give image_size by itself"):
        load("timm:test_vit", weights="none", model_args={"img_size": 32})
    with pytest.raises(ArgumentError, match="are for timm models"):
        load("bundled", model_args={"pad_type": "same"})


def test_backbones_without_classifier_need_num_classes():
    with pytest.raises(ModelError, match="without a classifier; give num_classes"):
        load("timm:eva02_tiny_patch14_224", weights="none")


def test_an_image_size_that_does_not_fit():
    with pytest.raises(ModelError, match=r"image_size = 3: .* does not take it"):
        load("timm:test_vit", weights="none", image_size=3)


# --- a user's own factory -------------------------------------------------------------------------


def test_a_cifar_network_of_a_user(shared_data, workplace, monkeypatch):
    monkeypatch.syspath_prepend(shared_data)
    write_module(workplace, "my_resnet", "from networks import CifarResNet\ndef make():\n    return CifarResNet(3)")
    record = json.loads((shared_data / "networks.json").read_text())["resnet20"]
    arguments = {"weights": shared_data / record["file"], "mean": record["mean"], "std": record["std"]}
    classifier = load("my_resnet:make", **arguments)
    assert (classifier.head_name, classifier.num_classes, classifier.image_size) == ("linear", 10, None)
    archive = np.load(shared_data / "images" / "cifar10_test.npz")
    images = torch.from_numpy(archive["images"][:300]).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        right = classifier(images).argmax(1) == torch.from_numpy(archive["labels"][:300])
    assert right.float().mean() > 0.88

    downstream = load("my_resnet:make", num_classes=20, image_size=32, **arguments)
    assert (downstream.num_classes, downstream.info["head"], downstream.image_size) == (20, "fresh", 32)
    assert downstream.info["loaded"] == pytest.approx(1 - 20 * 65 / (269_722 + 10 * 65))
    sys.modules.pop("networks")


LINEAR = "nn.Sequential(nn.Flatten(), nn.Linear({inputs}, {classes}))"


def test_a_factory_may_take_num_classes(workplace):
    code = f"def make(num_classes=4):\n    return {LINEAR.format(inputs=28 * 28, classes='num_classes')}"
    write_module(workplace, "grey", code)
    plain, five = load("grey:make"), load("grey:make", num_classes=5)
    assert (plain.num_classes, plain.channels, plain.info["head"]) == (4, 1, "kept")
    assert (five.num_classes, five.info["head"]) == (5, "kept")
    assert (plain.mean.item(), plain.std.item()) == (0.0, 1.0)
    assert str(workplace) not in sys.path


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("absent:make", "no module 'absent'; run from the folder that holds absent.py"),
        ("broken:mak", "module 'broken' has no 'mak'; did you mean broken:make"),
        ("broken:number", "is a int; name a function"),
        ("broken:network", "is a Linear; name a function"),
        ("broken:make", "returned NoneType; it must return a torch.nn.Module"),
        ("broken:needy", r"takes \(num_classes, width\)"),
        ("broken:image", r"gives \[2, 3, 32, 32\] for a batch of 2; it must give logits"),
        ("broken:classes", r"gives torch.int64 \[2\] for a batch of 2"),
        (
            "broken:pair",
            r"broken:pair: gives tuple of 2 outputs \(\[2, 3, 32, 32\], .*several heads or tasks are out of scope",
        ),
        (
            "broken:texts",
            "broken:texts: asks for x, text, .*models that texts or other inputs condition are out of scope",
        ),
        ("broken:tasks", r"gives tuple of 2 outputs \(\[2, 3\], \[2, 3\]\) .*return the logits that are meant"),
        ("broken:odd", "does not take images of 3x32x32, 3x28x28.*give image_size"),
    ],
)
def test_factories_that_do_not_work(workplace, spec, message):
    write_module(
        workplace,
        "broken",
        f"""
number = 3
network = nn.Linear(3, 3)
def make(): pass
def needy(num_classes, width): pass
def image(): return nn.Identity()
class Classes(nn.Module):
    def forward(self, x): return x.flatten(1).argmax(1)
def classes(): return Classes()
def odd(): return {LINEAR.format(inputs=3 * 17 * 17, classes=2)}
class Pair(nn.Module):
    def forward(self, x): return x, x
def pair(): return Pair()
class Texts(nn.Module):
    def forward(self, x, text, weight=None): return x
def texts(): return Texts()
class Tasks(nn.Module):
    def forward(self, x): return x.mean((2, 3)), x.mean((2, 3))
def tasks(): return Tasks()
""",
    )
    with pytest.raises(ModelError, match=message) as error:
        load(spec)
    assert one_line(error).startswith(spec)


def test_an_unusual_input_size_is_given(workplace):
    write_module(workplace, "odd", f"def make(): return {LINEAR.format(inputs=17 * 17, classes=2)}")
    classifier = load("odd:make", image_size=17)
    assert (classifier.image_size, classifier.channels) == (17, 1)


def test_errors_inside_a_users_code_are_shown_as_they_are(workplace):
    write_module(workplace, "imports_absent", "import a_package_that_is_absent")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_absent"):
        load("imports_absent:make")


def test_a_network_without_linear_layer_can_be_evaluated_but_not_refitted(workplace):
    code = "def make(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())"
    write_module(workplace, "headless", code)
    classifier = load("headless:make")
    assert (classifier.num_classes, classifier.head_names, classifier.head_parameters()) == (4, (), [])
    with pytest.raises(ModelError, match="does not end in a linear layer"):
        _ = classifier.head
    with pytest.raises(ModelError, match="its head cannot be replaced"):
        load("headless:make", num_classes=5)
