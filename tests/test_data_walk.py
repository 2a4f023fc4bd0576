"""Folders with links: each real folder and each real file is met once, under the name it really has."""

import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from temper.data import load
from temper.data.decode import IMAGE_SUFFIXES, KINDS, READ
from temper.data.walk import walk
from temper.deployment.images import find_images, read_image
from temper.errors import ArgumentError, DataError
from temper.training.sections.images import DataConfig
from temper.training.splits import load_splits


def refuse(error):
    raise error


@pytest.fixture
def photos(tmp_path):
    """Three images in each of two classes."""
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(3):
            Image.new("RGB", (4, 4), (k, 0, 0)).save(tmp_path / "photos" / name / f"{k}.png")
    return tmp_path / "photos"


FILES = [f"{name}/{k}.png" for name in "ab" for k in range(3)]


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("a/up", ".."),
        ("a/here", "."),
        ("a/further", "../.."),
        ("a/other", "../b"),
        ("a/0.png-again.png", "0.png"),
        ("a/9.png", "../b/1.png"),
        ("b/root", "/"),
        ("0", "b"),
    ],
)
def test_a_link_to_what_is_there_multiplies_nothing(photos, caplog, link, target):
    (photos / link).symlink_to(target)
    with caplog.at_level(logging.INFO, "temper"):
        data = load(str(photos))
    assert len(data) == 6
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert find_images([str(photos)], None) == [str(photos / name) for name in FILES]
    assert f"1 files or folders left aside, links to what is there already: {link!r}" in caplog.text


def test_links_that_lead_elsewhere_are_followed_once(photos, tmp_path):
    (tmp_path / "store" / "deep").mkdir(parents=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "store" / "deep" / "x.png")
    (photos / "a" / "more").symlink_to("../../store")
    (photos / "b" / "again").symlink_to("../../store/deep")
    (photos / "b" / "x.png").symlink_to("../../store/deep/x.png")
    found = walk(photos, refuse)
    assert len({os.path.realpath(photos / name) for name in found.files}) == len(found.files) == 7


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "a/c", "b/d", "a/c/e"]), min_size=1, max_size=5),
    st.lists(
        st.tuples(st.sampled_from(["", "a", "a/c"]), st.sampled_from([".", "..", "../..", "a", "b", "x", "1.png"]))
    ),
)
def test_every_real_file_is_met_exactly_once(folders, links):
    with tempfile.TemporaryDirectory() as place:
        root = Path(place).resolve() / "root"
        for folder in ["a/c", *folders]:
            (root / folder).mkdir(parents=True, exist_ok=True)
            (root / folder / "1.png").write_bytes(b"")
        for number, (folder, target) in enumerate(links):
            (root / folder / f"link{number}").symlink_to(target)
        real = {str(path.relative_to(root)) for path in root.rglob("1.png") if not path.is_symlink()}
        met = [name for name in walk(root, refuse).files if (root / name).exists()]
        assert sorted(met) == sorted(real)


def test_one_list_says_what_is_an_image(tmp_path, caplog):
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    Image.init()
    written = [kind for kind in READ if kind in Image.SAVE]
    assert {"AVIF", "GIF", "JPEG2000", "PNG", "JPEG"} & set(READ) <= set(written)
    for kind in written:
        for name in "ab":
            path = tmp_path / name / f"{kind}{KINDS[kind][0].upper()}"
            path.parent.mkdir(exist_ok=True)
            (pixels.convert("P") if kind == "GIF" else pixels).save(path, kind)
    for name in ("notes.txt", "icon.ico", "film.mpeg"):
        (tmp_path / "a" / name).write_bytes(b"x")
    with caplog.at_level(logging.INFO, "temper"):
        data = load(str(tmp_path))
        named = find_images([str(tmp_path)], None)
    assert len(data) == 2 * len(written)
    assert all(data.images[k].shape == (8, 8, 3) for k in range(len(data)))
    assert len(named) == len(data)
    assert all(read_image(path, None, 3).shape == (3, 8, 8) for path in named)
    left = "3 files or folders left aside, no images by their names: 'a/film.mpeg', 'a/icon.ico', 'a/notes.txt'"
    assert caplog.text.count(left) == 1  # though the folder is walked twice


def test_what_is_left_aside_is_counted_and_some_of_it_named(photos, caplog):
    for k in range(40):
        (photos / "a" / f"{k:02}.txt").touch()
    with caplog.at_level(logging.INFO, "temper"):
        load(str(photos))
    assert "40 files or folders left aside" in caplog.text
    assert "'a/04.txt', ..." in caplog.text
    assert "05.txt" not in caplog.text


@pytest.mark.parametrize("kind", ["EPS", "ICO"])
def test_other_kinds_are_read_under_no_name(photos, kind):
    Image.new("RGB", (16, 16)).save(photos / "a" / "9.png", kind)
    with pytest.raises(DataError, match=r"9.png: not a readable image"):
        load(str(photos))
    with pytest.raises(DataError, match=r"not an image, or of a kind that is not read"):
        read_image(str(photos / "a" / "9.png"), None, 3)
    assert ".eps" not in IMAGE_SUFFIXES


def test_a_folder_that_cannot_be_listed_is_a_failure_of_predict_and_an_error_of_a_data_set(photos, monkeypatch):
    scandir = os.scandir

    def closed(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    assert find_images([str(photos)], None) == [str(photos / "b"), *(str(photos / name) for name in FILES[:3])]
    with pytest.raises(DataError, match=r"photos/b: cannot be listed \(Permission denied\)"):
        load(str(photos))


@pytest.mark.parametrize(("classes", "there"), [(None, "ac"), (None, "bc"), (2, "bc"), (2, "abc")])
def test_a_test_folder_without_a_class_is_mapped_by_names(tmp_path, classes, there):
    for part, names in (("train", "abc"), ("test", there)):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            for k in range(10):
                Image.new("RGB", (4, 4), (ord(name), k, 0)).save(tmp_path / part / name / f"{k}.png")
    config = DataConfig(train=str(tmp_path / "train"), test=str(tmp_path / "test"), classes=classes)
    splits = load_splits(config, seed=0)
    assert splits.test.class_names == splits.train.class_names == tuple("abc")[: classes or 3]
    for part in (splits.train, splits.test):
        assert [int(part.images[k][0, 0, 0]) - ord("a") for k in range(len(part))] == part.labels.tolist()


def test_a_test_folder_with_a_class_of_its_own_is_refused(tmp_path):
    for name in ("train/a", "train/b", "test/a", "test/z"):
        (tmp_path / name).mkdir(parents=True)
        for k in range(10):
            Image.new("RGB", (4, 4)).save(tmp_path / name / f"{k}.png")
    config = DataConfig(train=str(tmp_path / "train"), test=str(tmp_path / "test"))
    with pytest.raises(ArgumentError, match=r"its classes differ .* has class 'z', which is none of a, b"):
        load_splits(config, seed=0)
