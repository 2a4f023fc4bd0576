"""Networks from ONNX files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from temper import models
from temper.errors import ModelError

onnx = pytest.importorskip("onnx", reason="needs the extra temper[onnx]")
pytest.importorskip("onnx2torch", reason="needs the extra temper[onnx]")


def write(path: Path, shape: list[int | str], nodes: list, weights: dict[str, np.ndarray], outputs: int = 3) -> Path:
    helper = onnx.helper
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [shape[0], outputs])],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), str(path))
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
