"""Parquet files and saved Hugging Face data sets."""

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from temper.data import available_splits, load
from temper.errors import ArgumentError, DataError


def png(value):
    stream = io.BytesIO()
    Image.new("RGB", (4, 3), (value, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def write(path, labels, first=0, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(first + i), "path": f"{i}.png"} for i in range(len(labels))]
    pq.write_table(pa.table({"image": images, "label": labels, **columns}), path)


def reds(data):
    return [int(data.images[i][0, 0, 0]) for i in range(len(data))]


def test_files_of_one_folder_in_order(tmp_path):
    write(tmp_path / "b.parquet", [1, 2], first=10)
    write(tmp_path / "a.parquet", [0, 1], first=0, width=[4, 4])
    data = load(f"parquet:{tmp_path}")
    assert data.labels.tolist() == [0, 1, 1, 2]
    assert reds(data) == [0, 1, 10, 11]
    assert data.class_names == ("0", "1", "2")
    assert reds(data.subset([3, 0])) == [11, 0]
    assert data.images.where(3) == f"{tmp_path} row 3"
    assert len(load(f"parquet:{tmp_path / 'a.parquet'}")) == 2


def test_parts_are_told_by_file_name(tmp_path):
    write(tmp_path / "data" / "train-00000-of-00002.parquet", ["ape", "cat"])
    write(tmp_path / "data" / "train-00001-of-00002.parquet", ["bee"], first=5)
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", ["cat"])
    spec = f"parquet:{tmp_path}"
    assert available_splits(spec) == ("train", "validation", "test")
    assert load(spec, split="train").labels.tolist() == [0, 2, 1]
    # Numbered by the training part's classes, not by its own.
    assert load(spec, split="test").labels.tolist() == [2]
    assert load(spec, split="test").class_names == ("ape", "bee", "cat")
    with pytest.raises(ArgumentError, match=r"is divided"):
        load(spec)
    write(tmp_path / "data" / "validation-00000-of-00001.parquet", ["cat", "yak"])
    with pytest.raises(DataError, match=r"row 1 has label 'yak', which the training part has not"):
        load(spec, split="validation")


def test_plain_bytes_categories_and_other_column_names(tmp_path):
    frame = pd.DataFrame({"picture": [png(1), png(2)], "kind": pd.Categorical(["dog", "cat"])})
    frame.to_parquet(tmp_path / "x.parquet")
    data = load(f"parquet:{tmp_path}")
    assert reds(data) == [1, 2]
    assert data.labels.tolist() == [1, 0]


def test_usual_names_win_over_other_columns(tmp_path):
    write(tmp_path / "x.parquet", [0, 1], mask=[b"m", b"n"], height=[3, 3], caption=["a", "b"])
    assert load(f"parquet:{tmp_path}").labels.tolist() == [0, 1]


def test_class_names_from_hugging_face_metadata(tmp_path):
    feature = {"label": {"names": ["no", "yes", "maybe"], "_type": "ClassLabel"}}
    table = pa.table({"image": [png(1)], "label": [1]})
    info = json.dumps({"info": {"features": feature}})
    pq.write_table(table.replace_schema_metadata({"huggingface": info}), tmp_path / "x.parquet")
    assert load(f"parquet:{tmp_path}").class_names == ("no", "yes", "maybe")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"pixels": [[1, 2]], "label": [0]},
            "which column is the image .*It has pixels, label: name it image",
        ),
        (
            {"image": [b"x"], "a": [0], "b": [1]},
            "which column is the label .*It has image, a, b: name it label",
        ),
        ({"image": [b"x"], "label": pa.array([None], pa.int64())}, "row 0 of .* has no label"),
        ({"image": [b"x"], "label": [-1]}, "sample 0 has label -1"),
        ({"image": [b"not an image"], "label": [0]}, "row 0: not a readable image"),
        ({"image": pa.array([None], pa.binary()), "label": [0]}, "row 0: holds no image bytes"),
        (
            {"image": [{"bytes": None, "path": "a.png"}], "label": [0]},
            "which column|row 0: holds no image bytes",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=message) as caught:
        load(f"parquet:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_damaged_or_missing_files(tmp_path):
    with pytest.raises(DataError, match=r"holds no .parquet files"):
        load(f"parquet:{tmp_path}")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"x.parquet: not readable .*: replace it"):
        load(f"parquet:{tmp_path}")


def test_saved_to_disk(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra temper-robust[hub]")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})

    def part(values, labels):
        images = [{"bytes": png(value), "path": None} for value in values]
        return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)

    shuffled = part([1, 2, 3], [0, 1, 1]).select([2, 0, 1])
    shuffled.save_to_disk(str(tmp_path / "one"), num_shards=2)
    one = load(f"parquet:{tmp_path / 'one'}")
    assert reds(one) == [3, 1, 2]
    assert one.labels.tolist() == [1, 0, 1]
    assert one.class_names == ("cat", "dog")
    both = datasets.DatasetDict({"train": shuffled, "test": part([9], [0])})
    both.save_to_disk(str(tmp_path / "both"))
    assert available_splits(f"parquet:{tmp_path / 'both'}") == ("train", "test")
    assert reds(load(f"parquet:{tmp_path / 'both'}", split="test")) == [9]
    shuffled.to_parquet(str(tmp_path / "flat" / "x.parquet"))
    flat = load(f"parquet:{tmp_path / 'flat'}")
    assert flat.fingerprint() == one.fingerprint()
    assert np.array_equal(flat.labels, one.labels)
    assert flat.class_names == ("cat", "dog")
