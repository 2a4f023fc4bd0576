"""Published data sets: their layouts, in small copies."""

import dataclasses
import subprocess
import sys
import urllib.error
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from temper.data import catalogue, load
from temper.data.catalogue import CATALOGUE, SPLITS, published, sizes
from temper.errors import ArgumentError, DataError
from temper.training.sections.images import DataConfig
from temper.training.splits import load_splits

CLASSES = ("ant", "bee", "cat")
TRAIN, TEST = 20, 6  # images of each class in the small copies


def picture(path, label):
    """An image that shows its label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (40 * label, 0, 0)).save(path, quality=95)


def rows(per_class):
    return [(number, label) for number in range(per_class) for label in range(len(CLASSES))]


def caltech101(root):
    folder = root / "caltech101" / "101_ObjectCategories"
    picture(folder / "BACKGROUND_Google" / "image_0001.jpg", 6)
    for number, label in rows(TRAIN):
        picture(folder / CLASSES[label] / f"image_{number + 1:04d}.jpg", label)


def caltech256(root):
    for number, label in rows(TRAIN):
        folder = root / "caltech256" / "256_ObjectCategories" / f"{label + 1:03d}.{CLASSES[label]}"
        picture(folder / f"{label + 1:03d}_{number + 1:04d}.jpg", label)
    (folder / "RENAME2").write_text("not an image, as in the original")


def aircraft(root):
    folder = root / "fgvc-aircraft-2013b" / "data"
    for part in ("train", "val", "test"):
        for number, label in rows(TRAIN if part == "train" else TEST):
            picture(folder / "images" / f"{part}{number}{label}.jpg", label)
        lines = [
            f"{part}{number}{label} {CLASSES[label]}" for number, label in rows(TRAIN if part == "train" else TEST)
        ]
        (folder / f"images_variant_{part}.txt").write_text("\n".join(lines) + "\n")
    (folder / "variants.txt").write_text("\n".join(CLASSES) + "\n")


def flowers(root):
    folder, labels = root / "flowers-102", []
    ids = {"trnid": [], "valid": [], "tstid": []}
    for part, per_class in (("trnid", TRAIN), ("valid", TEST), ("tstid", TEST)):
        for _, label in rows(per_class):
            labels.append(label + 1)
            ids[part].append(len(labels))
            picture(folder / "jpg" / f"image_{len(labels):05d}.jpg", label)
    savemat(folder / "imagelabels.mat", {"labels": np.array([labels])})
    savemat(folder / "setid.mat", {part: np.array([numbers]) for part, numbers in ids.items()})


def pets(root):
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    for part, per_class in (("trainval", TRAIN), ("test", TEST)):
        lines = [f"{CLASSES[label]}_{part}{number} {label + 1} 1 1" for number, label in rows(per_class)]
        for line, (_, label) in zip(lines, rows(per_class), strict=True):
            picture(folder / "images" / f"{line.split()[0]}.jpg", label)
        (folder / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")


def cars(root):
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": np.array(CLASSES, dtype=object)})
    for part, per_class, file in (
        ("train", TRAIN, folder / "devkit" / "cars_train_annos.mat"),
        ("test", TEST, folder / "cars_test_annos_withlabels.mat"),
    ):
        annotations = np.array(
            [(f"{number}{label}.jpg", label + 1) for number, label in rows(per_class)],
            dtype=[("fname", object), ("class", np.int64)],
        )
        savemat(file, {"annotations": annotations})
        for number, label in rows(per_class):
            picture(folder / f"cars_{part}" / f"{number}{label}.jpg", label)


def uc_merced(root):
    for number, label in rows(TRAIN):
        picture(root / "UCMerced_LandUse" / "Images" / CLASSES[label] / f"{CLASSES[label]}{number:02d}.tif", label)


def uc_merced_zip(root):
    uc_merced(root / "unpacked")
    with zipfile.ZipFile(root / "UCMerced_LandUse.zip", "w") as archive:
        for file in sorted((root / "unpacked").rglob("*.tif")):
            archive.write(file, file.relative_to(root / "unpacked").as_posix())


def cub(root):
    folder = root / "CUB_200_2011"
    images, labels, flags = [], [], []
    for part, per_class in (("train", TRAIN), ("test", TEST)):
        for number, label in rows(per_class):
            images.append(f"{label + 1:03d}.{CLASSES[label]}/{part}_{number}.jpg")
            labels.append(label + 1)
            flags.append(int(part == "train"))
            picture(folder / "images" / images[-1], label)
    for file, column in (("images", images), ("image_class_labels", labels), ("train_test_split", flags)):
        (folder / f"{file}.txt").write_text("".join(f"{n} {value}\n" for n, value in enumerate(column, start=1)))
    (folder / "classes.txt").write_text("".join(f"{n + 1} {n + 1:03d}.{name}\n" for n, name in enumerate(CLASSES)))


def dogs(root, lists=""):
    folder = root / "stanford-dogs"
    for part, per_class in (("train", TRAIN), ("test", TEST)):
        members = [f"n0208562{label}-{CLASSES[label]}/{part}_{number}.jpg" for number, label in rows(per_class)]
        for member, (_, label) in zip(members, rows(per_class), strict=True):
            picture(folder / "Images" / member, label)
        cells = np.empty((len(members), 1), dtype=object)
        cells[:, 0] = members
        (folder / lists).mkdir(exist_ok=True)
        labels = np.array([[label + 1] for _, label in rows(per_class)])
        savemat(folder / lists / f"{part}_list.mat", {"file_list": cells, "labels": labels})


def dogs_with_lists_in_a_folder(root):
    dogs(root, "lists")


LAYOUTS = [
    ("caltech101", caltech101),
    ("caltech256", caltech256),
    ("fgvc-aircraft-2013b", aircraft),
    ("flowers-102", flowers),
    ("oxford-iiit-pet", pets),
    ("stanford_cars", cars),
    ("uc-merced-land-use-dataset", uc_merced),
    ("uc-merced-land-use-dataset", uc_merced_zip),
    ("cub-200-2011", cub),
    ("stanford-dogs", dogs),
    ("stanford-dogs", dogs_with_lists_in_a_folder),
]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture
def small(monkeypatch):
    """A function that makes the catalogue expect the small copy of a set."""
    monkeypatch.setattr("torchvision.datasets.flowers102.check_integrity", lambda path, _: True)

    def shrink(name, classes=3):
        known = published(name)
        images = {"train": 3 * TRAIN, None: 3 * TRAIN, "validation": 3 * TEST, "test": 3 * TEST}
        parts = tuple(dataclasses.replace(part, images=images[part.part]) for part in known.published)
        if name == "caltech256":
            parts = (
                dataclasses.replace(
                    parts[0], divide=lambda labels: catalogue._per_class(labels, validation=3, train=9)
                ),
            )
        if name == "flowers-102":
            classes = 102  # torchvision names them itself
        if name == "stanford-dogs":
            divide = catalogue.partial(catalogue._per_class, validation=4)
            parts = (dataclasses.replace(parts[0], divide=divide), parts[1])
        monkeypatch.setitem(CATALOGUE, name, dataclasses.replace(known, published=parts, classes=classes))

    return shrink


@pytest.mark.parametrize(("name", "build"), LAYOUTS, ids=[f"{name}-{build.__name__}" for name, build in LAYOUTS])
def test_every_layout(tmp_path, small, name, build):
    small(name)
    build(tmp_path)
    spec = f"{name}:{tmp_path}"
    parts = {split: load(spec, split=split) for split in SPLITS}
    seen = []
    for split, part in parts.items():
        assert part.name == f"{name}/{split}"
        assert part.num_classes == (102 if name == "flowers-102" else 3)
        if name != "flowers-102":
            assert [class_name.rpartition(".")[2].lower() for class_name in part.class_names] == list(CLASSES)
        assert set(part.labels.tolist()) == {0, 1, 2}
        for index in range(len(part)):
            assert abs(int(part.images[index][2, 2, 0]) - 40 * part.labels[index]) <= 3, part.images.where(index)
            seen.append(part.images.where(index))
    assert len(set(seen)) == len(seen)
    assert np.array_equal(load(spec, split="train").ids, parts["train"].ids)
    if len(published(name).published) == 1:
        assert len(seen) == 60
    else:
        assert len(parts["test"]) == 18
        assert len(parts["train"]) + len(parts["validation"]) == (78 if len(published(name).published) == 3 else 60)


@pytest.mark.parametrize(("name", "build"), LAYOUTS, ids=[f"{name}-{build.__name__}" for name, build in LAYOUTS])
def test_a_set_that_is_half_unpacked(tmp_path, small, name, build):
    small(name)
    build(tmp_path)
    if build is uc_merced_zip:
        with zipfile.ZipFile(tmp_path / "UCMerced_LandUse.zip") as whole:
            names = whole.namelist()
            kept = {member: whole.read(member) for member in names if not member.endswith("ant07.tif")}
        with zipfile.ZipFile(tmp_path / "UCMerced_LandUse.zip", "w") as archive:
            for member, content in kept.items():
                archive.writestr(member, content)
    else:
        gone = load(f"{name}:{tmp_path}", split="train").images
        gone.files.root.joinpath(gone.files.members[1]).unlink()
    catalogue_part = "undivided images" if len(published(name).published) == 1 else "published train part"
    # torchvision numbers Caltech's images up to their count, so a gap makes two differences there.
    with pytest.raises(DataError, match=f"{name}: {catalogue_part}: 5[89] images found.*, 60 expected") as error:
        load(f"{name}:{tmp_path}", split="train")
    message = str(error.value)
    assert "half unpacked" in message
    assert published(name).files.archives in message
    assert "\n" not in message


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_set_that_is_not_there(tmp_path, name):
    with pytest.raises(DataError) as error:
        load(f"{name}:{tmp_path}", split="train")
    message = str(error.value)
    assert message.startswith(f"{name}: not readable in {tmp_path} (")
    assert published(name).files.archives in message
    assert str(tmp_path / published(name).files.layout) in message
    assert "\n" not in message


def test_another_number_of_classes(tmp_path, small):
    small("cub-200-2011", classes=4)
    cub(tmp_path)
    with pytest.raises(DataError, match=r"cub-200-2011: published test part: 3 classes found, 4 expected"):
        load(f"cub-200-2011:{tmp_path}", split="test")


def test_lists_that_do_not_belong_together(tmp_path, small):
    small("cub-200-2011")
    cub(tmp_path)
    (tmp_path / "CUB_200_2011" / "train_test_split.txt").write_text("1 1\n")
    with pytest.raises(DataError, match="differ in length"):
        load(f"cub-200-2011:{tmp_path}", split="test")


def test_missing_background_class_is_no_traceback(tmp_path):
    """torchvision's Caltech101 takes for granted that the folder of the background class is there."""
    picture(tmp_path / "caltech101" / "101_ObjectCategories" / "ant" / "image_0001.jpg", 0)
    with pytest.raises(DataError, match="caltech101: not readable"):
        load(f"caltech101:{tmp_path}", split="train")


