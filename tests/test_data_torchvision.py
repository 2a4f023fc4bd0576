"""torchvision's sets, from files laid down by hand: the tests download nothing."""

import struct

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from temper.data import available_splits, load
from temper.data.torchvision_sets import SETS
from temper.errors import ArgumentError, DataError


def write_idx(path, array):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.fixture
def mnist(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, samples in (("train", 5), ("t10k", 3)):
        images = np.full((samples, 28, 28), np.arange(samples)[:, None, None] + len(part), np.uint8)
        write_idx(raw / f"{part}-images-idx3-ubyte", images)
        write_idx(raw / f"{part}-labels-idx1-ubyte", np.arange(samples, dtype=np.uint8))
    return tmp_path


def test_sets_exist():
    assert set(SETS) <= set(torchvision.datasets.__all__)


def test_mnist(mnist):
    spec = f"torchvision:MNIST:{mnist}"
    assert available_splits(spec) == ("train", "test")
    train = load(spec, split="train")
    assert train.labels.tolist() == [0, 1, 2, 3, 4]
    assert train.images[2].shape == (28, 28, 1)
    assert np.all(train.images[2] == 2 + len("train"))
    assert train.class_names[3].startswith("3")
    test = load(spec, split="test", classes=2)
    assert len(test) == 2
    assert test.name == "torchvision:MNIST/test"
    assert test.fingerprint() == load(spec, split="test").subset([0, 1]).fingerprint()


def test_set_of_files_and_pairs(tmp_path):
    for number in range(3):
        folder = tmp_path / "gtsrb" / "GTSRB" / "Training" / f"{number:05d}"
        folder.mkdir(parents=True)
        Image.new("RGB", (5, 4), (number, 0, 0)).save(folder / "x.ppm")
    data = load(f"torchvision:GTSRB:{tmp_path}", split="train")
    assert data.labels.tolist() == [0, 1, 2]
    assert data.images[1][0, 0].tolist() == [1, 0, 0]


def test_damaged_image_is_named(tmp_path):
    folder = tmp_path / "gtsrb" / "GTSRB" / "Training" / "00000"
    folder.mkdir(parents=True)
    (folder / "x.ppm").write_bytes(b"no image")
    data = load(f"torchvision:GTSRB:{tmp_path}", split="train")
    with pytest.raises(DataError, match=r"torchvision:GTSRB/train\[0\]: not readable"):
        data.images[0]


def test_mistakes_are_one_line(mnist, tmp_path, monkeypatch):
    with pytest.raises(ArgumentError, match=r"no such set, choose among CIFAR10, CIFAR100"):
        load("torchvision:CIFAR1")
    with pytest.raises(ArgumentError, match=r"MNIST is divided: choose one of train, test"):
        load(f"torchvision:MNIST:{mnist}")
    with pytest.raises(DataError, match=r"ImageNet: not in .*: put its files there"):
        load(f"torchvision:ImageNet:{tmp_path}", split="train")

    def no_network(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", no_network)
    with pytest.raises(DataError, match=r"not downloaded \(no route to host\): put its files there") as caught:
        load(f"torchvision:CIFAR10:{tmp_path}", split="train")
    assert "\n" not in str(caught.value)


def test_nothing_on_stdout(mnist, capfd):
    load(f"torchvision:MNIST:{mnist}", split="train")
    assert capfd.readouterr().out == ""
