"""Networks from ONNX files."""

import warnings
from math import isqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import temper
from temper import models
from temper.deployment.exporting import export
from temper.errors import ModelError
from temper.models.onnx import layout_of

onnx = pytest.importorskip("onnx", reason="needs the extra temper-robust[onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra temper-robust[onnx]")
pytest.importorskip("onnx2torch", reason="needs the extra temper-robust[onnx]")


def write(
    path: Path, shape: list[int | str], nodes: list, weights: dict[str, np.ndarray], outputs: int = 3, opset: int = 13
) -> Path:
    helper = onnx.helper
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [shape[0], outputs])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), str(path))
    return path


def linear(path: Path, shape: list[int | str]) -> tuple[Path, np.ndarray]:
    weight = np.random.default_rng(0).normal(size=(int(np.prod(shape[1:])), 3)).astype(np.float32)
    nodes = [onnx.helper.make_node("Flatten", ["x"], ["f"]), onnx.helper.make_node("MatMul", ["f", "w"], ["y"])]
    return write(path, shape, nodes, {"w": weight}), weight


@pytest.mark.parametrize(
    ("shape", "size", "channels"),
    [([1, 3, 8, 8], 8, 3), (["N", 1, 6, 6], 6, 1), ([1, 36], 6, 1), ([1, 108, 1], 6, 3)],
)
def test_a_graph_takes_images_in_batches_and_gives_gradients(tmp_path, shape, size, channels):
    path, weight = linear(tmp_path / "net.onnx", shape)
    classifier = models.load(f"onnx:{path}")
    assert (classifier.image_size, classifier.channels, classifier.num_classes) == (size, channels, 3)
    x = torch.rand(4, channels, size, size, requires_grad=True)
    logits = classifier(x)
    torch.testing.assert_close(logits, x.flatten(1) @ torch.from_numpy(weight))
    logits[:, 0].sum().backward()
    torch.testing.assert_close(x.grad[0].flatten(), torch.from_numpy(weight[:, 0]))


def test_a_competitions_network_decides_as_its_instances_say(shared_data):
    name = "mnistfc21__mnist-net_256x2"
    classifier: nn.Module = models.load(f"onnx:{shared_data / 'proven' / name}.onnx")
    with np.load(shared_data / "proven" / f"{name}.npz") as arrays:
        x, labels = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["label"])
    predictions: Tensor = classifier(x).argmax(1)
    assert torch.equal(predictions, labels)


def test_what_is_no_image_classifier_is_refused(tmp_path):
    def refusal(path: Path) -> str:
        with pytest.raises(ModelError) as error:
            models.load(f"onnx:{path}")
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "no such file" in refusal(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not an onnx file")
    assert "cannot be converted" in refusal(tmp_path / "bad.onnx")
    assert "has no fixed size" in refusal(write(tmp_path / "free.onnx", [1, 3, "H", "W"], [
        onnx.helper.make_node("GlobalAveragePool", ["x"], ["p"]), onnx.helper.make_node("Flatten", ["p"], ["y"])
    ], {}))  # fmt: skip
    assert "are no images" in refusal(linear(tmp_path / "seven.onnx", [1, 7])[0])
    flat = np.array([1, -1], dtype=np.int64)
    weight = np.ones((192, 3), np.float32)
    fixed = [onnx.helper.make_node("Reshape", ["x", "s"], ["f"]), onnx.helper.make_node("MatMul", ["f", "w"], ["y"])]
    one = write(tmp_path / "one.onnx", [1, 3, 8, 8], fixed, {"s": flat, "w": weight})
    assert "batch" in refusal(one)


# --- layouts and outputs ----------------------------------------------------------------------------


def exported(path: Path, network: nn.Module, shape: tuple[int, ...], outputs: tuple[str, ...] = ("y",)) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), torch.zeros(2, *shape), str(path), dynamo=False, opset_version=13, input_names=["x"],
            output_names=list(outputs), dynamic_axes={name: {0: "n"} for name in ("x", *outputs)},
        )  # fmt: skip
    return path


