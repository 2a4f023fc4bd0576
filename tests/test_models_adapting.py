"""Modules that attacks could not work with as they are: in place, without a gradient, one output for two classes."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import kinds
import temper
from temper import models
from temper.deployment.exporting import export
from temper.deployment.prediction import Predictor
from temper.errors import ModelError, TemperWarning
from temper.models.outputs import as_logits, form_of, main_output
from temper.runs.corruptions import corruptions_into
from temper.runs.finetune import finetune
from temper.runs.margins import margins_into

pytestmark = pytest.mark.usefixtures("undrawn")

SIGMOIDS = [lambda z: torch.sigmoid(z), lambda z: z.sigmoid().squeeze(1), lambda z: torch.sigmoid(z[:, 0])]


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def images(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Two classes told apart by their brightness."""
    labels = np.arange(count) % 2
    pixels = np.random.default_rng(0).integers(0, 160, (count, 8, 8, 3)) + labels[:, None, None, None] * 95
    return pixels.astype(np.uint8), labels


def two_logits(one: kinds.OneOutput) -> nn.Module:
    """The same classifier as people write it with two outputs."""
    linear = nn.Linear(192, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.cat([torch.zeros_like(one.head.weight), one.head.weight]))
        linear.bias.copy_(torch.cat([torch.zeros(1), one.head.bias]))
    return nn.Sequential(nn.Flatten(), linear)


# --- one output of two classes --------------------------------------------------------------------


@pytest.mark.parametrize("squash", SIGMOIDS)
def test_a_probability_gives_back_its_logit(squash):
    z = torch.tensor([[-30.0], [-1.0], [0.0], [2.0], [15.0]], requires_grad=True)
    assert form_of(squash(z)) == "probability"
    logits = as_logits(squash(z), "probability")
    torch.testing.assert_close(logits, torch.cat([torch.zeros_like(z), z], 1), rtol=0.03, atol=1e-5)
    logits[:, 1].sum().backward()
    torch.testing.assert_close(z.grad, torch.ones_like(z), rtol=0.06, atol=0)
    assert as_logits(torch.tensor([0.0, 1.0]), "probability").isfinite().all()


def test_a_logit_is_no_probability_though_it_lies_between_0_and_1():
    z = torch.tensor([[0.2], [0.9]], requires_grad=True)
    assert form_of(z * 1) == form_of((z * 1).squeeze(1)) == "logit"
    assert form_of(torch.tensor([[0.2], [0.9]])) == "probability"  # without a graph, numbers decide
    assert form_of(torch.tensor([[0.2], [1.9]])) == "logit"
    assert form_of(torch.tensor([[1.0, 2.0]])) == "logits"
    assert form_of(torch.tensor([3, 1])) is form_of(torch.zeros(2, 3, 4)) is None
    z = torch.tensor([-1.0, 3.0])
    torch.testing.assert_close(as_logits(z, "logit").softmax(1)[:, 1], z.sigmoid())


