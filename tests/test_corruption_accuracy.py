"""Accuracy under common corruptions: measuring, and the mean corruption error."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from photos import Bright
from temper.corruptions import (
    ALEXNET,
    GUIDE,
    IMAGENET_C,
    Baseline,
    CorruptionTable,
    corrupt,
    corruption_accuracy,
    guide_accuracy,
    mce,
    read_baseline,
)
from temper.corruptions.figure import accuracy_figure
from temper.data import ArrayImages, Dataset
from temper.errors import ArgumentError, EvidenceError, ModelError


def shades():
    """20 flat images, of class 1 where they are bright."""
    levels = np.linspace(20, 235, 20).astype(np.uint8)
    array = np.broadcast_to(levels[:, None, None, None], (20, 32, 32, 3)).copy()
    return Dataset(ArrayImages(array), (levels > 127).astype(np.int64), ("dark", "bright"), np.arange(20), "shades")


CELLS = [("brightness", 1), ("brightness", 5), ("contrast", 1), ("contrast", 5)]


@pytest.fixture(scope="module")
def table():
    return corruption_accuracy(Bright(), shades(), ("brightness", "contrast"), (5, 1))


def test_accuracies_are_those_of_the_corrupted_images(table):
    assert table.cells() == [("clean", 0), *CELLS]
    assert table.clean_accuracy().value == 1
    for name, severity in CELLS:
        images = [corrupt(shades().images[i], name, severity, 0, i) for i in range(20)]
        correct = [(image.mean() > 127.5) == label for image, label in zip(images, shades().labels, strict=True)]
        found = table.accuracy(name, severity)
        assert found.value == np.mean(correct)
        assert found.n == 20
        assert found.low <= found.value <= found.high
    assert table.accuracy("brightness", 5).value < 1


def test_the_mean_counts_samples_not_predictions(table):
    mean = table.mean_accuracy(CELLS)
    assert mean.value == pytest.approx(np.mean([table.accuracy(*cell).value for cell in CELLS]))
    assert mean.n == 20
    assert mean.low < mean.value < mean.high
    assert table.mean_accuracy(CELLS[:1]) == table.accuracy(*CELLS[0])
    with pytest.raises(EvidenceError, match="fog at severity 2 was not measured"):
        table.mean_accuracy([("fog", 2)])


def test_modes_batches_and_workers_change_nothing(table):
    model = Bright().train()
    other = corruption_accuracy(model, shades(), ("brightness", "contrast"), (1, 5), batch_size=3, workers=1)
    assert other.frame.equals(table.frame)
    assert model.training
    assert model.dropout.training
    shuffled = shades().subset(np.random.default_rng(0).permutation(20))
    rows = corruption_accuracy(Bright(), shuffled, ("brightness", "contrast"), (1, 5)).frame
    key = ["corruption", "severity", "sample"]
    assert rows.sort_values(key).reset_index(drop=True).equals(table.frame.sort_values(key).reset_index(drop=True))


def test_a_table_on_disk_is_the_same(table, tmp_path):
    table.save(tmp_path / "t.parquet")
    again = CorruptionTable.load(tmp_path / "t.parquet")
    assert again.identity == table.identity
    assert again.to_pandas().equals(table.to_pandas())
    (tmp_path / "bad.parquet").write_bytes(b"no")
    with pytest.raises(EvidenceError, match=r"bad.parquet: cannot be read as Parquet"):
        CorruptionTable.load(tmp_path / "bad.parquet")
    table.to_pandas().to_parquet(tmp_path / "other.parquet")
    with pytest.raises(EvidenceError, match="is no table of corruptions"):
        CorruptionTable.load(tmp_path / "other.parquet")


def test_the_guides_preset_is_measured_in_blocks():
    found = guide_accuracy(Bright(), shades())
    assert [cell[0] for cell in found.cells()] == ["clean", *GUIDE]
    assert found.accuracy("shot_noise", 3).n == 2  # 20 = 11 + 9: all but the last two come twice
    assert found.accuracy("jpeg_compression", 3).n == 1
    whole = found.mean_accuracy([cell for cell in found.cells() if cell[1]])
    assert whole.n == 20
    assert found.identity["rule"] == "imagecorruptions"


@pytest.mark.parametrize(
    ("logits", "message"),
    [(lambda n: torch.zeros(20), r"shape \(20,\)"), (lambda n: torch.full((n, 2), float("nan")), "not finite")],
)
def test_a_model_without_usable_logits(logits, message):
    class Broken(nn.Module):
        def forward(self, x):
            return logits(len(x))

    with pytest.raises(ModelError, match=message):
        corruption_accuracy(Broken(), shades(), ("fog",), (1,))


def test_mce_by_hand(table):
    errors = {"brightness": {1: 0.1, 5: 0.4}, "contrast": {1: 0.2, 5: 0.2}}
    found = mce(table, Baseline("made up", errors), CELLS)
    of = {cell: 1 - table.accuracy(*cell).value for cell in CELLS}
    brightness = (of["brightness", 1] + of["brightness", 5]) / 0.5
    contrast = (of["contrast", 1] + of["contrast", 5]) / 0.4
    assert found.by_corruption == pytest.approx({"brightness": brightness, "contrast": contrast})
    assert found.value.value == pytest.approx((brightness + contrast) / 2)
    assert found.value.low <= found.value.value <= found.value.high
    assert found.value.n == 20
    assert found.baseline == "made up"
    json.dumps(found.to_json())


def test_alexnets_errors_are_the_published_ones():
    # Means over severities, from the table in the authors' README (github.com/hendrycks/robustness).
    published = [
        0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816,
        0.826572, 0.819324, 0.564592, 0.853204, 0.646056, 0.717840, 0.606500,
    ]  # fmt: skip
    assert tuple(ALEXNET.errors) == IMAGENET_C
    assert [np.mean(list(ALEXNET.errors[name].values())) for name in IMAGENET_C] == pytest.approx(published, abs=1e-6)


def test_a_baseline_from_a_table_or_a_json(table, tmp_path):
    table.save(tmp_path / "corruptions.parquet")
    dark = [("brightness", 1), ("brightness", 5)]
    assert mce(table, read_baseline(str(tmp_path)), dark).value.value == pytest.approx(1)
    (tmp_path / "b.json").write_text('{"name": "half", "errors": {"brightness": {"1": 0.5, "5": 0.5}}}')
    half = read_baseline(str(tmp_path / "b.json"))
    assert mce(table, half, dark).baseline == "half"
    assert read_baseline("AlexNet") is ALEXNET
    other = corruption_accuracy(Bright(), shades().subset(range(9)), ("brightness",), (1, 5))
    with pytest.raises(ArgumentError, match="was measured with another data"):
        mce(other, read_baseline(str(tmp_path)), dark)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere", "no such file; give alexnet, a folder"),
        ("broken.json", "cannot be read"),
        ("percent.json", "shares from 0 to 1"),
    ],
)
def test_a_baseline_that_is_none(spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.json").write_text('{"errors": 3}')
    Path("percent.json").write_text('{"name": "x", "errors": {"fog": {"1": 55}}}')
    with pytest.raises(ArgumentError, match=message):
        read_baseline(spec)


def test_a_baseline_that_does_not_cover_the_call(table):
    with pytest.raises(ArgumentError, match="has no error rate of contrast at severity 1"):
        mce(table, Baseline("some", {"brightness": {1: 0.5, 5: 0.5}}), CELLS)
    with pytest.raises(ArgumentError, match="makes no error under brightness"):
        mce(table, Baseline("perfect", {"brightness": {1: 0.0, 5: 0.0}}), CELLS[:2])


def test_figures_of_one_and_of_many_severities(table):
    many = accuracy_figure(table, CELLS)
    titles = {axes.get_title(loc="left") for axes in many.axes}
    assert titles == {"weather", "digital"}
    one = accuracy_figure(table, [cell for cell in CELLS if cell[1] == 5])
    assert one.axes[0].get_xlabel() == "accuracy at severity 5"
    assert [label.get_text() for label in one.axes[0].get_yticklabels()] == ["brightness", "contrast"]