class ChannelsLast(nn.Module):
    """A network as TensorFlow and Keras export it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.permute(0, 3, 1, 2))


@pytest.mark.parametrize(("height", "width"), [(12, 12), (10, 16)])
def test_channels_last_is_transposed_not_reshaped(tmp_path, height, width):
    torch.manual_seed(0)
    network = ChannelsLast()
    path = exported(tmp_path / "last.onnx", network, (height, width, 3))
    x = torch.rand(5, 3, height, width)
    session = onnxruntime.InferenceSession(str(path))
    expected = torch.from_numpy(session.run(None, {"x": x.permute(0, 2, 3, 1).contiguous().numpy()})[0])
    classifier = models.load(f"onnx:{path}")
    torch.testing.assert_close(classifier(x), expected, rtol=1e-3, atol=1e-4)
    assert classifier.image_size == (height if height == width else None)
    images = (x.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
    table = temper.evaluate(f"onnx:{path}", images, expected.argmax(1), ["Linf:1/255"], suite="apgd")
    assert table.clean_accuracy().value == 1.0


@given(st.permutations([1, 3, 7, 12]), st.integers(1, 40))
def test_the_shape_says_where_channels_lie_or_it_is_refused(sizes, side):
    shape = tuple(sizes[:3])
    images = torch.rand(2, 3, 5, 7)
    try:
        layout = layout_of(shape, "net")
    except ModelError as error:
        assert "channels may come first or last" in str(error) or "are no images" in str(error)
        assert (shape[0] in (1, 3)) == (shape[2] in (1, 3))
    else:
        assert layout.channels in (1, 3)
        assert layout.channels_last == (shape[0] not in (1, 3))
        assert {layout.channels, layout.height, layout.width} == set(shape)
    assert torch.equal(layout_of((5, 7, 3), "net").arranged(images), images.permute(0, 2, 3, 1))
    assert torch.equal(layout_of((3, 5, 7), "net").arranged(images), images)
    assert layout_of((side * side,), "net").height in (side, isqrt(side * side // 3))


class Several(nn.Module):
    """Features, logits, and the class."""

    def __init__(self, which: str) -> None:
        super().__init__()
        self.net, self.which = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), which

    def forward(self, x: Tensor):
        logits = self.net(x)
        return {
            "argmax": logits.argmax(1), "label": (logits.argmax(1), logits), "two": (2 * x.flatten(1), logits),
            "sigmoid": torch.sigmoid(logits[:, :1]),
        }[self.which]  # fmt: skip


def test_outputs_that_are_no_logits(tmp_path):
    torch.manual_seed(0)
    x = torch.rand(4, 3, 8, 8)

    def load(which: str, *outputs: str):
        network = Several(which)
        return network.net(x), models.load(f"onnx:{exported(tmp_path / 'n.onnx', network, (3, 8, 8), outputs)}")

    with pytest.raises(ModelError, match="ends in argmax or the like: it gives int64, classes and no logits"):
        load("argmax", "y")
    with pytest.raises(ModelError, match="has 2 outputs, and a, b may be the logits; export that output alone"):
        load("two", "a", "b")
    for which, names in (("label", ("label", "scores")), ("two", ("features", "logits"))):
        logits, classifier = load(which, *names)
        torch.testing.assert_close(classifier(x), logits)
    logits, classifier = load("sigmoid", "y")
    torch.testing.assert_close(classifier(x)[:, 1], logits[:, 0], rtol=1e-3, atol=1e-5)
    assert (classifier.num_classes, classifier.form) == (2, "probability")


def test_a_conversion_that_computes_something_else_never_passes(tmp_path, monkeypatch):
    path, _ = linear(tmp_path / "net.onnx", ["N", 3, 8, 8])
    onnx2torch = pytest.importorskip("onnx2torch")
    own = onnx2torch.convert

    def wrong(content):
        return nn.Sequential(own(content), nn.Hardtanh(-0.1, 0.1))

    monkeypatch.setattr(onnx2torch, "convert", wrong)
    with pytest.raises(ModelError, match="converted to torch it gives other outputs than onnxruntime"):
        models.load(f"onnx:{path}")


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["kinds:one_logit", "kinds:one_probability", "tiny:plain", "tiny:network"])
def test_what_was_exported_is_loaded_again(tmp_path, spec):
    pytest.importorskip("onnxscript", reason="needs the extra temper-robust[onnx]")
    path = tmp_path / "model.onnx"
    export(spec, "onnx", path, image_size=8)
    own, again = models.load(spec, image_size=8), models.load(f"onnx:{path}")
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again(x), own(x))


@pytest.mark.parametrize("opset", [13, 14, 18, 19, 20, 21])
@pytest.mark.parametrize("allowzero", [None, 0, 1])
def test_graphs_reshape_in_every_version(tmp_path, opset, allowzero):
    weight = np.random.default_rng(0).normal(size=(48, 3)).astype(np.float32)
    options = {} if allowzero is None or opset < 14 else {"allowzero": allowzero}
    nodes = [
        onnx.helper.make_node("Reshape", ["x", "s"], ["f"], **options),
        onnx.helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    path = write(tmp_path / "net.onnx", ["N", 3, 4, 4], nodes, {"w": weight, "s": np.array([-1, 48])}, opset=opset)
    x = torch.rand(4, 3, 4, 4)
    torch.testing.assert_close(models.load(f"onnx:{path}")(x), x.flatten(1) @ torch.from_numpy(weight))
