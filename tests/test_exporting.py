"""The command export: files that compute elsewhere what the model computes here."""

import io
import json
import logging
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from deployed import POOLED, detector_of, trained
from temper import models
from temper.cli import main as cli
from temper.deployment import exporting, prediction
from temper.deployment.exporting import compare, export
from temper.deployment.prediction import Deployed
from temper.errors import ArgumentError, EvidenceError, MissingExtraError, ModelError
from temper.models import Classifier
from temper.models.preprocessing import Preprocessing


@pytest.fixture(autouse=True)
def _tiny_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(count))


def own(folder: Path, threshold: float) -> Deployed:
    return Deployed(models.load(folder), threshold).requires_grad_(False)


def threshold_of(folder: Path) -> float:
    """The median logit margin of some images: half of them are brittle."""
    return float(own(folder, 0.0)(images(7))[1].median())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def detected(run, tmp_path) -> Path:
    """A detector's file, beside the run."""
    detector_of(run, threshold_of(run)).save(tmp_path / "detector.json")
    return tmp_path / "detector.json"


@pytest.mark.slow
def test_onnx_runs_in_onnxruntime_like_the_model(run, detected, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra temper-robust[onnx]")
    pytest.importorskip("onnxscript", reason="needs the extra temper-robust[onnx]")
    out = tmp_path / "new" / "model.onnx"
    words = ["--run", str(run), "--format", "onnx", "--out", str(out), "--detector", str(detected)]
    assert cli.main(["export", *words]) == 0
    said, err = capsys.readouterr()
    assert err == ""
    assert "outputs logits, margin, brittle" in said
    assert "checked on 8 test images of digits" in said
    assert [path.name for path in out.parent.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(out)
    assert [(each.name, each.shape[1:]) for each in session.get_inputs()] == [("images", [3, 8, 8])]
    assert [each.name for each in session.get_outputs()] == ["logits", "margin", "brittle"]
    model = own(run, threshold_of(run))
    for count in (1, 2, 7, 33):
        x = images(count)
        logits, margin, brittle = session.run(None, {"images": x.numpy()})
        expected = model(x)
        np.testing.assert_allclose(logits, expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(margin, expected[1], rtol=1e-3, atol=1e-5)
        sure = (expected[1] - threshold_of(run)).abs().numpy() > 1e-5
        assert (brittle == expected[2].numpy())[sure].all()
    assert 0 < brittle.sum() < len(brittle)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts.pop("class_names")) == [str(k) for k in range(10)]
    assert facts.pop("weights") == models.fingerprint(models.load(run))["weights"]
    assert float(facts.pop("threshold")) == threshold_of(run)
    assert facts.pop("temper_version")
    assert facts == {"threat": "Linf:8/255", "alpha": "0.05"}
    assert str(Path(prediction.__file__).parent).encode() not in out.read_bytes()


def test_what_the_exporter_thinks_is_not_told(caplog):
    """Of a network with rotary positions it tells in 48 lines that it leaves a Split as it is."""
    inside = logging.getLogger("onnxscript.optimizer._constant_folding")
    with exporting._quiet_exporter():
        inside.warning("Skipping constant folding")
        warnings.warn("of its own", UserWarning, stacklevel=1)
    assert not caplog.records
    inside.warning("heard again")
    assert len(caplog.records) == 1


@pytest.mark.slow
def test_without_a_detector_there_is_no_output_brittle(tmp_path, capsys):
    out = tmp_path / "model.pt2"
    assert cli.main(["export", "--run", "bundled", "--format", "torch", "--out", str(out)]) == 0
    said, err = capsys.readouterr()
    assert "outputs logits, margin\n" in said
    assert "checked on 8 images of random pixels" in said
    assert err.count("\n") == 1
    assert "temper margins --model DIR" in err
    facts = {exporting.FACTS: ""}
    program = torch.export.load(io.BytesIO(out.read_bytes()), extra_files=facts).module()
    classifier = models.load("bundled")
    for count in (1, 5):
        x = torch.rand(count, 3, 32, 32)
        logits, margin = program(x)
        torch.testing.assert_close(logits, classifier(x))
        top = classifier(x).topk(2, 1).values
        torch.testing.assert_close(margin, top[:, 0] - top[:, 1])
    assert json.loads(facts[exporting.FACTS])["outputs"] == ["logits", "margin"]


def test_a_run_whose_data_are_gone_is_checked_on_random_pixels(run, tmp_path):
    classifier = models.load(run)
    models.save(classifier, tmp_path / "run", extra={})
    gone = (run / "config.yaml").read_text().replace("train: digits", "train: gone.npz")
    (tmp_path / "run" / "config.yaml").write_text(gone)
    found, words = exporting._trial_images(str(tmp_path / "run"), classifier)
    assert found.shape == (8, 3, 8, 8)
    assert words.startswith("8 images of random pixels (the run's test data cannot be loaded: data.train = 'gone.npz'")


def test_a_file_that_computes_something_else_is_not_kept(tmp_path, monkeypatch):
    deployed = own(Path("bundled"), 1.0)
    x = torch.rand(4, 3, 32, 32)
    assert compare(deployed, lambda some: list(deployed(some)), x) == (0, 0)
    with pytest.raises(ModelError, match="differs from the model by"):
        compare(deployed, lambda some: list(deployed(some * 0.9)), x)
    with pytest.raises(ModelError, match="differs from the model by nan"):
        compare(deployed, lambda some: [out * torch.nan for out in deployed(some)[:2]] + [deployed(some)[2]], x)
    with pytest.raises(ModelError, match="takes no batch of 3"):
        compare(deployed, lambda some: [out[:1] for out in deployed(some)], x)
    with pytest.raises(ModelError, match="flags other decisions"):
        compare(deployed, lambda some: [*deployed(some)[:2], ~deployed(some)[2]], x)
    out = tmp_path / "model.pt2"
    out.write_bytes(b"from before")
    monkeypatch.setattr(exporting, "_from_torch", lambda content: lambda some: list(deployed(some * 0.9))[:2])
    monkeypatch.setattr(exporting, "_to_torch", lambda *_: b"new")
    with pytest.raises(ModelError):
        export("bundled", "torch", out)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.pt2", b"from before")]


class Branching(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :2] * (2 if x.sum() > 0 else 1)


def test_a_model_that_branches_on_its_images_is_refused(tmp_path):
    classifier = Classifier(Branching(), Preprocessing((0.0,), (1.0,), 4), head=(), num_classes=2)
    deployed = Deployed(classifier, None).eval()
    with pytest.raises(ModelError, match=r"cannot be exported to torch\.export") as caught:
        exporting._to_torch(deployed, torch.rand(2, 1, 4, 4), ("logits", "margin"), {})
    assert "\n" not in str(caught.value)


def test_wrong_calls(run, detected, tmp_path, capsys, monkeypatch):
    with pytest.raises(ArgumentError, match=r"a file of format onnx ends in \.onnx"):
        export(str(run), "onnx", tmp_path / "model.pt2")
    (tmp_path / "folder.pt2").mkdir()
    (tmp_path / "pooled_network.py").write_text(POOLED)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ArgumentError, match="is a folder; name a file in it"):
        export(str(run), "torch", tmp_path / "folder.pt2")
    with pytest.raises(EvidenceError, match="was fitted for another model"):
        export("bundled", "torch", tmp_path / "model.pt2", detected)
    with pytest.raises(ArgumentError, match=r"detector = .*missing.json': is not there"):
        export(str(run), "torch", tmp_path / "model.pt2", tmp_path / "missing.json")
    with pytest.raises(ArgumentError, match="does not say what size its images have"):
        export("pooled_network:Net", "torch", tmp_path / "model.pt2")
    assert cli.main(["export", "--run", str(run), "--format", "tflite", "--out", "x"]) == 2
    assert "format = 'tflite': choose one of onnx, torch" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"temper-robust\[onnx\]"):
        export(str(run), "onnx", tmp_path / "model.onnx")
    assert not list(tmp_path.glob("model.*"))
