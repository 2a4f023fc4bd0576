"""Images that were trained on never count as test images, whoever asks and whatever holds them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from temper import data
from temper.cli import main as cli
from temper.data import ArrayImages, Dataset
from temper.errors import DataError
from temper.runs import evaluate
from temper.runs.finetune import finetune
from temper.training.seen import SEEN, note_seen, seen_by, unseen
from temper.training.splits import Splits

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Random labels, and a run that was trained on some of them."""
    folder = tmp_path_factory.mktemp("seen")
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (100, 8, 8, 3), dtype=np.uint8), np.arange(100) % 2
    np.savez(folder / "noise.npz", images=images, labels=labels)
    order = rng.permutation(100)
    np.savez(folder / "repacked.npz", images=images[order], labels=labels[order])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        patch.chdir(folder)
        run = finetune(config("noise.npz", "run"))
    return folder, run


def config(source, out, **changes):
    base = {
        "out": out, "model": {"name": "tiny:network", "image_size": 8}, "data": {"train": source}, "epochs": 1,
        "batch_size": 40, "attack": {"name": "pgd", "steps": 1}, "evaluation": {"points": 1}, "accelerator": "cpu",
    }  # fmt: skip
    return base | changes


def ids(run, *parts):
    return {sample for part in parts for sample in run.record["data"][part]["ids"]}


@pytest.mark.slow
@pytest.mark.parametrize("source", ["noise.npz", "repacked.npz"])
def test_the_undivided_source_is_measured_without_what_was_trained_on(source, place, monkeypatch, caplog):
    folder, run = place
    monkeypatch.chdir(folder)
    _, dataset = evaluate.load("run", source, None, 0)
    assert len(dataset) == len(ids(run, "test")) == 20
    own = data.load("noise.npz").subset(sorted(ids(run, "test")))
    assert set(dataset.digests().tolist()) == set(own.digests().tolist())
    assert "left out 80 of 100 images, those that run was trained on" in caplog.text


@pytest.mark.slow
def test_every_measuring_command_leaves_them_out(place, monkeypatch, capsys):
    folder, _ = place
    monkeypatch.chdir(folder)
    common = ["--model", "run", "--data", "noise.npz", "--json"]
    for command in (
        ["evaluate", "--threat", "Linf:1/255", "--suite", "pgd"],
        ["margins", "--threat", "Linf:1/255"],
        ["corruptions", "--corruption", "brightness", "--severity", "1"],
    ):
        cli.main([command[0], *common, *command[1:], "--out", f"out-{command[0]}"])
        assert json.loads(capsys.readouterr().out)["data"]["n"] == 20, command


def test_data_of_nothing_else_are_refused(place, monkeypatch):
    folder, run = place
    monkeypatch.chdir(folder)
    trained = data.load("noise.npz").subset(sorted(ids(run, "train")))
    np.savez("trained.npz", images=np.stack([trained.images[i] for i in range(len(trained))]), labels=trained.labels)
    with pytest.raises(DataError, match="holds no images but those that run was trained on; name other data"):
        evaluate.load("run", "trained.npz", None, 0)


@pytest.mark.slow
def test_a_run_of_a_run_with_another_seed_tests_on_nothing_that_either_was_trained_on(place, monkeypatch):
    folder, run = place
    monkeypatch.chdir(folder)
    again = finetune(config("noise.npz", "again", model={"name": "run"}, seed=5))
    assert not ids(again, "test") & ids(run, "train", "validation")
    assert len(ids(again, "test")) < 20
    assert set(seen_by("again").tolist()) >= set(seen_by("run").tolist())


def test_a_damaged_list_is_told(place, monkeypatch, tmp_path):
    (tmp_path / SEEN).write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match=r"trained-on\.npy: is damaged"):
        seen_by(str(tmp_path))


def test_equal_images_are_the_same_whatever_their_ids(place, monkeypatch):
    folder, _ = place
    whole, other = (data.load(str(folder / name)) for name in ("noise.npz", "repacked.npz"))
    assert len(unseen(whole, other.subset(range(30)).digests(), "x")) == 70


def test_what_is_recorded_takes_one_reading_and_is_what_it_was(tmp_path):
    """Fingerprints as folders hold them already, and digests, from the same bytes."""
    images = np.random.default_rng(1).integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
    asked = []

    class Watched(ArrayImages):
        def content(self, index):
            asked.append(self.array[index].tobytes())
            return super().content(index)

        def take(self, indices):
            return Watched(self.array[indices])

    whole = Dataset(Watched(images), np.arange(9) % 2, ("a", "b"), np.arange(9) + 3, "watched")
    splits = Splits(whole.subset(range(6)), whole.subset([6, 7]), whole.subset([8]))
    record = splits.record()
    note_seen(tmp_path, (splits.train, splits.validation), "bundled")
    assert sorted(asked) == sorted(image.tobytes() for image in images)
    expected = hashlib.sha256()
    for image in images[:6]:
        content = repr(image.shape).encode() + image.tobytes()
        expected.update(len(content).to_bytes(8, "little") + content)
    expected.update(splits.train.labels.astype("<i8").tobytes() + splits.train.ids.astype("<i8").tobytes())
    assert record["train"]["fingerprint"] == expected.hexdigest()
    first = hashlib.sha256(repr(images[0].shape).encode() + images[0].tobytes()).digest()[:8]
    assert splits.train.digests()[0] == int.from_bytes(first, "little")
    assert set(seen_by(str(tmp_path)).tolist()) == set(whole.digests()[:8].tolist())