@pytest.mark.slow
@pytest.mark.parametrize("sigmoid", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_one_output_is_as_robust_as_the_two_that_say_the_same(sigmoid, flat):
    one = kinds.OneOutput(sigmoid=sigmoid, flat=flat)
    threats = ["Linf:8/255,24/255,40/255"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", TemperWarning)
        found = temper.evaluate(one, *images(), threats, suite="fast")
        expected = temper.evaluate(two_logits(one), *images(), threats, suite="fast")
    ours, theirs = found.frame, expected.frame
    assert 0 < found.robust_accuracy("Linf", 24 / 255).value < found.clean_accuracy().value
    assert (ours["prediction"] == theirs["prediction"]).all()
    np.testing.assert_allclose(ours["logit_margin"], theirs["logit_margin"], rtol=1e-3, atol=1e-4)
    for eps in (8 / 255, 24 / 255, 40 / 255):
        assert found.robust_accuracy("Linf", eps) == expected.robust_accuracy("Linf", eps)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_logit", "one_probability"])
def test_a_binary_classifier_goes_everywhere(tmp_path, name):
    pixels, labels = images(120)
    data = str(tmp_path / "data.npz")
    np.savez(data, images=pixels, labels=labels)
    for k in range(4):
        Image.fromarray(pixels[k]).save(tmp_path / f"{k}.png")
    base = {"data": {"train": data}, "epochs": 1, "batch_size": 16, "evaluation": {"points": 1}, "accelerator": "cpu"}
    run = finetune(base | {"out": tmp_path / "run", "model": {"name": f"kinds:{name}"}}).folder
    classifier = models.load(run)
    assert (classifier.num_classes, classifier.form) == (2, name.removeprefix("one_"))
    assert classifier.head.weight.shape == (1, 192)

    again = finetune(base | {"out": tmp_path / "again", "model": {"name": str(run)}}).folder
    assert models.load(again).form == classifier.form
    models.refresh_head(classifier, 0)
    assert (classifier.num_classes, classifier.head.weight.shape) == (2, (1, 192))

    result = margins_into(tmp_path / "margins", str(run), data, "Linf:24/255", limit=30)
    assert result.complete
    consistency = result.brittleness.consistency
    assert {"logit_margin", "feature_margin"} <= consistency.keys()
    # A linear model's margin is its logit over the length of its weights, so features rank it without a mistake.
    assert consistency["feature_margin"].tau.value > 0.98
    assert corruptions_into(tmp_path / "corruptions", str(run), data, names=["fog"], severities=[1]).complete
    expected = models.load(run)(torch.from_numpy(pixels[:4]).permute(0, 3, 1, 2).float() / 255).softmax(1)
    outcomes = list(Predictor.load(str(run))([str(tmp_path / f"{k}.png") for k in range(4)]))
    assert [outcome.class_index for outcome in outcomes] == expected.argmax(1).tolist()
    assert [outcome.confidence for outcome in outcomes] == pytest.approx(expected.amax(1).tolist(), abs=1e-4)
    assert export(str(run), "torch", tmp_path / "run.pt2").relative < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_logit", "one_probability"])
def test_a_binary_classifiers_detector_goes_into_its_onnx_file(tmp_path, name):
    for needed in ("onnx", "onnxruntime", "onnxscript", "onnx2torch"):
        pytest.importorskip(needed)
    pixels, labels = images(200)
    data = str(tmp_path / "data.npz")
    np.savez(data, images=pixels, labels=labels)
    run = finetune(
        {"out": tmp_path / "run", "model": {"name": f"kinds:{name}"}, "data": {"train": data, "test_fraction": 0.6},
         "epochs": 1, "batch_size": 16, "evaluation": {"points": 1}, "accelerator": "cpu"}
    ).folder  # fmt: skip
    result = margins_into(tmp_path / "margins", str(run), data, "Linf:40/255")
    assert result.complete
    assert result.brittleness.decisions.brittle > 40
    predictor = Predictor.load(str(run))
    assert predictor.detector is not None
    for k in range(8):
        Image.fromarray(pixels[k]).save(tmp_path / f"{k}.png")
    flags = [outcome.brittle for outcome in predictor([str(tmp_path / f"{k}.png") for k in range(8)])]

    done = export(str(run), "onnx", tmp_path / "run.onnx")
    assert done.outputs == ("logits", "margin", "brittle")
    assert done.relative < 1e-3
    x = torch.from_numpy(pixels[:8]).permute(0, 3, 1, 2).float() / 255
    session = onnx_session(done.path)
    logits, margin, brittle = session.run(None, {"images": x.numpy()})
    expected = models.load(run)(x).detach()
    assert logits.shape == (8, 2)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(margin, (expected[:, 0] - expected[:, 1]).abs(), rtol=1e-3, atol=1e-4)
    assert brittle.tolist() == flags


def onnx_session(path: Path):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_one_logit_becomes_several_where_there_are_more_classes():
    assert models.load("kinds:one_logit", image_size=8).num_classes == 2
    three = models.load("kinds:one_logit", image_size=8, num_classes=3)
    assert (three.num_classes, three.form, three(torch.rand(2, 3, 8, 8)).shape) == (3, "logits", (2, 3))
    with pytest.raises(ModelError, match="ends in a sigmoid over one output, which 3 classes cannot share"):
        models.load("kinds:one_probability", image_size=8, num_classes=3)


@pytest.mark.slow
def test_auxiliary_heads_stay_aside(tmp_path):
    data = str(tmp_path / "data.npz")
    np.savez(data, **dict(zip(("images", "labels"), images(60), strict=True)))
    run = finetune(
        {"out": tmp_path / "run", "model": {"name": "kinds:Auxiliary"}, "data": {"train": data}, "epochs": 1,
         "batch_size": 16, "evaluation": {"points": 1}, "accelerator": "cpu"}
    )  # fmt: skip
    assert models.load(run.folder).head_name == "head"


# --- forward passes -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_model_that_writes_into_its_input_is_lent_copies():
    torch.manual_seed(0)
    network, same = kinds.InPlace(), kinds.Outside()
    same.load_state_dict(network.state_dict())
    pixels, labels = images()
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    before = x.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error", TemperWarning)
        found = temper.evaluate(network, x, labels, ["Linf:4/255,16/255"], suite="fast")
        expected = temper.evaluate(same, x, labels, ["Linf:4/255,16/255"], suite="fast")
    assert torch.equal(x, before)
    for column in ("prediction", "upper", "survived"):
        assert (found.frame[column] == expected.frame[column]).all()


@pytest.mark.parametrize("way", ["no_grad", "detach", "numpy"])
def test_without_a_gradient_only_attacks_that_need_none_count(way):
    torch.manual_seed(0)
    network = kinds.Cut(way=way)
    _, labels = images()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        table = temper.evaluate(network, *images(), ["Linf:64/255"], suite="fast")
    (cause,) = [str(each.message) for each in told if "no gradient reaches the pixels" in str(each.message)]
    assert "detach(), no_grad, NumPy" in cause
    assert "square" in set(table.frame["attack"])
    for suite in ("apgd", "margin"):
        with pytest.raises(ModelError, match=f"every attack of the suite {suite} climbs one; use suite standard"):
            temper.evaluate(network, images()[0], labels, ["Linf:64/255"], suite=suite)


def test_a_model_without_a_gradient_is_not_trained(tmp_path):
    data = str(tmp_path / "data.npz")
    np.savez(data, **dict(zip(("images", "labels"), images(60), strict=True)))
    with pytest.raises(ModelError, match="kinds:Cut: no gradient reaches the pixels, so no attack can be crafted"):
        finetune({"out": tmp_path / "run", "model": {"name": "kinds:Cut"}, "data": {"train": data}})
    assert not (tmp_path / "run").exists()


def test_inference_mode_around_a_call_changes_nothing():
    torch.manual_seed(0)
    network = kinds.Outside()
    expected = temper.evaluate(network, *images(), ["Linf:4/255"], suite="apgd").frame
    with torch.inference_mode():
        copy = kinds.Outside()
        copy.load_state_dict(network.state_dict())
        for model in (network, copy):
            assert temper.evaluate(model, *images(), ["Linf:4/255"], suite="apgd").frame.equals(expected)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled_and_exported_forms_of_a_model_give_its_numbers():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()
    x = torch.rand(4, 3, 8, 8)
    exported = torch.export.export(network, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},)).module()
    forms = [torch.jit.script(network), torch.jit.freeze(torch.jit.script(network)), exported, torch.compile(network)]
    expected = temper.evaluate(network, *images(), ["Linf:8/255,32/255"], suite="apgd").frame
    for form in forms:
        found = temper.evaluate(form, *images(), ["Linf:8/255,32/255"], suite="apgd").frame
        assert (found["prediction"] == expected["prediction"]).all()
        np.testing.assert_allclose(found["survived"], expected["survived"])
    other = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)).eval()))
    assert models.weights_fingerprint(other) != models.weights_fingerprint(forms[1])
    quantised = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
    with pytest.warns(TemperWarning, match="no gradient reaches the pixels"):
        temper.evaluate(quantised, *images(), ["Linf:8/255"], suite="fast")


