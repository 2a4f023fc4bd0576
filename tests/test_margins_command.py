"""``temper margins``: from a model and data to margins, scores, detector, attacks and report."""

import errno
import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from temper.cli.main import main
from temper.errors import ArgumentError
from temper.margins import EvidenceTable
from temper.margins.detector import BrittlenessDetector
from temper.runs import margins as folder
from temper.runs.margins import margins_into

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]

CLASSES, COUNT = 4, 120


def small(num_classes: int = CLASSES) -> nn.Module:
    """A network with a linear last layer, and random weights that are always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, num_classes))


class Squashed(nn.Module):
    """Does not end in a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small()

    def forward(self, x):
        logits = self.net(x)
        return logits + 0.1 * logits**3


def squashed() -> nn.Module:
    return Squashed()


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Random images with the labels that the network gives most of them."""
    place = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, count in (("test", COUNT), ("train", 200)):
        images = rng.integers(60, 196, (count, 28, 28, 3), dtype=np.uint8)
        with torch.no_grad():
            logits = small()(torch.from_numpy(images.transpose(0, 3, 1, 2)).float() / 255)
        labels = logits.argmax(1).numpy()
        labels[::10] = (labels[::10] + 1) % CLASSES
        np.savez(place / f"{name}.npz", images=images, labels=labels)
    return place


@pytest.fixture(scope="module")
def measured(arrays, tmp_path_factory):
    out = tmp_path_factory.mktemp("margins")
    result = margins_into(
        out, "test_margins_command:small", str(arrays / "test.npz"), "Linf:2/255",
        alpha=0.1, adaptive=True, pseudo_margin=True, train_data=str(arrays / "train.npz"),
    )  # fmt: skip
    assert result.complete
    return out, result.to_json()


def test_every_sample_has_margin_and_scores(measured):
    out, summary = measured
    table = EvidenceTable.load(out / "margins.parquet")
    scores = pd.read_parquet(out / "scores.parquet")
    assert len(table) == len(scores) == COUNT
    names = {"logit_margin", "feature_margin", "pseudo_margin", "probability_margin", "max_probability"}
    assert set(scores.columns) == {"sample"} | names
    frame = table.frame.sort_values("sample")
    assert np.allclose(scores["logit_margin"], frame["logit_margin"], atol=1e-4)
    assert set(summary["consistency"]) == set(summary["detection"]) == names
    counts = summary["margins"]
    assert counts["known"] + counts["unknown"] == COUNT
    assert counts["brittle"] == int((frame["upper"] <= 2 / 255).sum())


def test_the_feature_margin_ranks_a_nearly_linear_network_well(measured):
    _, summary = measured
    assert summary["consistency"]["feature_margin"]["tau"]["value"] > 0.5


def test_the_detector_is_judged_on_the_other_half(measured):
    out, summary = measured
    detector = BrittlenessDetector.load(out / "detector.json")
    assert detector.threshold == summary["detector"]["threshold"]
    held_out = summary["detector"]["held_out"]
    assert len(detector.calibration.samples) + held_out["flagged"]["n"] == COUNT
    assert held_out["missed"]["n"] + detector.calibration.brittle == summary["margins"]["brittle"]


def test_attacks_on_each_detector_are_reported(measured):
    _, summary = measured
    assert set(summary["adaptive"]) == {"logit_margin", "feature_margin", "pseudo_margin"}
    for found in summary["adaptive"].values():
        assert found["evaded"]["n"] == summary["detector"]["held_out"]["flagged"]["n"]
        assert found["raised"]["n"] <= found["missed"]["n"]


def test_the_report_shows_it(measured):
    out, _ = measured
    page = (out / "report.html").read_text()
    for words in ("Brittle decisions", "Margin consistency", "Attacks on the detector", "The most brittle decisions"):
        assert words in page


def test_run_again_nothing_is_searched_twice_and_all_is_the_same(measured, arrays, capsys):
    out, summary = measured
    call = ["margins", "--model", "test_margins_command:small", "--data", str(arrays / "test.npz")]
    call += ["--threat", "Linf:2/255", "--alpha", "0.1", "--out", str(out), "--json"]
    assert main(call) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["passes"] == summary["passes"]
    assert again["detector"] == summary["detector"]
    assert again["consistency"]["logit_margin"]["tau"] == summary["consistency"]["logit_margin"]["tau"]


def test_attacks_that_are_done_are_not_repeated(measured, arrays, monkeypatch):
    out, summary = measured

    def none_left(*arguments, **options):
        assert arguments[4] == {}
        return iter(())

    monkeypatch.setattr(folder, "attack_detectors", none_left)
    again = margins_into(
        out, "test_margins_command:small", str(arrays / "test.npz"), "Linf:2/255", alpha=0.1, adaptive=True
    )
    assert again.to_json()["adaptive"] == {
        name: summary["adaptive"][name] for name in ("logit_margin", "feature_margin")
    }


def test_a_model_without_a_linear_last_layer_goes_without_feature_margin(arrays, tmp_path, capsys):
    call = ["margins", "--model", "test_margins_command:squashed", "--data", str(arrays / "test.npz"), "--limit", "60"]
    assert main([*call, "--threat", "Linf:2/255", "--alpha", "0.2", "--out", str(tmp_path)]) == 0
    assert "feature margin" not in capsys.readouterr().out
    call += ["--pseudo-margin", "--train-data", str(arrays / "train.npz")]
    assert main([*call, "--threat", "Linf:2/255", "--out", str(tmp_path)]) == 2
    assert "does not end in a linear layer" in capsys.readouterr().err


def test_the_detector_of_a_run_that_may_only_be_read_stays_where_it_is(measured, tmp_path, monkeypatch, caplog):
    detector = measured[0] / "detector.json"
    folder._put_beside_weights(detector, tmp_path)
    assert (tmp_path / "detector.json").read_text() == detector.read_text()
    assert not caplog.text
    (tmp_path / "detector.json").write_text("an older one")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # root may write everywhere
    folder._put_beside_weights(detector, tmp_path)
    assert (tmp_path / "detector.json").read_text() == "an older one"
    assert f"{tmp_path}: may not be written to" in caplog.text
    assert f"copy {detector} into" in caplog.text


def test_a_full_disk_is_no_run_that_may_only_be_read(measured, tmp_path, monkeypatch):
    def full(detector, path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(BrittlenessDetector, "save", full)
    with pytest.raises(OSError, match="No space left"):
        folder._put_beside_weights(measured[0] / "detector.json", tmp_path)


def test_too_few_brittle_decisions_are_a_result(arrays, tmp_path, capsys):
    call = ["margins", "--model", "test_margins_command:small", "--data", str(arrays / "test.npz"), "--limit", "30"]
    assert main([*call, "--threat", "Linf:2/255", "--alpha", "0.01", "--out", str(tmp_path), "--json"]) == 0
    seen = capsys.readouterr()
    assert "are too few to calibrate on" in json.loads(seen.out)["detector"]["refused"]
    assert not (tmp_path / "detector.json").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--threat", "Linf:2/255,4/255"], "give one norm and one radius"),
        (["--threat", "Linf:4/255", "--alpha", "5"], "must lie between 0 and 1"),
        (["--threat", "Linf:4/255", "--pseudo-margin"], "has no training part"),
        (["--threat", "Linf:4/255", "--limit", "0"], "give at least 1"),
    ],
)
def test_calls_that_cannot_work_are_refused_at_once(options, says, arrays, tmp_path, capsys):
    call = ["margins", "--model", "test_margins_command:small", "--data", str(arrays / "test.npz")]
    assert main([*call, *options, "--out", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out" / "margins.parquet").exists()


def test_alpha_is_checked_before_any_search(tmp_path):
    with pytest.raises(ArgumentError, match="alpha"):
        margins_into(tmp_path, "test_margins_command:small", "digits", "Linf:4/255", alpha=0)
