"""Fine-tuning as its user calls it: run folders, their data, and what repeats a run."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

import tiny
from temper import models
from temper.core.interrupt import Stopped
from temper.errors import ArgumentError, DataError, RunError
from temper.runs.finetune import finetune
from temper.runs.run import Run
from temper.training.config import read_config, resolve
from temper.training.schedules import EpsilonSchedule
from tiny_runs import assert_same_weights, config, steps, weights

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def _tiny_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        return finetune(config(tmp_path_factory.mktemp("reference") / "run"))


def test_run_folder_holds_everything(reference: Run) -> None:
    files = {path.name for path in reference.folder.iterdir()}
    assert files == {
        "config.yaml", "run.json", "metrics.jsonl", "checkpoints", "model.json", "weights.safetensors",
        "margins.parquet", "journal", "samples.npz", "report.html", "trained-on.npy",
    }  # fmt: skip
    record = reference.record
    assert record["finished"] is True
    assert record["seed"] == 0
    assert {"python", "torch", "temper"} <= record["versions"].keys()
    assert [step["step"] for step in steps(reference)] == list(range(1, 10))
    assert len(reference.history()) == 3
    results = record["results"]
    assert results["clean accuracy"]["n"] == 20
    assert len(pd.read_parquet(reference.folder / "margins.parquet")) == 20


def test_split_is_recorded_and_disjoint(reference: Run) -> None:
    data = reference.record["data"]
    ids = [set(data[part]["ids"]) for part in ("train", "validation", "test")]
    assert [len(part) for part in ids] == [90, 29, 20]
    assert not (ids[0] & ids[1])
    assert not (ids[0] & ids[2])
    assert not (ids[1] & ids[2])


@pytest.mark.numerical
def test_config_file_repeats_the_run_bit_identically(reference: Run, tmp_path: Path) -> None:
    again = yaml.safe_load((reference.folder / "config.yaml").read_text()) | {"out": str(tmp_path / "again")}
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(again))
    assert_same_weights(reference, finetune(path))


def test_another_seed_gives_another_run(reference: Run, tmp_path: Path) -> None:
    other = finetune(config(tmp_path / "run", seed=1))
    assert not torch.equal(weights(reference)["conv.weight"], weights(other)["conv.weight"])


def test_finished_run_is_kept(reference: Run) -> None:
    stamp = (reference.folder / "weights.safetensors").stat().st_mtime_ns
    with pytest.raises(RunError, match="--resume continues it, --force replaces it"):
        finetune(config(reference.folder))
    finetune(config(reference.folder), resume=True)
    assert (reference.folder / "weights.safetensors").stat().st_mtime_ns == stamp


def test_resume_refuses_another_configuration(reference: Run) -> None:
    with pytest.raises(RunError, match="epochs = 3, not 4"):
        finetune(config(reference.folder, epochs=4), resume=True)


@pytest.mark.slow
def test_schedule_object_and_callable(tmp_path: Path) -> None:
    half = finetune(config(tmp_path / "half"), schedule=lambda epoch, epochs: 0.5)
    assert {row["eps"] for row in steps(half)} == {8 / 255}
    abrupt = finetune(config(tmp_path / "abrupt"), schedule=EpsilonSchedule.abrupt(2.0))
    assert [row["eps"] > 0 for row in steps(abrupt)] == [False] * 5 + [True] * 4


@pytest.mark.slow
def test_a_schedule_given_in_python_is_recorded_and_needed_to_go_on(tmp_path: Path) -> None:
    settings = config(tmp_path / "run", schedule={"name": "fixed"})
    with pytest.raises(Stopped):
        finetune(settings, schedule=tiny.interrupting)
    with pytest.raises(RunError, match=r"was begun with the schedule custom given in Python; give it again to resume"):
        finetune(settings, resume=True)
    run = finetune(settings, schedule=tiny.constant, resume=True)
    assert "custom, given in Python" in (run.folder / "report.html").read_text()
    assert finetune(settings, resume=True).finished  # nothing is left to train
    configured = settings | {"out": tmp_path / "plain", "schedule": {"name": "custom", "function": "tiny:interrupting"}}
    with pytest.raises(Stopped):
        finetune(configured)
    with pytest.raises(RunError, match=r"was begun with the configured schedule; give none to resume it"):
        finetune(configured, schedule=tiny.constant, resume=True)


def test_schedule_that_never_arrives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="never reaches eps in 3 epochs"):
        finetune(config(tmp_path / "run", schedule={"name": "hinge", "start": 12, "end": 37}))


@pytest.mark.slow
def test_a_ramp_of_no_epoch_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    finetune(config(tmp_path / "run", epochs=1, schedule={"name": "linear", "end": 0.9}))
    assert "whole epochs of these shares are 0 and 0 of 1, so eps rises at once" in caplog.text


def test_folder_of_the_user_survives_force(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine: true")
    (tmp_path / "photos").mkdir()
    for force in (False, True):
        with pytest.raises(RunError, match="not a run's folder"):
            finetune(config(tmp_path), force=force)
    assert (tmp_path / "photos").exists()


def test_folder_of_a_run_killed_at_birth_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"finished": false}')
    (tmp_path / "run" / ".config.yaml.17.part").write_text("out: ru")
    assert finetune(config(tmp_path / "run"), resume=True).finished


def test_resume_refuses_changed_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path, labels = tmp_path / "data.npz", np.arange(90) % 3
    np.savez(path, images=rng.integers(0, 256, (90, 8, 8, 3), dtype=np.uint8), labels=labels)
    settings = config(tmp_path / "run", data={"train": str(path), "train_limit": None, "validation_fraction": 0.1})
    finetune(settings)
    np.savez(path, images=rng.integers(0, 256, (90, 8, 8, 3), dtype=np.uint8), labels=labels)
    with pytest.raises(RunError, match="the data changed"):
        finetune(settings, resume=True)


def test_given_validation_data_is_used_and_test_must_not_be_training_data(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("train", 60), ("val", 20), ("test", 30)):
        images = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=np.arange(count) % 2)
    given = {"train": str(tmp_path / "train.npz"), "train_limit": None, "test_limit": None}
    data = given | {"validation": str(tmp_path / "val.npz"), "test": str(tmp_path / "test.npz")}
    record = finetune(config(tmp_path / "run", data=data, epochs=1)).record["data"]
    assert [record[part]["n"] for part in ("train", "validation", "test")] == [60, 20, 30]
    with pytest.raises(ArgumentError, match="is the training data"):
        finetune(config(tmp_path / "other", data=given | {"test": given["train"]}))


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not a run's folder"):
        finetune(config(tmp_path), force=True)
    assert (tmp_path / "thesis.tex").exists()


def test_epsilon_per_epoch_and_per_step(tmp_path: Path, reference: Run) -> None:
    per_epoch = finetune(config(tmp_path / "run", schedule={"name": "linear", "end": 1.0, "per": "epoch"}))
    assert [round(row["eps"] * 255 / 16, 3) for row in steps(per_epoch)] == [0.333] * 3 + [0.667] * 3 + [1] * 3
    values = [row["eps"] for row in steps(reference)]
    assert values == sorted(values)
    assert len(set(values)) > 3


def test_moving_average_is_what_is_saved(tmp_path: Path, reference: Run) -> None:
    averaged = finetune(config(tmp_path / "run", optimiser={"ema": 0.999}))
    start = models.load("tiny:network", num_classes=10, image_size=8, seed=0).state_dict()["network.conv.weight"]
    own = models.load(reference.folder).state_dict()["network.conv.weight"]
    mean = models.load(averaged.folder).state_dict()["network.conv.weight"]
    # The average trails the weights: it lies between where they began and where they are.
    assert 0 < (mean - start).norm() < (own - start).norm()
    assert 0 < (mean - own).norm() < (own - start).norm()


def test_tensorboard_gets_the_metrics(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = finetune(config(tmp_path / "run", epochs=1, loggers=["tensorboard"]))
    assert list((run.folder / "tensorboard").rglob("events.out.tfevents.*"))


def test_global_random_state_and_grad_mode_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    finetune(config(tmp_path / "run", epochs=1))
    assert torch.equal(torch.rand(3), expected)
    assert torch.is_grad_enabled()


def test_auto_schedule_waits_for_convergence(tmp_path: Path) -> None:
    schedule = {"name": "auto", "patience": 1, "tolerance": 0.9}
    run = finetune(config(tmp_path / "run", schedule=schedule, epochs=4))
    # Nothing rises by 0.9 after the first epoch, so validation has converged at the end of the second.
    assert [row["eps"] > 0 for row in steps(run)] == [False] * 6 + [True] * 6
    assert steps(run)[-1]["eps"] == 16 / 255


def test_class_folders_with_their_own_test_part(tmp_path: Path) -> None:
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images[:160], digits.target[:160], strict=True)):
        folder = tmp_path / "photos" / ("train" if number < 120 else "test") / f"digit{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 15).astype(np.uint8)).save(folder / f"{number}.png")
    data = {"train": str(tmp_path / "photos"), "validation_fraction": 0.2, "train_limit": None, "test_limit": None}
    run = finetune(config(tmp_path / "run", data=data, epochs=1))
    record = run.record["data"]
    assert [record[part]["n"] for part in ("train", "validation", "test")] == [96, 24, 40]


def test_a_damaged_test_image_is_told_before_training(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(60):
        part, label = "train" if number < 40 else "test", "even" if number % 2 == 0 else "odd"
        folder = tmp_path / "photos" / part / label
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    damaged = tmp_path / "photos" / "test" / "odd" / "59.png"
    damaged.write_bytes(damaged.read_bytes()[:100])  # it begins like an image
    data = {"train": str(tmp_path / "photos"), "validation_fraction": 0.2, "train_limit": None, "test_limit": None}
    with pytest.raises(DataError, match=r"59\.png: not a readable image"):
        finetune(config(tmp_path / "run", data=data))
    assert not (tmp_path / "run").exists()


def test_different_classes_in_the_test_data_are_refused(tmp_path: Path) -> None:
    images = np.zeros((6, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "other.npz", images=images, labels=np.arange(6) * 2)  # class 10, which digits do not have
    with pytest.raises(ArgumentError, match="class '10'"):
        finetune(config(tmp_path / "run", data={"test": str(tmp_path / "other.npz")}))
    assert not (tmp_path / "run").exists()


def test_resolved_configuration_round_trips(reference: Run) -> None:
    assert reference.config == resolve(read_config(config(reference.folder)))
    assert reference.config.attack.random_start is True


@pytest.mark.parametrize("kept", ["weights.safetensors", "model.json", "checkpoints", "metrics.jsonl"])
@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"force": True}])
def test_a_part_of_a_run_is_not_a_new_run(tmp_path: Path, kept: str, record: bool, flags: dict[str, bool]) -> None:
    (tmp_path / kept).write_text("old")
    if record:
        (tmp_path / "run.json").write_text('{"finished": true}')
    with pytest.raises(RunError, match=f"holds {kept} of a run but no config.yaml"):
        finetune(config(tmp_path), **flags)
    assert (tmp_path / kept).read_text() == "old"


def test_nothing_to_resume_and_both_flags(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(RunError, match="nothing to resume"):
            finetune(config(folder), resume=True)
    with pytest.raises(ArgumentError, match="force"):
        finetune(config(tmp_path / "none"), resume=True, force=True)
    assert not (tmp_path / "none").exists()


def test_force_deletes_only_when_the_place_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = finetune(config(tmp_path / "run", epochs=1))
    before = (old.folder / "weights.safetensors").read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr("temper.runs.run.write_config", fail)
        with pytest.raises(OSError, match="no space"):
            finetune(config(tmp_path / "run", epochs=1, seed=1), force=True)
    (aside,) = tmp_path.glob(".run.replaced-*")
    assert (aside / "weights.safetensors").read_bytes() == before
