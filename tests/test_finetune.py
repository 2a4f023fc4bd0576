"""Fine-tuning as its user calls it: run folders, resumption, protocols, optimisation, several processes."""

import json
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_digits

import tiny
from temper import models
from temper.core.interrupt import Stopped
from temper.core.threads import computing_with
from temper.errors import ArgumentError, DataError, NonFiniteLossError, RunError
from temper.runs.finetune import finetune
from temper.runs.run import Run
from temper.training import crafter, loop
from temper.training.checkpoints import Checkpoint, Progress, last_checkpoint, save_checkpoint
from temper.training.config import read_config, resolve
from temper.training.schedules import EpsilonSchedule

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(autouse=True)
def _tiny_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def config(out: Path, **changes: Any) -> dict[str, Any]:
    """A run of a second: 3 epochs of 3 updates on 8x8 digits."""
    base: dict[str, Any] = {
        "out": out,
        "model": {"name": "tiny:network", "image_size": 8},
        "data": {"train": "digits", "train_limit": 90, "test_limit": 20, "validation_fraction": 0.02},
        "eps": "16/255",
        "attack": {"name": "pgd", "steps": 2},
        "schedule": {"name": "linear"},
        "evaluation": {"points": 2},
        "epochs": 3,
        "batch_size": 30,
        "accelerator": "cpu",
        "checkpoint_seconds": 0,
    }
    for key, value in changes.items():
        base[key] = base[key] | value if isinstance(base.get(key), dict) else value
    return base


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "weights.safetensors")


def assert_same_weights(one: Run, other: Run) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def steps(run: Run) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "step"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        return finetune(config(tmp_path_factory.mktemp("reference") / "run"))


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What a run that ``tiny:interrupting`` stopped, and that goes on with ``tiny:constant``, has to end as."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        schedule = {"name": "custom", "function": "tiny:constant"}
        return finetune(config(tmp_path_factory.mktemp("constant") / "run", schedule=schedule))


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


def test_schedule_object_and_callable(tmp_path: Path) -> None:
    half = finetune(config(tmp_path / "half"), schedule=lambda epoch, epochs: 0.5)
    assert {row["eps"] for row in steps(half)} == {8 / 255}
    abrupt = finetune(config(tmp_path / "abrupt"), schedule=EpsilonSchedule.abrupt(2.0))
    assert [row["eps"] > 0 for row in steps(abrupt)] == [False] * 5 + [True] * 4


def test_schedule_that_never_arrives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="never reaches eps in 3 epochs"):
        finetune(config(tmp_path / "run", schedule={"name": "hinge", "start": 12, "end": 37}))


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


@pytest.mark.numerical
def test_ctrl_c_saves_and_resume_ends_bit_identical(tmp_path: Path, constant: Run) -> None:
    schedule = {"name": "custom", "function": "tiny:interrupting"}
    with pytest.raises(Stopped, match="--resume continues"):
        finetune(config(tmp_path / "run", schedule=schedule))
    # The same rule without the interruption, under the name that the run was started with.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "interrupting", tiny.constant)
        resumed = finetune(config(tmp_path / "run", schedule=schedule), resume=True)
    assert_same_weights(resumed, constant)
    assert [row["step"] for row in steps(resumed)] == list(range(1, 10))
    assert [row["loss"] for row in steps(resumed)] == [row["loss"] for row in steps(constant)]