def test_where_sets_are_looked_for(tmp_path, small, monkeypatch):
    small("cub-200-2011")
    cub(tmp_path / "here")
    monkeypatch.setenv("TEMPER_DATA", str(tmp_path / "here"))
    assert len(load("cub-200-2011", split="test")) == 18
    monkeypatch.delenv("TEMPER_DATA")
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "cache" / "hub"))
    with pytest.raises(DataError, match=f"not readable in {tmp_path / 'cache' / 'datasets'}"):
        load("cub-200-2011", split="test")


def test_a_name_goes_before_a_folder_of_that_name(tmp_path, small, monkeypatch):
    small("cub-200-2011")
    monkeypatch.chdir(tmp_path)
    for name in CLASSES:
        picture(tmp_path / "cub-200-2011" / name / "a.png", 0)
    cub(tmp_path)
    assert load("cub-200-2011:.", split="test").name == "cub-200-2011/test"
    assert len(load("./cub-200-2011")) == 3


def test_names_and_parts():
    with pytest.raises(ArgumentError, match=r"no such name in the catalogue, choose among flowers-102"):
        sizes("flowers102")
    with pytest.raises(ArgumentError, match=r"choose among caltech101, fgvc-aircraft-2013b"):
        published("x")
    with pytest.raises(ArgumentError, match=r"did you mean .*flowers-102.*NAME\[:ROOT\] of temper.data.catalogue"):
        load("flower-102:/data")
    with pytest.raises(
        ArgumentError, match=r"split = None: caltech256 is divided: choose one of train, validation, test"
    ):
        load("caltech256")


def test_a_run_takes_its_three_parts_from_the_one_name(tmp_path, small):
    small("stanford-dogs")
    dogs(tmp_path)
    splits = load_splits(DataConfig(train=f"stanford-dogs:{tmp_path}"), seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (48, 12, 18)
    assert splits.test.name == "stanford-dogs/test"
    one_class = load(f"stanford-dogs:{tmp_path}", split="test", classes=["cat"])
    assert len(one_class) == 6


def test_planning_needs_no_heavy_import():
    code = (
        "import sys; from temper.data.catalogue import sizes; assert sizes('flowers-102')['test'] == 1000;"
        " assert not {'sklearn', 'torchvision', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
