"""Images that were trained on never count as test images, whoever asks and whatever holds them."""

import json
from pathlib import Path

import numpy as np
import pytest

from temper import cli, data, folders
from temper.errors import DataError
from temper.training.finetune import finetune
from temper.training.seen import SEEN, digests, seen_by, unseen


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


@pytest.mark.parametrize("source", ["noise.npz", "repacked.npz"])
def test_the_undivided_source_is_measured_without_what_was_trained_on(source, place, monkeypatch, caplog):
    folder, run = place
    monkeypatch.chdir(folder)
    _, dataset = folders.load("run", source, None, 0)
    assert len(dataset) == len(ids(run, "test")) == 20
    own = data.load("noise.npz").subset(sorted(ids(run, "test")))
    assert set(digests(dataset).tolist()) == set(digests(own).tolist())
    assert "left out 80 of 100 images, those that run was trained on" in caplog.text


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
        folders.load("run", "trained.npz", None, 0)


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
    assert len(unseen(whole, digests(other.subset(range(30))), "x")) == 70
