"""WebDataset shards, class_to_idx.json, and data sets of the hub by name."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from temper.data import available_splits, load
from temper.errors import ArgumentError, DataError
from written import one_line


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def shard(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def samples(labels, first: int = 0, kind: str = "cls") -> dict[str, bytes]:
    members = {}
    for place, label in enumerate(labels, first):
        members[f"./{place:06d}.png"] = png(place)
        members[f"./{place:06d}.{kind}"] = (
            json.dumps({"label": label}).encode() if kind == "json" else str(label).encode()
        )
    return members


def reds(data) -> list[int]:
    return [int(data.images[place][0, 0, 0]) for place in range(len(data))]


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_shards_are_read_in_place_and_in_any_order(tmp_path, kind):
    shard(tmp_path / "set-000000.tar", samples([1, 0], kind=kind))
    shard(tmp_path / "set-000001.tar", samples([2], first=2, kind=kind))
    data = load(f"webdataset:{tmp_path}")
    assert (data.labels.tolist(), reds(data), data.class_names) == ([1, 0, 2], [0, 1, 2], ("0", "1", "2"))
    assert reds(data.subset([2, 0])) == [2, 0]
    assert data.images.where(2) == f"{tmp_path}/set-000001.tar/./000002.png"
    assert len(load(f"webdataset:{tmp_path / 'set-000000.tar'}")) == 2


def test_parts_of_shards_share_the_training_parts_classes(tmp_path):
    shard(tmp_path / "train-0.tar", samples(["cat", "ape", "dog"]))
    shard(tmp_path / "val-0.tar", samples(["dog"]))
    assert available_splits(f"webdataset:{tmp_path}") == ("train", "validation", "test")
    data = load(f"webdataset:{tmp_path}", split="test")
    assert (data.class_names, data.labels.tolist()) == (("ape", "cat", "dog"), [2])
    shard(tmp_path / "val-0.tar", samples(["yak"]))
    with pytest.raises(DataError, match=r"val-0.tar/./000000.png: has a class that is none of the training part's"):
        load(f"webdataset:{tmp_path}", split="test")


def test_class_to_idx_names_and_numbers_the_classes(tmp_path):
    shard(tmp_path / "a.tar", samples([1, 0]))
    (tmp_path / "class_to_idx.json").write_text('{"zebra": 0, "ape": 1, "cow": 2}')
    data = load(f"webdataset:{tmp_path}")
    assert (data.class_names, data.labels.tolist()) == (("zebra", "ape", "cow"), [1, 0])
    shard(tmp_path / "a.tar", samples(["cow", "zebra"]))
    assert load(f"webdataset:{tmp_path}").labels.tolist() == [2, 0]


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_class_to_idx_numbers_class_folders(tmp_path, form):
    for place, name in enumerate(("ape", "zebra")):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "a.png").write_bytes(png(place))
    numbers = tmp_path / "set" / "class_to_idx.json"
    numbers.write_text('{"zebra": 0, "ape": 1}')
    spec = tmp_path / "set"
    if form == "zip":
        spec = tmp_path / "set.zip"
        with zipfile.ZipFile(spec, "w") as archive:
            for path in (tmp_path / "set").rglob("*.*"):
                archive.write(path, path.relative_to(tmp_path))
    data = load(str(spec))
    assert (data.class_names, data.labels.tolist(), reds(data)) == (("zebra", "ape"), [1, 0], [0, 1])
    if form == "folder":
        for content in ('{"zebra": 0}', '{"zebra": 0, "ape": 2}', '{"zebra": "0", "ape": "1"}', "[]", "{"):
            numbers.write_text(content)
            with pytest.raises(
                DataError, match=r"class_to_idx.json: (must|is no JSON|has no number for class 'ape')"
            ) as error:
                load(str(spec))
            one_line(error)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"../a.png": b"", "../a.cls": b"0"}, r"member '../a.png' is no plain file inside it"),
        ({"/a.png": b"", "/a.cls": b"0"}, r"member '/a.png' is no plain file inside it"),
        ({"a.png": b""}, r"a.tar/a: has no label"),
        ({"a.cls": b"0"}, r"a.tar/a: has 0 images, not one"),
        ({"a.png": b"", "a.jpg": b"", "a.cls": b"0"}, r"a.tar/a: has 2 images, not one"),
        ({"a.png": b"", "a.json": b"{"}, r"its label 'a.json' cannot be read"),
        ({"a.png": b"", "a.json": b'{"label": [1]}'}, r"its label is '\[1\]', no class number or name"),
        ({"a.png": b"no image", "a.cls": b"0"}, r"a.png: not a readable image"),
    ],
)
def test_what_is_wrong_with_a_shard_is_said_in_a_line(tmp_path, members, said):
    shard(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=said) as error:
        load(f"webdataset:{tmp_path}")
    one_line(error)


def test_links_compressed_and_cut_shards_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match=r"member 'a.png' is no plain file inside it"):
        load(f"webdataset:{tmp_path}")
    shard(tmp_path / "a.tar", samples([0, 1]), "w:gz")
    with pytest.raises(DataError, match=r"no plain tar archive"):
        load(f"webdataset:{tmp_path}")
    content = shard(tmp_path / "a.tar", {"a.cls": b"0", "a.png": bytes(4000)}).read_bytes()
    (tmp_path / "a.tar").write_bytes(content[:3000])
    with pytest.raises(DataError, match=r"a.tar"):
        load(f"webdataset:{tmp_path}")
    with pytest.raises(ArgumentError, match=r"without .tar shards"):
        load(f"webdataset:{tmp_path / 'nowhere'}")


# --- Hugging Face -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cats(tmp_path_factory):
    """A data set as the hub has them, with named classes and two parts; a folder stands for its name there."""
    datasets = pytest.importorskip("datasets")
    folder = tmp_path_factory.mktemp("org") / "cats"
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "ape"])})
    for part, labels in {"train": [0, 1, 1], "test": [1]}.items():
        rows = {"image": [{"bytes": png(place), "path": None} for place in range(len(labels))], "label": labels}
        (folder / "data").mkdir(parents=True, exist_ok=True)
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(str(folder / "data" / f"{part}-00000-of-00001.parquet"))
    return folder


@pytest.mark.slow
def test_a_data_set_of_the_hub_by_name(cats, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    assert available_splits(f"hf:{cats}") == ("train", "test")
    data = load(f"hf:{cats}", split="train")
    assert (data.class_names, data.labels.tolist(), reds(data)) == (("cat", "ape"), [0, 1, 1], [0, 1, 2])
    assert data.name == "cats/train"
    test = load(f"hf:{cats}", split="test")
    assert (test.class_names, test.labels.tolist()) == (("cat", "ape"), [1])
    assert load(f"parquet:{cats}", split="test").fingerprint() == test.fingerprint()
    with pytest.raises(ArgumentError, match="is divided: choose one of train, test"):
        load(f"hf:{cats}")


def test_a_data_set_that_cannot_be_had_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("datasets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("temper.core.hub.answers", lambda url: False)
    with pytest.raises(DataError, match=r"hf:nobody/nothing: cannot be had .*give parquet:DIR") as error:
        load("hf:nobody/nothing", split="train")
    one_line(error)


def test_what_a_saved_data_set_names_lies_inside_it(tmp_path):
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../other.arrow"}]}))
    with pytest.raises(DataError, match=r"names '../other.arrow', which is no file in it"):
        load(f"parquet:{tmp_path}")
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train/../../x", "train"]}))
    with pytest.raises(DataError, match=r"state.json: not readable"):
        load(f"parquet:{tmp_path}", split="train")
