"""Fine-tuning that is stopped, killed or damaged, and goes on."""

import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from temper.core.interrupt import Stopped
from temper.core.threads import computing_with
from temper.errors import RunError
from temper.runs.finetune import finetune
from temper.runs.run import Run
from temper.training import loop
from temper.training.checkpoints import Checkpoint, Progress, last_checkpoint, save_checkpoint
from tiny_runs import assert_same_weights, config, steps

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]


@pytest.fixture(autouse=True)
def _tiny_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What a run that ``tiny:interrupting`` stopped, and that goes on with ``tiny:constant``, has to end as."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        schedule = {"name": "custom", "function": "tiny:constant"}
        return finetune(config(tmp_path_factory.mktemp("constant") / "run", schedule=schedule))


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
            patch.setattr(loop, "clean_accuracy", after(loop.clean_accuracy, 2))
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
