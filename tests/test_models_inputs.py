"""The size of images: a factory's is that of the data, or its own where it takes no other, or the one asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import temper
from temper import models
from temper.deployment.prediction import Prediction, Predictor
from temper.errors import DataError, ModelError
from temper.runs import evaluate
from temper.runs.corruptions import corruptions_into
from temper.runs.finetune import finetune
from temper.runs.margins import margins_into

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def images(count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(count) % 2
    pixels = np.random.default_rng(0).integers(0, 100, (count, height, width, 3)) + labels[:, None, None, None] * 110
    return pixels.astype(np.uint8), labels


def archive(path: Path, height: int, width: int) -> str:
    pixels, labels = images(24, height, width)
    np.savez(path, images=pixels, labels=labels)
    return str(path)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of images of several sizes."""
    folder = tmp_path_factory.mktemp("photos")
    for k in range(12):
        pixels, _ = images(2, 40 + k, 60)
        (folder / "ab"[k % 2]).mkdir(exist_ok=True)
        Image.fromarray(pixels[k % 2]).save(folder / "ab"[k % 2] / f"{k}.png")
    return str(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "height", "width", "size"), [("flat", 48, 48, 48), ("wide", 20, 30, None)])
def test_a_factory_is_probed_with_the_datas_own_shape(tmp_path, name, height, width, size):
    data = archive(tmp_path / "data.npz", height, width)
    classifier, dataset = evaluate.load(f"kinds:{name}", data, None, 0)
    assert classifier.image_size == size
    table = temper.evaluate(f"kinds:{name}", *images(8, height, width), ["Linf:1/255"], suite="apgd")
    assert len(table.frame) == 8
    run = finetune(
        {"out": tmp_path / "run", "model": {"name": f"kinds:{name}"}, "data": {"train": data}, "epochs": 1,
         "evaluation": {"points": 1}, "accelerator": "cpu"}
    )  # fmt: skip
    assert models.load(run.folder)(torch.rand(2, 3, height, width)).shape == (2, 2)
    assert len(dataset) == 24


def test_a_network_of_one_size_gets_images_of_that_size(tmp_path, photos, caplog):
    assert models.load("kinds:patches").image_size == 384
    classifier, _ = evaluate.load("kinds:patches", archive(tmp_path / "d.npz", 40, 40), None, 0)
    assert classifier.image_size == 384
    assert "kinds:patches: takes no images of 3x40x40, as the data has; they are brought to 384x384" in caplog.text
    assert evaluate.load("kinds:patches", photos, None, 0)[0].image_size == 384
    assert isinstance(next(Predictor.load("kinds:patches")([f"{photos}/a/0.png"])), Prediction)


@pytest.mark.slow
def test_a_network_of_any_size_needs_one_for_photos_of_several(tmp_path, photos):
    def measured(image_size: int | None) -> int:
        return evaluate.evaluate_into(
            tmp_path / f"e{image_size}", "kinds:plain", photos, ["Linf:1/255"], suite="apgd", limit=None, seed=0,
            batch_size=None, time_budget=float("inf"), image_size=image_size,
        ).clean_accuracy.n  # fmt: skip

    with pytest.raises(DataError, match="give image_size to bring all to one size"):
        measured(None)
    assert measured(16) == 12
    result = margins_into(tmp_path / "m", "kinds:plain", photos, "L2:3", image_size=16)
    assert result.complete
    assert result.brittleness.decisions.known == 12
    fog = corruptions_into(tmp_path / "c", "kinds:plain", photos, names=["fog"], severities=[1], image_size=16)
    assert fog.complete
    outcomes = list(Predictor.load("kinds:plain", 16)([f"{photos}/a/0.png", f"{photos}/b/1.png"]))
    assert all(isinstance(outcome, Prediction) for outcome in outcomes)


def test_a_transformer_takes_the_size_that_is_asked_for(photos):
    name = "timm:vit_tiny_patch16_384"
    arguments = {"weights": "none", "model_args": {"depth": 1}, "num_classes": 2}
    assert models.load(name, **arguments).image_size == 384
    assert models.load(name, image_size=96, **arguments)(torch.rand(2, 3, 96, 96)).shape == (2, 2)


def test_a_size_that_nothing_says_is_asked_for():
    with pytest.raises(ModelError, match=r"does not take images of 3x32x32, 3x28x28.*give image_size"):
        models.load("kinds:flat")
