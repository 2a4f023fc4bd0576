"""The command predict, as a user and as another program call it."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from deployed import POOLED, detector_of, trained
from temper import data, models
from temper.cli import main as cli
from temper.cli.console import write_predictions
from temper.deployment import prediction
from temper.deployment.images import find_images
from temper.deployment.prediction import Deployed, Failure, Prediction, Predictor
from temper.errors import ArgumentError
from temper.evaluation import measurement, samples
from temper.models import Classifier
from temper.models.preprocessing import Preprocessing
from temper.threat import Threat

COLUMNS = ["image", "class", "class_index", "confidence", "margin", "brittle"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with images of many kinds in ``images``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    rng = np.random.default_rng(0)
    (tmp_path / "images" / "inner").mkdir(parents=True)
    for number, (name, shape) in enumerate(
        [("a.png", (8, 8, 3)), ("b.JPG", (20, 31, 3)), ("inner/c.png", (9, 7)), ("inner/d.bmp", (1, 1, 3))]
    ):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / "images" / name)
        (tmp_path / "images" / "inner" / f".hidden{number}.png").write_bytes(b"")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path


IMAGES = ["images/a.png", "images/b.JPG", "images/inner/c.png", "images/inner/d.bmp"]


def call(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    status = cli.main(["predict", *map(str, words)])
    return status, *capsys.readouterr()


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


# --- the main road --------------------------------------------------------------------------------


def test_json_is_one_object(place, run, capsys):
    status, out, err = call(capsys, "--run", run, "images", "--json")
    assert status == 0
    assert out.count("\n") == 1
    said = json.loads(out)
    assert set(said) == {"detector", "images", "failed"}
    assert said["detector"] is None
    assert said["failed"] == []
    assert [each["image"] for each in said["images"]] == IMAGES
    for each in said["images"]:
        assert list(each) == COLUMNS
        assert each["class"] == str(each["class_index"])
        assert 0.1 <= each["confidence"] <= 1
        assert each["margin"] >= 0
        assert each["brittle"] is None
    assert err.count("\n") == 1
    assert f'temper margins --model {run} --data DATA --threat "Linf:8/255"' in err


def test_a_detector_in_the_run_says_what_is_brittle(place, run, capsys):
    margins = [each["margin"] for each in json.loads(call(capsys, "--run", run, "images", "--json")[1])["images"]]
    threshold = sorted(margins)[1]
    detector_of(run, threshold).save(run / "detector.json")
    try:
        status, out, err = call(capsys, "--run", run, "images", "--json")
        assert (status, err) == (0, "")
        said = json.loads(out)
        assert [each["brittle"] for each in said["images"]] == [margin <= threshold for margin in margins]
        detector = {"threat": "Linf:8/255", "norm": "Linf", "alpha": 0.05, "threshold": threshold, "suite": "margin"}
        assert said["detector"].items() >= detector.items()
        rows = list(csv.DictReader(call(capsys, "--run", run, "images", "--csv")[1].splitlines()))
        assert [row["brittle"] for row in rows] == ["yes" if margin <= threshold else "no" for margin in margins]
        shown = call(capsys, "--run", run, "images")[1]
        assert shown.count("yes") == shown.count("no") == 2
        assert "Linf:8/255" in shown
        (run / "detector.json").write_text("{}")
        assert call(capsys, "--run", run, "images")[0] == 2
        detector = detector_of(run, 1.0)
        others = dict(detector.calibration.identity) | {"model": {"weights": "other"}}
        replace(detector, calibration=replace(detector.calibration, identity=others)).save(run / "detector.json")
        assert "was fitted for another model" in call(capsys, "--run", run, "images")[2]
    finally:
        (run / "detector.json").unlink()


def test_csv_has_a_header_and_a_row_per_image(place, run, capsys):
    status, out, _ = call(capsys, "--run", run, *IMAGES, "--csv", "--batch-size", 3)
    rows = list(csv.reader(out.splitlines()))
    assert status == 0
    assert rows[0] == COLUMNS
    assert [row[0] for row in rows[1:]] == IMAGES
    assert [row[5] for row in rows[1:]] == [""] * 4


def test_what_is_predicted_is_what_evaluation_measures(tmp_path, capsys):
    rng = np.random.default_rng(3)
    for k in range(2):
        (tmp_path / "data" / f"class{k}").mkdir(parents=True)
        for number in range(5):
            pixels = rng.integers(0, 256, (40 + number, 37, 3) if number % 2 else (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / f"class{k}" / f"{number}.png")
    classifier = models.load("bundled")
    measured = samples.from_dataset(data.load(str(tmp_path / "data")), classifier)
    table = measurement.measure(classifier, measured, [Threat("Linf", 1e-6)], "pgd", 0).table.to_pandas()
    for size in (1, 4, 64):
        found = list(Predictor(classifier, None)(find_images([str(tmp_path / "data")], None), size))
        assert [each.class_index for each in found] == table["prediction"].tolist()
        # The table's are of float64, ours of the float32 that the exported model computes in.
        np.testing.assert_allclose([each.margin for each in found], table["logit_margin"], rtol=1e-5)


def test_a_table_for_people_survives_any_name(place, run, capsys):
    names = ["[red]x[bold],y.png", "two\nlines.png", os.fsdecode(b"not\xffutf8.png")]
    for name in names:
        Path(name).write_bytes(Path("images/a.png").read_bytes())
    status, out, _ = call(capsys, "--run", run, *names)
    assert status == 0
    assert "[red]x[bold],y.png" in out
    assert "two\\nlines.png" in out
    # Bytes that are no text come out as they went in; pytest's own stdout could not take them.
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="utf-8", write_through=True)
    outcomes = Predictor(models.load("bundled"), None)(names)
    assert write_predictions(outcomes, stream) == (3, 0)
    rows = list(csv.reader(io.StringIO(buffer.getvalue().decode("utf-8", "surrogateescape"))))
    assert [row[0] for row in rows[1:]] == names


# --- images that cannot be read -------------------------------------------------------------------


def test_what_cannot_be_read_is_reported_and_the_rest_is_classified(place, run, capsys):
    whole = Path("images/b.JPG").read_bytes()
    Path("half.jpg").write_bytes(whole[: len(whole) // 2])
    Path("text.png").write_text("no image")
    Path("zero.png").write_bytes(b"")
    os.mkfifo("pipe.png")
    words = ["missing.png", "half.jpg", "images/a.png", "text.png", "zero.png", "pipe.png"]
    status, out, _ = call(capsys, "--run", run, *words, "--json")
    said = json.loads(out)
    assert status == 1
    assert [each["image"] for each in said["images"]] == ["images/a.png"]
    reasons = {each["image"]: each["reason"] for each in said["failed"]}
    assert list(reasons) == ["missing.png", "half.jpg", "text.png", "zero.png", "pipe.png"]
    assert reasons["missing.png"] == "no such file or directory"
    assert "not a readable image" in reasons["half.jpg"]
    assert "not an image" in reasons["text.png"]
    assert "neither a file nor a folder" in reasons["pipe.png"]
    status, out, err = call(capsys, "--run", run, *words, "--csv")
    assert status == 1
    assert out.count("\n") == 2
    assert err.count("temper: skipped ") == 5
    assert err.endswith("temper: 5 of 6 images could not be classified\n")


def test_paths_from_stdin(place, run, capsys, monkeypatch):
    Path("empty").mkdir()
    stdin(monkeypatch, b"images/inner\r\n\nimages/a.png\nbad\0name.png\nempty\n" + b"x" * 5000 + b"\nmissing.png")
    status, out, _ = call(capsys, "--run", run, "-", "--json")
    said = json.loads(out)
    assert status == 1
    assert [each["image"] for each in said["images"]] == ["images/inner/c.png", "images/inner/d.bmp", "images/a.png"]
    assert [each["image"] for each in said["failed"]] == ["bad\0name.png", "empty", "x" * 5000, "missing.png"]
    assert "NUL byte" in said["failed"][0]["reason"]
    assert "no image" in said["failed"][1]["reason"]


def test_a_folder_that_links_to_itself_is_read_once(place):
    Path("images/inner/again").symlink_to("..")
    assert find_images(["images"], None) == IMAGES


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "IMAGES = (): name at least one image or folder"),
        (["empty"], "IMAGES = 'empty': holds no image"),
        (["nowhere.png"], "IMAGES = 'nowhere.png': is not there; name an image or a folder of images"),
        (["imagse"], "IMAGES = 'imagse': is not there; did you mean images?"),
        (["no\0name.png", "x" * 5000], "IMAGES = 'no\\x00name.png': is not there"),
        (["-"], "IMAGES = ('-',): name at least one image"),
        (["images", "--json", "--csv"], "csv = True: give --json or --csv, not both"),
        (["images", "--batch-size", "0"], "batch-size = 0: give at least 1"),
        (["images", "--run", "nowhere"], "run = 'nowhere': must be a run folder that exists"),
    ],
)
def test_a_wrong_call_is_one_line(place, run, capsys, monkeypatch, words, message):
    Path("empty").mkdir()
    stdin(monkeypatch, b"")
    status, out, err = call(capsys, "--run", run, *words)
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith("temper: error: ")
    assert message in err.splitlines()[-1]


def test_a_closed_stdin_is_one_line():
    with pytest.raises(ArgumentError, match="stdin is closed"):
        find_images(["-"], None)


# --- models ---------------------------------------------------------------------------------------


class Sum(nn.Module):
    """Two logits from images of any size of at least 8 pixels; NaN where the first pixel is white."""

    def forward(self, x):
        if x.shape[-1] < 8:
            raise ValueError("images of at least 8 pixels")
        first = x[:, 0, 0, 0]
        return torch.stack([first, x.mean((1, 2, 3))], 1) / (1 - first)[:, None]


def test_a_model_that_says_no_size_gets_images_as_they_come(place):
    white = np.full((8, 8, 3), 255, dtype=np.uint8)
    Image.fromarray(white).save("white.png")
    classifier = Classifier(Sum(), Preprocessing((0, 0, 0), (1, 1, 1), None), head=(), num_classes=2)
    found = list(Predictor(classifier, None)(["images/a.png", "images/b.JPG", "images/inner/d.bmp", "white.png"]))
    assert [type(each) for each in found] == [Prediction, Prediction, Failure, Failure]
    assert found[2].reason == "the model takes no image of 3x1x1 (images of at least 8 pixels)"
    assert "not finite" in found[3].reason


def test_a_logit_that_overflows_is_brittle():
    deployed = Deployed(nn.Identity(), 1.0)
    inf, nan = torch.inf, torch.nan
    logits = torch.tensor([[0.0, 2.0], [0.0, 1.0], [0.0, 0.5], [inf, inf], [inf, 0.0], [nan, 0.0]])
    assert deployed(logits)[2].tolist() == [False, True, True, True, True, True]
    assert len(Deployed(nn.Identity(), None)(logits)) == 2


def test_class_names_of_the_training_data(tmp_path):
    models.save(models.load("bundled", num_classes=3), tmp_path / "run", extra={"class_names": ["cat", "dog", "emu"]})
    assert prediction.names_of(models.load(tmp_path / "run")) == ["cat", "dog", "emu"]
    assert prediction.names_of(models.load("bundled")) == [str(k) for k in range(10)]


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_keeps_what_was_printed_and_is_status_3(place):
    Path("slow.py").write_text(POOLED)
    many = "images/a.png\n" * 400
    Path("paths.txt").write_text(many)
    words = ["predict", "--run", "slow:Net", "-", "--csv", "--batch-size", "2"]
    with Path("paths.txt").open() as paths, Path("out.csv").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "temper", *words], stdin=paths, stdout=out, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 60
        while Path("out.csv").read_text().count("\n") < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    rows = list(csv.reader(Path("out.csv").read_text().splitlines()))
    assert process.returncode == 3, err
    assert 3 <= len(rows) < 400
    assert f"stopped after {len(rows) - 1} of 400 images" in err
    assert all(len(row) == len(COLUMNS) for row in rows)
