"""A folder of measured corruptions, which can be continued."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from photos import Bright
from temper import models
from temper.corruptions import (
    GUIDE,
    CorruptionTable,
)
from temper.corruptions.measure import each_corruption, measure
from temper.data import load
from temper.errors import ArgumentError, EvidenceError
from temper.runs.corruptions import FIGURE, SUMMARY, corruptions_into


def into(folder, **options):
    usual = {"names": ("fog", "contrast"), "severities": (1, 4), "limit": 40}
    result = corruptions_into(folder, "bundled", "digits", **{**usual, **options})
    return result.to_json(), result.complete


def rows(folder):
    return CorruptionTable.load(folder / "corruptions.parquet").to_pandas()


@pytest.mark.slow
def test_a_folder_holds_table_summary_and_figure(tmp_path):
    summary, complete = into(tmp_path, baseline=None)
    assert complete
    assert summary["clean_accuracy"]["n"] == 40
    assert summary["corruptions"]["fog"]["severities"]["4"]["n"] == 40
    values = [summary["corruptions"][n]["severities"][s]["value"] for n in ("fog", "contrast") for s in ("1", "4")]
    assert summary["mean_accuracy"]["value"] == pytest.approx(np.mean(values))
    assert summary["corruptions"]["fog"]["mean_accuracy"]["value"] == pytest.approx(np.mean(values[:2]))
    assert summary["mce"] is None
    assert summary["stand_ins"] == []
    assert json.loads((tmp_path / SUMMARY).read_text()) == summary
    assert b"<svg" in (tmp_path / FIGURE).read_bytes()
    first = (tmp_path / FIGURE).read_bytes()
    again, _ = into(tmp_path, baseline=str(tmp_path))
    assert again["mce"]["value"]["value"] == pytest.approx(1)
    assert (tmp_path / FIGURE).read_bytes() == first


@pytest.mark.slow
def test_more_severities_are_added_and_nothing_is_computed_twice(tmp_path, monkeypatch):
    into(tmp_path / "a")
    seen = []
    forward = models.Classifier.forward
    monkeypatch.setattr(models.Classifier, "forward", lambda self, x: seen.append(len(x)) or forward(self, x))
    into(tmp_path / "a")
    assert not seen
    summary, _ = into(tmp_path / "a", severities=(4, 5))
    assert [size for size in seen if size != 16] == [40, 40]  # those of 16 ask whether outputs depend on the batch
    assert list(summary["corruptions"]["fog"]["severities"]) == ["4", "5"]
    into(tmp_path / "b", severities=(1, 4, 5))
    key = ["corruption", "severity", "sample"]
    one, two = (rows(tmp_path / f).sort_values(key).reset_index(drop=True) for f in "ab")
    assert one.equals(two)


def test_the_guides_preset_into_a_folder(tmp_path):
    summary, complete = into(tmp_path, names=(), severities=(), preset="guide")
    assert complete
    assert summary["mean_accuracy"]["n"] == 40
    assert list(summary["corruptions"]) == list(GUIDE)
    with pytest.raises(EvidenceError, match=r"measured with another preset; name another folder"):
        into(tmp_path)


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_call_finishes(tmp_path, monkeypatch):
    save = CorruptionTable.save

    def interrupted(self, path):
        save(self, path)
        if len(self.cells()) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(CorruptionTable, "save", interrupted)
    summary, complete = into(tmp_path / "a")
    assert not complete
    assert not summary["complete"]
    assert summary["mean_accuracy"] is None
    assert summary["figure"] is None
    assert len(rows(tmp_path / "a")) == 3 * 40
    monkeypatch.undo()
    assert into(tmp_path / "a")[1]
    into(tmp_path / "b")
    assert rows(tmp_path / "a").equals(rows(tmp_path / "b"))


KILLED = """
import os, signal, sys
from pathlib import Path
from temper.runs import corruptions as folder
from temper.corruptions import measure

work, begun = measure._predictions, []

def work_or_die(*arguments):
    begun.append(1)
    if len(begun) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return work(*arguments)

measure._predictions = work_or_die
folder.corruptions_into(Path(sys.argv[1]), "bundled", "digits", names=("fog", "contrast"), severities=(1, 4), limit=40)
"""


@pytest.mark.slow
def test_kill_9_loses_only_what_was_in_work(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "a"], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert len(rows(tmp_path / "a")) == 3 * 40
    assert into(tmp_path / "a")[1]
    into(tmp_path / "b")
    assert rows(tmp_path / "a").equals(rows(tmp_path / "b"))


def test_the_measurement_of_something_else_is_refused(tmp_path):
    into(tmp_path, names=("contrast",), severities=(1,))
    with pytest.raises(EvidenceError, match=r"corruptions.parquet: .* another data; name another folder .*--out"):
        into(tmp_path, limit=20)
    few = load("digits").limit(40, 0)
    known = CorruptionTable.load(tmp_path / "corruptions.parquet")
    with pytest.raises(EvidenceError, match="another seed"):
        measure(models.load("bundled"), few, each_corruption(few, ("contrast",), (1,), seed=1), known=known)
    with pytest.raises(EvidenceError, match="another model"):
        measure(Bright(), few, each_corruption(few, ("contrast",), (1,)), known=known)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ("fogg",)}, "did you mean fog"),
        ({"severities": (9,)}, "severity = 9"),
        ({"preset": "guides"}, "preset = 'guides': give one of imagenet-c, guide"),
        ({"preset": "guide"}, "corruption = .*: the preset guide has its own"),
        ({"baseline": "alexnet"}, "is of ImageNet's 1,000 classes, digits has 10"),
        ({"limit": 0}, "limit = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_a_call_that_is_wrong(tmp_path, options, message):
    with pytest.raises(ArgumentError, match=message):
        into(tmp_path, **options)