@pytest.mark.parametrize(
    "moment", ["in the last epoch", "in the last update", "while it is validated", "after it is saved"]
)
def test_ctrl_c_in_the_last_epoch_is_heard(moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = {"name": "custom", "function": "tiny:constant"}
    whole = finetune(config(tmp_path / "whole", schedule=schedule, epochs=2))
    settings = config(tmp_path / "run", schedule=schedule, epochs=2)

    def pressing(epoch: float, epochs: int) -> float:
        if epoch == {"in the last epoch": 4 / 3, "in the last update": 2}.get(moment):
            signal.raise_signal(signal.SIGINT)
        return 1.0

    def after(function: Any, count: int) -> Any:
        """The function, and somebody who presses Ctrl-C when it has been called so often."""
        calls: list[int] = []

        def call(*arguments: Any) -> Any:
            done = function(*arguments)
            calls.append(1)
            if len(calls) == count:
                signal.raise_signal(signal.SIGINT)
            return done

        return call

    with monkeypatch.context() as patch:
        patch.setattr(tiny, "constant", pressing)
        if moment == "while it is validated":
            patch.setattr(loop, "_accuracy", after(loop._accuracy, 2))
        if moment == "after it is saved":
            patch.setattr(loop, "save_checkpoint", after(loop.save_checkpoint, 6))
        with pytest.raises(Stopped, match="--resume continues"):
            finetune(settings)
    assert not (tmp_path / "run" / "report.html").exists()
    resumed = finetune(settings, resume=True)
    assert_same_weights(resumed, whole)
    assert [row["step"] for row in steps(resumed)] == list(range(1, 7))
    assert resumed.finished


@pytest.mark.numerical
@pytest.mark.parametrize("threads", [1, 2])
def test_a_run_goes_on_with_the_threads_that_it_was_started_with(threads: int, tmp_path: Path) -> None:
    schedule = {"name": "custom", "function": "tiny:interrupting"}
    with computing_with(threads), pytest.raises(Stopped):
        finetune(config(tmp_path / "run", schedule=schedule))
    with pytest.MonkeyPatch.context() as patch:
        seen: list[int] = []

        def told(epoch: float, epochs: int) -> float:
            seen.append(torch.get_num_threads())
            return float(tiny.constant(epoch, epochs))

        patch.setattr(tiny, "interrupting", told)
        before = torch.get_num_threads()
        with computing_with(3 - threads):
            resumed = finetune(config(tmp_path / "run", schedule=schedule), resume=True)
    assert set(seen) == {threads} == {resumed.config.threads}
    assert torch.get_num_threads() == before
    with pytest.raises(RunError, match=f"threads = {threads}, not {threads + 1}"):
        finetune(config(tmp_path / "run", schedule=schedule, threads=threads + 1), resume=True)


def _run_in_process(settings: dict[str, Any]) -> None:
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    finetune(settings, resume=(settings["out"] / "run.json").exists())


@pytest.mark.numerical
def test_killed_at_random_moments_ends_bit_identical(tmp_path: Path) -> None:
    settings = config(tmp_path / "killed", epochs=8, optimiser={"ema": 0.9, "clip_norm": 1.0})
    # A fork server imports once; its children are fresh processes all the same.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["temper.runs.finetune"])
    rng = np.random.default_rng(int(os.environ.get("KILL_SEED", "0")))
    killed_at: list[Path | None] = []
    for wanted in sorted(rng.choice(np.arange(1, 23), size=4, replace=False)):
        process = context.Process(target=_run_in_process, args=(settings,))
        process.start()
        deadline = time.monotonic() + 120
        while process.is_alive() and time.monotonic() < deadline:
            newest = last_checkpoint(tmp_path / "killed" / "checkpoints")
            if newest is not None and int(newest.name.rpartition("-")[2]) >= wanted:
                time.sleep(rng.uniform(0, 0.03))  # any moment of the step, of the save, of the validation
                break
            time.sleep(0.002)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        killed_at.append(last_checkpoint(tmp_path / "killed" / "checkpoints"))
    assert any(moment is not None for moment in killed_at)
    resumed = finetune(settings, resume=True)
    whole = finetune(settings | {"out": tmp_path / "whole"})
    assert_same_weights(resumed, whole)
    assert [row["loss"] for row in steps(resumed)] == [row["loss"] for row in steps(whole)]


@pytest.mark.parametrize("large", ["model", "average", "optimiser"])
def test_checkpoint_that_does_not_fit_is_an_os_error_and_leaves_the_older_one(large: str, tmp_path: Path) -> None:
    def checkpoint(step: int, **sizes: int) -> Checkpoint:
        parts = {part: {"weight": torch.zeros(sizes.get(part, 1))} for part in ("model", "average", "optimiser")}
        return Checkpoint(Progress(step=step), **parts)

    older = save_checkpoint(tmp_path, checkpoint(1))
    (tmp_path / ".epoch-00000-step-00000002.part").mkdir()  # of a process that was killed
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))  # as a full disk, the write itself fails
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(tmp_path, checkpoint(3, **{large: 100_000}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == [older]


def test_no_attack_runs_while_epsilon_is_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attacked: list[float] = []

    def spy(attack: Any, model: Any, x: torch.Tensor, y: Any, eps: float, *args: Any, **options: Any) -> torch.Tensor:
        attacked.append(eps)
        return x

    monkeypatch.setattr(crafter, "perturb", spy)
    run = finetune(config(tmp_path / "run", schedule={"name": "abrupt", "start": 1 / 3}, epochs=3))
    # T1 is the end of epoch 1; its last step is the first at full epsilon (the ramp's end counts as reached).
    assert [row["eps"] > 0 for row in steps(run)] == [False, False] + [True] * 7
    assert attacked == [16 / 255] * 7


def test_epsilon_per_epoch_and_per_step(tmp_path: Path, reference: Run) -> None:
    per_epoch = finetune(config(tmp_path / "run", schedule={"name": "linear", "end": 1.0, "per": "epoch"}))
    assert [round(row["eps"] * 255 / 16, 3) for row in steps(per_epoch)] == [0.333] * 3 + [0.667] * 3 + [1] * 3
    values = [row["eps"] for row in steps(reference)]
    assert values == sorted(values)
    assert len(set(values)) > 3


def test_standard_objective_never_attacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crafter, "perturb", None)
    run = finetune(config(tmp_path / "run", objective={"name": "standard"}))
    assert run.finished


@pytest.mark.parametrize("name", ["trades", "trades-guide", "mart"])
@pytest.mark.parametrize("attack", [{"name": "apgd", "steps": 2}])
def test_objectives_train(name: str, attack: dict[str, Any], tmp_path: Path) -> None:
    run = finetune(config(tmp_path / "run", objective={"name": name}, attack=attack, epochs=2))
    assert np.isfinite([row["loss"] for row in steps(run)]).all()


@pytest.mark.parametrize(("norm", "eps"), [("L2", 0.5), ("L1", 3.0)])
def test_other_norms_train_and_are_measured(norm: str, eps: float, tmp_path: Path) -> None:
    run = finetune(config(tmp_path / "run", norm=norm, eps=eps, epochs=2))
    assert f"robust accuracy at {norm}:{eps:g}" in run.record["results"]


def test_linear_probe_changes_the_head_alone(tmp_path: Path) -> None:
    before = models.load("tiny:network", num_classes=10, image_size=8, seed=0).state_dict()
    run = finetune(config(tmp_path / "run", protocol={"name": "linear"}))
    after = models.load(run.folder).state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"network.head.weight", "network.head.bias"}  # not even batch-norm statistics


