"""Networks of torchvision and transformers: built, saved, and used by every command as any other."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.models import get_model

import kinds
from temper import models
from temper.cli.main import main
from temper.errors import ModelError
from written import one_line

BATCH = ({0: torch.export.Dim("batch", min=1)},)
SMALL = "mobilenet_v3_small"
PROCESSOR = {
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.6, 0.7],
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "size": {"height": 32, "width": 32},
}


def written(folder, kind="vit", classes=5, **processor):
    """A folder as ``save_pretrained`` writes it, of a tiny network at random weights; returns the network."""
    import transformers

    torch.manual_seed(0)
    size, attention = {"image_size": 32, "num_labels": classes}, {"num_hidden_layers": 1, "num_attention_heads": 2}
    config = {
        "vit": lambda: transformers.ViTConfig(hidden_size=16, intermediate_size=16, patch_size=8, **attention, **size),
        "resnet": lambda: transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=classes
        ),
        "convnext": lambda: transformers.ConvNextConfig(
            hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=classes
        ),
    }[kind]()
    network = transformers.AutoModelForImageClassification.from_config(config).eval()
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | processor))
    return network


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vit", "resnet", "convnext"])
def test_a_folder_of_transformers_gives_its_numbers_and_outlives_the_folder(tmp_path, kind):
    network = written(tmp_path / "model", kind)
    classifier = models.load(f"hf:{tmp_path / 'model'}")
    images = torch.rand(3, 3, 32, 32)
    mean, std = (torch.tensor(PROCESSOR[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), network((images - mean) / std).logits)
    assert (classifier.image_size, classifier.num_classes, classifier.info["loaded"]) == (32, 5, 1.0)
    models.save(models.load(f"hf:{tmp_path / 'model'}", num_classes=3), tmp_path / "saved")
    shutil.rmtree(tmp_path / "model")
    again = models.load(tmp_path / "saved")
    assert again(images).shape == (3, 3)
    assert again.mean.flatten().tolist() == pytest.approx(PROCESSOR["image_mean"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json in it"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "no preprocessor_config.json in it"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no model.safetensors in it"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"no"), "model.safetensors cannot be read"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "'bert' is no image classifier"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda folder: processor(folder, rescale_factor=1 / 127.5), "does not rescale pixels"),
        (lambda folder: processor(folder, image_mean=None), "has no image_mean"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_in_a_line(tmp_path, spoil, said):
    written(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ModelError, match=said) as caught:
        models.load(f"hf:{tmp_path}")
    assert one_line(caught).startswith(f"hf:{tmp_path}: ")


def processor(folder, **changed):
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | changed))


@pytest.mark.slow
def test_a_bare_backbone_is_no_classifier(tmp_path):
    written(tmp_path).vit.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a bare backbone"):
        models.load(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"size": 64}, 64),
        ({"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": {"height": 48, "width": 48}}, 48),
        ({"size": {"height": 40, "width": 60}}, None),
        ({}, None),
    ],
)
def test_the_size_is_that_of_the_images_that_the_network_sees(settings, size):
    from temper.models.sources.hf import _side

    assert _side(settings) == size


@pytest.mark.slow
def test_a_network_of_torchvision_with_weights_from_a_file(tmp_path):
    torch.manual_seed(0)
    network = get_model(SMALL, weights=None, num_classes=6).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    classifier = models.load(f"torchvision:{SMALL}@{tmp_path / 'weights.pth'}", image_size=32)
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        torch.testing.assert_close(classifier(images), network((images - mean) / std))
    assert (classifier.image_size, classifier.info["head"]) == (32, "kept")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "squeezenet1_1", "vit_b_32", "swin_t"])
def test_networks_of_torchvision_are_saved_whole(tmp_path, name):
    classifier = models.load(f"torchvision:{name}", weights="none", num_classes=3, image_size=64)
    models.save(classifier, tmp_path)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(models.load(tmp_path)(images), classifier(images))


@pytest.mark.parametrize("name", ["resnet19", "fcn_resnet50", "raft_small"])
def test_what_is_no_classifier_of_torchvision_is_refused(name):
    with pytest.raises(ModelError, match=f"torchvision has no classifier '{name}'; did you mean"):
        models.load(f"torchvision:{name}", weights="none")


def named(source: str) -> str:
    """A MODEL of that source for 3 classes, whose files are in the working directory."""
    torch.manual_seed(0)
    if source == "hf":
        written(Path("net"), "resnet", classes=3)
        return "hf:net"
    if source == "torchvision":
        torch.save(get_model("squeezenet1_1", weights=None, num_classes=3).state_dict(), "net.pth")
        return "torchvision:squeezenet1_1@net.pth"
    if source == "timm":
        torch.save(timm.create_model("test_resnet", num_classes=3).state_dict(), "net.pth")
        return "timm:test_resnet@net.pth"
    network = kinds.linear().eval()
    if source == "onnx":
        torch.onnx.export(network, (torch.rand(2, 3, 32, 32),), "net.onnx", dynamic_shapes=BATCH, verbose=False)
        return "onnx:net.onnx"
    if source == "torch.export":
        torch.export.save(torch.export.export(network, (torch.rand(2, 3, 32, 32),), dynamic_shapes=BATCH), "net.pt2")
        return "torch:net.pt2"
    if source == "TorchScript":
        torch.jit.save(torch.jit.trace(network, torch.rand(2, 3, 32, 32)), "net.pt")
        return "torch:net.pt"
    return "kinds:linear"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("source", ["hf", "torchvision", "timm", "factory", "onnx", "torch.export", "TorchScript"])
def test_every_command_takes_them(tmp_path, monkeypatch, capsys, source):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    text = named(source)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    np.savez("images.npz", images=images, labels=np.arange(3))
    models.save(models.load(text, image_size=32), "run")
    shared = ["--data", "images.npz", "--threat", "Linf:1/255"]
    assert main(["evaluate", "--model", text, *shared, "--suite", "apgd", "--out", "evaluated"]) == 0
    # The nearest flips of larger networks take minutes: there the search is stopped.
    budget, ends = (["--time-budget", "3s"], (0, 3)) if source in ("hf", "timm", "torchvision") else ([], (0,))
    assert main(["margins", "--model", text, *shared, "--out", "margins", *budget]) in ends
    Image.fromarray(images[0]).save("image.png")
    assert main(["predict", "--run", "run", "image.png"]) == 0
    exported = main(["export", "--run", "run", "--format", "onnx", "--out", "out.onnx"])
    if source in ("onnx", "TorchScript"):  # graphs from files, which torch's exporter does not take
        assert (exported, "cannot be exported to ONNX" in capsys.readouterr().err) == (2, True)
    else:
        assert exported == 0
