"""What outputs and classes are called: names wherever a source, a file or a map of timm has them."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.models import MobileNet_V3_Small_Weights, get_model

from temper import models
from temper.data import load
from temper.deployment.prediction import Predictor, names_of
from temper.models.known import OUTPUT_NAMES, imagenet_names, outputs_called
from temper.runs.evaluate import class_names, match_classes

TENCH, GOLDFISH = "n01440764", "n01443537"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A network that says it was trained on ImageNet, as a timm network with its weights is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("timm.create_model", lambda name, pretrained, **more: timm.models.create_model(name, **more))
        return models.load("timm:mobilenetv3_small_050.lamb_in1k", image_size=32)


def photos(folder: Path, *names: str) -> str:
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (60 * place, 0, 0)).save(folder / name / "a.png")
    return str(folder)


def test_timms_map_names_the_classes_of_imagenet():
    assert imagenet_names(1000)[:2] == ["tench, Tinca tinca", "goldfish, Carassius auratus"]
    assert len(imagenet_names(21841)) == 21841
    assert imagenet_names(10) == []


def test_a_pretrained_networks_outputs_have_names_until_its_head_goes(pretrained, tmp_path):
    assert names_of(pretrained)[1] == "goldfish, Carassius auratus"
    models.save(pretrained, tmp_path / "run")
    assert names_of(models.load(tmp_path / "run"))[0] == "tench, Tinca tinca"
    fresh = models.load(tmp_path / "run", num_classes=3)
    assert names_of(fresh) == ["0", "1", "2"]
    assert OUTPUT_NAMES not in fresh.info
    assert OUTPUT_NAMES not in models.load("timm:mobilenetv3_small_050", weights="none").info
    image = photos(tmp_path / "photos", "one", "two") + "/one/a.png"
    (decision,) = Predictor.load(str(tmp_path / "run"))([image])
    assert decision.class_name == imagenet_names(1000)[decision.class_index]


def test_a_few_of_imagenets_classes_are_found_by_wordnets_ids(pretrained, tmp_path):
    spec = photos(tmp_path, GOLDFISH, "n02102040")
    data = match_classes(load(spec), spec, pretrained, "timm:net")
    assert data.labels.tolist() == [1, 217]
    assert class_names(pretrained, data)[217].startswith("English springer")
    other = photos(tmp_path / "other", *(f"class{place:04d}" for place in range(3)))
    with pytest.raises(ValueError, match="has 3 classes, model timm:net has 1000"):
        match_classes(load(other), other, pretrained, "timm:net")


def test_numbers_of_data_are_shown_as_the_models_names(pretrained, tmp_path):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.array([1, 999]))
    data = load(str(tmp_path / "x.npz"))
    assert class_names(pretrained, match_classes(data, "x.npz", pretrained, "m"))[1] == "goldfish, Carassius auratus"


def test_other_maps_of_imagenet_are_known_by_their_first_classes():
    categories = MobileNet_V3_Small_Weights.DEFAULT.meta["categories"]
    assert outputs_called({OUTPUT_NAMES: categories}, [TENCH])[1] == GOLDFISH
    assert outputs_called({OUTPUT_NAMES: ["cat", "dog"]}, ["dog"]) == ["cat", "dog"]
    assert outputs_called({OUTPUT_NAMES: ["cat", "dog"]}, ["horse"]) is None
    assert outputs_called({OUTPUT_NAMES: ["crane", "crane"]}, ["crane"]) is None  # which of them?
    assert outputs_called({}, ["dog"]) is None


@pytest.mark.slow
def test_torchvision_and_transformers_say_their_classes(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    monkeypatch.setattr("torchvision.models.get_model", lambda name, weights, **more: get_model(name, weights=None))
    assert names_of(models.load("torchvision:mobilenet_v3_small", image_size=32))[0] == "tench"
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8], depths=[1], id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1}
    )
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    assert names_of(models.load(f"hf:{tmp_path}")) == ["cat", "dog"]