def test_linear_then_full_changes_the_backbone_in_its_second_phase(tmp_path: Path) -> None:
    before = models.load("tiny:network", num_classes=10, image_size=8, seed=0).state_dict()
    run = finetune(config(tmp_path / "run", protocol={"name": "linear-then-full"}, epochs=4))
    after = models.load(run.folder).state_dict()
    assert not torch.equal(before["network.conv.weight"], after["network.conv.weight"])
    rates = [row["lr"] for row in steps(run)]
    assert rates[3] > rates[2]  # each phase has a learning-rate schedule of its own


def test_lora_is_merged_into_plain_weights(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    before = models.load("tiny:network", num_classes=10, image_size=8, seed=0).state_dict()
    settings = config(tmp_path / "run", protocol={"name": "lora", "lora_rank": 2}, epochs=2)
    after = models.load(finetune(settings).folder).state_dict()
    assert after.keys() == before.keys()
    assert torch.equal(before["network.conv.bias"], after["network.conv.bias"])
    update = (after["network.conv.weight"] - before["network.conv.weight"]).flatten(1)
    assert 1 <= torch.linalg.matrix_rank(update, tol=1e-6) <= 2


@pytest.mark.numerical
def test_accumulated_gradients_equal_the_whole_batch(tmp_path: Path) -> None:
    plain = {"name": "tiny:plain", "image_size": 8}
    whole = finetune(config(tmp_path / "whole", model=plain, precision="fp32"))
    parts = finetune(config(tmp_path / "parts", model=plain, precision="fp32", micro_batch=7))
    for name, tensor in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.numerical
def test_two_processes_equal_one(tmp_path: Path) -> None:
    # bf16 rounds the same sums differently in another order, on machines that compute it.
    same: dict[str, Any] = {"model": {"name": "tiny:plain", "image_size": 8}, "epochs": 2, "precision": "fp32"}
    one = finetune(config(tmp_path / "one", **same))
    two = finetune(config(tmp_path / "two", **same, devices=2))
    for name, tensor in weights(one).items():
        torch.testing.assert_close(weights(two)[name], tensor, rtol=1e-3, atol=1e-4)
    assert [row["step"] for row in steps(two)] == [row["step"] for row in steps(one)]
    np.testing.assert_allclose([row["loss"] for row in steps(two)], [row["loss"] for row in steps(one)], rtol=1e-3)


def test_moving_average_is_what_is_saved(tmp_path: Path, reference: Run) -> None:
    averaged = finetune(config(tmp_path / "run", optimiser={"ema": 0.999}))
    start = models.load("tiny:network", num_classes=10, image_size=8, seed=0).state_dict()["network.conv.weight"]
    own = models.load(reference.folder).state_dict()["network.conv.weight"]
    mean = models.load(averaged.folder).state_dict()["network.conv.weight"]
    # The average trails the weights: it lies between where they began and where they are.
    assert 0 < (mean - start).norm() < (own - start).norm()
    assert 0 < (mean - own).norm() < (own - start).norm()


def poisoned(out: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A run whose numbers cease to be finite in its second epoch, or sooner."""
    if way == "rate":
        return config(out, optimiser={"backbone_lr": 1e30, "head_lr": 1e30})
    if way == "bf16":
        return config(out, precision="bf16", optimiser={"backbone_lr": 1e20, "head_lr": 1e20})
    forward, asked = tiny.Tiny.forward, []

    def spoilt(self: tiny.Tiny, x: torch.Tensor) -> torch.Tensor:
        logits = forward(self, x)
        asked.extend([1] * self.training)
        if not self.training or len(asked) < 6:
            return logits
        if way == "loss":
            return logits * torch.nan
        if way == "gradient":
            return logits + (logits * 0).abs().sqrt()  # whose slope at 0 is no number
        self.norm.running_var.data.fill_(torch.inf)
        return logits

    monkeypatch.setattr(tiny.Tiny, "forward", spoilt)
    return config(out)


@pytest.mark.parametrize(
    ("way", "cause"),
    [
        ("rate", "the loss is nan|a gradient is not finite|is not finite after the update"),
        ("bf16", "the loss is (nan|inf)|a gradient is not finite|is not finite after the update"),
        ("loss", "the loss is nan, on samples "),
        ("gradient", r"a gradient is not finite \(the loss is \d"),
        ("statistics", "norm.running_var is not finite after the update"),
    ],
)
def test_what_is_not_finite_ends_training_in_one_line(way, cause, tmp_path, monkeypatch) -> None:
    with pytest.raises(NonFiniteLossError, match=rf"stops in epoch \d at step \d+: .*({cause})") as caught:
        finetune(poisoned(tmp_path / "run", way, monkeypatch))
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 500
    assert "lower optimiser.backbone_lr" in said
    good = last_checkpoint(tmp_path / "run" / "checkpoints")
    assert f"last good checkpoint: {good or 'none yet'}" in said
    assert good is not None or way in ("rate", "bf16")
    if good is not None:
        assert all(tensor.isfinite().all() for tensor in load_file(good / "model.safetensors").values())
    assert not (tmp_path / "run" / "model.json").exists()


def test_a_last_update_that_spoils_the_weights_is_no_finished_run(tmp_path: Path) -> None:
    """No later loss tells of it."""
    one = config(tmp_path / "run", epochs=1, batch_size=90, optimiser={"backbone_lr": 1e30, "head_lr": 1e30})
    with pytest.raises(
        NonFiniteLossError, match=r"epoch 1 at step 1: logits on \d+ of 29 validation samples .*none yet"
    ):
        finetune(one)


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


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_auto_attacks_in_a_short_training(tmp_path: Path, objective: str) -> None:
    run = finetune(config(tmp_path / "run", schedule={"name": "auto"}, objective={"name": objective}))
    assert [row["eps"] for row in run.history()] == pytest.approx([0, 8 / 255, 16 / 255])


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


def _stopped(folder: Path) -> tuple[dict[str, Any], Path]:
    """A run that stopped inside its training, and how to go on with it."""
    settings = config(folder, schedule={"name": "custom", "function": "tiny:interrupting"})
    with pytest.raises(Stopped):
        finetune(settings)
    return settings, folder


@pytest.mark.parametrize("damage", ["missing", "empty", "short", "nul"])
def test_damaged_metrics_stop_nothing(
    tmp_path: Path, damage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings, folder = _stopped(tmp_path / "run")
    path = folder / "metrics.jsonl"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        half = content[: len(content) // 2]
        path.write_bytes({"empty": b"", "short": half, "nul": half + bytes(len(content) - len(half))}[damage])
    import tiny

    monkeypatch.setattr(tiny, "interrupting", tiny.constant)
    run = finetune(settings, resume=True)
    assert run.finished
    assert b"\0" not in path.read_bytes()
    assert "before the checkpoint; training goes on" in caplog.text


@pytest.mark.parametrize("name", ["model.safetensors", "optimiser.pt", "progress.json"])
@pytest.mark.parametrize("content", [None, b"", b"half"])
def test_a_damaged_checkpoint_falls_back(
    tmp_path: Path,
    name: str,
    content: bytes | None,
    constant: Run,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings, folder = _stopped(tmp_path / "run")
    newest = last_checkpoint(folder / "checkpoints")
    assert newest is not None
    (newest / name).unlink()
    if content is not None:
        (newest / name).write_bytes(content)
    import tiny

    monkeypatch.setattr(tiny, "interrupting", tiny.constant)
    run = finetune(settings, resume=True)
    assert_same_weights(run, constant)
    assert f"{newest}: is damaged" in caplog.text