def test_named_outputs_and_what_gives_none():
    torch.manual_seed(0)
    network = kinds.Outside()

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"features": x.flatten(1), "logits": self.net(x)}

    found = temper.evaluate(Named(), *images(), ["Linf:4/255"], suite="apgd").frame
    expected = temper.evaluate(network, *images(), ["Linf:4/255"], suite="apgd").frame
    assert (found["prediction"] == expected["prediction"]).all()
    with pytest.raises(ModelError, match="OneByOne: takes one image at a time"):
        temper.evaluate(kinds.OneByOne(), *images(), ["Linf:4/255"], suite="apgd")
    with pytest.raises(ModelError, match=r"is torch.float64; evidence needs full precision, .*model.float\(\)"):
        temper.evaluate(kinds.Outside().double(), *images(), ["Linf:4/255"], suite="apgd")


def test_of_several_outputs_the_one_that_may_be_logits_is_taken():
    logits, maps, scores = torch.rand(2, 5, requires_grad=True), torch.rand(2, 3, 4, 4), torch.rand(2)
    for several in ((logits,), (logits, maps), [scores, maps, logits], {"logits": logits, "auxiliary": logits * 2}):
        assert main_output(several, training=False) is logits
    two = (logits, logits * 2)
    assert main_output(two, training=False) is two  # two heads: nobody can tell which is meant
    assert main_output(two, training=True) is logits  # auxiliary heads come after it


@pytest.mark.parametrize("kind", ["tuple", "dict", "dataclass"])
def test_a_factorys_outputs_go_through_the_one_adapter(kind):
    classifier = models.load(f"kinds:several_{kind}", image_size=8)
    images = torch.rand(3, 3, 8, 8)
    assert classifier(images).shape == (3, 2)
    torch.testing.assert_close(classifier(images), classifier.network.net(images))


def test_a_factory_that_takes_one_image_at_a_time_is_told_so():
    with pytest.raises(ModelError, match="kinds:OneByOne: takes one image at a time"):
        models.load("kinds:OneByOne", example=torch.rand(4, 3, 8, 8))
    with pytest.raises(ModelError, match="kinds:OneByOne: takes one image at a time"):
        models.load("kinds:OneByOne", image_size=8)
