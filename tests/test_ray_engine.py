"""The Ray engine on clusters of this machine: the oracle is the local engine, and what the nodes are made to suffer."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

ray = pytest.importorskip("ray", reason="needs the extra ray")

from ray.cluster_utils import Cluster  # noqa: E402

from ray_tasks import Count, Misbehave, Noted  # noqa: E402
from temper.benchmark.driving import run_grid  # noqa: E402
from temper.benchmark.engines.base import DEATHS, Execute  # noqa: E402
from temper.benchmark.engines.local import LocalEngine  # noqa: E402
from temper.benchmark.engines.ray import RayEngine, _check_room, _Flight  # noqa: E402
from temper.benchmark.grid import Cell  # noqa: E402
from temper.benchmark.spec import Measure  # noqa: E402
from temper.benchmark.store import RUN_FAILED, Store  # noqa: E402
from temper.core.interrupt import Stopped  # noqa: E402
from temper.errors import ArgumentError, RunError  # noqa: E402
from temper.training.config import read_config, resolve  # noqa: E402

pytestmark = pytest.mark.slow

SMALL = {"include_dashboard": False, "object_store_memory": 80_000_000}
# What two engines are bound to differ in.
OF_THE_CLOCK = {"seconds", "training_seconds", "history"}


def cell(seed: int, **settings: Any) -> Cell:
    """A run of a few seconds."""
    config = {
        "data": {"train": "digits", "train_limit": 100, "test_limit": 20},
        "attack": {"name": "pgd", "steps": 1},
        "schedule": {"name": "fixed"},
        "epochs": 2,
        "batch_size": 32,
        "precision": "fp32",
        "accelerator": "cpu",
        "seed": seed,
    }
    measure = Measure(threats={"linf": "Linf:8/255"}, suite="apgd", points=1, tau=8, corruptions=False, limit=8)
    factors = {"backbone": "bundled", "dataset": "digits", "objective": "at", "schedule": "fixed", "protocol": "full"}
    return Cell(factors | {"seed": seed}, {}, resolve(read_config(config | settings)), measure)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of one node with one CPU; tests may add nodes."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **SMALL})
    yield cluster
    cluster.shutdown()


def engine_of(cluster: Cluster, **options: Any) -> RayEngine:
    return RayEngine(cluster.address, **options)


def wait_for(found: Callable[[], Any], seconds: float = 600) -> Any:  # on a busy machine runs take minutes
    """What ``found`` finds, as soon as it finds anything."""
    until = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)
    return value


def frozen_midway(task: Noted, node: str, grid: list[Cell]) -> tuple[str, int, list[dict[str, Any]]] | None:
    """A run on ``node`` that has a checkpoint and no row, its worker stopped dead: run, process, history so far."""
    if not task.store.finished():
        return None
    for note in task.read("begun"):
        folder = task.store.folder / "work" / {cell.run: cell.training for cell in grid}[note["run"]] / "training"
        if note["node"] != node or not list(folder.glob("checkpoints/epoch-*")):
            continue
        if note["run"] in task.store.finished():
            continue
        os.kill(note["pid"], signal.SIGSTOP)
        if note["run"] not in task.store.finished():
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            return note["run"], note["pid"], [line for line in lines if line["kind"] == "epoch"]
        os.kill(note["pid"], signal.SIGCONT)
    return None


def test_a_node_lost_midway_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    grid = [cell(seed) for seed in range(4)]
    local, store = Store(tmp_path / "local", create=True), Store(tmp_path / "ray", create=True)
    run_grid(grid, local, LocalEngine(2))
    (tmp_path / "notes").mkdir()
    task = Noted(store, tmp_path / "notes")
    doomed = cluster.add_node(num_cpus=1, **SMALL)
    victim: list[Any] = []

    def kill() -> None:
        victim.extend(wait_for(lambda: frozen_midway(task, doomed.node_id, grid)))
        cluster.remove_node(doomed, allow_graceful=False)
        os.kill(victim[1], signal.SIGKILL)  # a node goes with all its processes, this stopped one too

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        state = run_grid(grid, store, engine_of(cluster), task=lambda _: task)
    finally:
        killer.join()
        if not victim:
            cluster.remove_node(doomed)  # the next test wants one node alone

    assert state.complete
    assert len(state.rows) == len(grid)
    run, _, before = victim
    begun = [note["run"] for note in task.read("begun")]
    assert begun.count(run) == 2  # the node was lost while it was at work
    assert sorted(note["run"] for note in task.read("ended")) == sorted(cell.run for cell in grid)
    assert len({note["node"] for note in task.read("begun")}) == 2
    row = state.rows.set_index("run").loc[run]
    assert before
    assert json.loads(row["history"])[: len(before)] == before  # the same seconds: no epoch was repeated
    theirs = local.rows()
    same = [column for column in theirs.columns if column not in OF_THE_CLOCK]
    assert {"clean", "linf", "expected", "tau", "weights", "passes"} <= set(same)
    assert theirs["weights"].nunique() == len(grid)
    pd.testing.assert_frame_equal(store.rows()[same], theirs[same], check_exact=True)


def test_a_failing_cell_is_recorded_and_the_rest_goes_on(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a store named relatively, while the cluster lives elsewhere
    grid = [cell(0, data={"train": "nowhere.npz"}), cell(1, epochs=1)]
    state = run_grid(grid, Store("results", create=True), engine_of(cluster))
    assert state.failed == grid[:1]
    assert state.done == grid[1:]
    assert "nowhere.npz" in state.errors()[grid[0].label]


def test_a_run_whose_process_dies_is_begun_again_and_then_given_up(cluster: Cluster, tmp_path: Path) -> None:
    task = Misbehave(tmp_path)
    grid = [cell(0), cell(1)]
    store = Store(tmp_path / "store", create=True)
    state = run_grid(grid, store, engine_of(cluster), task=lambda _: task)
    assert [task.attempts(seed) for seed in (0, 1)] == [DEATHS, 2]
    assert state.failed == grid[:1]
    assert store.rows()["status"].tolist() == [RUN_FAILED]  # the other writes no row here
    assert f"died {DEATHS} times" in store.rows()["error"][0]


def test_what_a_task_raises_is_raised_here(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="ArgumentError: seed = 2: is not what this test likes"):
        list(engine_of(cluster).run([cell(2)], Misbehave(tmp_path)))
    assert not ray.is_initialized()


def test_a_node_without_the_store_is_told_of(cluster: Cluster, tmp_path: Path) -> None:
    place = tmp_path / "store"
    task = Execute(Store(place, create=True))
    (place / "store.json").unlink()
    with pytest.raises(RunError, match=r"a node of the Ray cluster cannot begin runs .*the store at the same path"):
        list(engine_of(cluster).run([cell(0)], task))


def test_stopped_runs_save_and_continue(cluster: Cluster, tmp_path: Path) -> None:
    store = Store(tmp_path / "store", create=True)
    grid = [cell(0, epochs=200), cell(1, epochs=200)]
    folder = tmp_path / "store" / "work" / grid[0].training / "training"

    def interrupt() -> None:
        wait_for(lambda: list(folder.glob("checkpoints/epoch-*")))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    presser = threading.Thread(target=interrupt)
    presser.start()
    with pytest.raises(Stopped):
        run_grid(grid, store, engine_of(cluster))
    presser.join()
    assert store.finished() == set()
    assert not list((tmp_path / "store" / "claims").glob("*.json"))  # given back: nobody waits for it to grow stale
    steps = [json.loads(line).get("step") for line in (folder / "metrics.jsonl").read_text().splitlines()]
    saved = [json.loads(path.read_text())["step"] for path in folder.glob("checkpoints/*/progress.json")]
    assert max(saved) == max(steps) < 800  # it heard, and saved its very last step
    assert not (tmp_path / "store" / "work" / grid[1].training).exists()


def test_what_no_node_can_hold_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"threads = 64: no node of the Ray cluster has more than 1 CPUs"):
        list(engine_of(cluster, threads=64).run([cell(0)], Count(tmp_path)))
    with pytest.raises(
        ArgumentError, match=r"gpus_per_run = 8: no node of the Ray cluster with 1 CPUs has more than 0"
    ):
        list(engine_of(cluster, gpus_per_run=8).run([cell(0)], Count(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_room_is_that_of_one_living_node() -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0}},
        {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
        {"Alive": True, "Resources": {}},
    ]
    _check_room(nodes, 8, 0)
    _check_room(nodes, 2, 1)
    for threads, gpus, argument in [(9, 0, "threads"), (8, 0.5, "gpus_per_run"), (1, 2, "gpus_per_run")]:
        with pytest.raises(ArgumentError) as error:
            _check_room(nodes, threads, gpus)
        assert error.value.argument == argument


@pytest.mark.parametrize("gpus", [-0.5, 1.5])
def test_an_impossible_share_of_gpus_is_refused(gpus: float) -> None:
    with pytest.raises(ArgumentError, match=r"give a share such as 0\.5"):
        RayEngine(gpus_per_run=gpus)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense"])
def test_an_address_without_a_cluster_is_refused_at_once(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    with pytest.raises(ArgumentError, match=f"^address = '{address}': no Ray cluster can be used there"):
        list(RayEngine(address).run([cell(0)], Count(tmp_path)))
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ArgumentError) as error:
        list(RayEngine().run([cell(0)], Count(tmp_path)))
    assert error.value.argument == "RAY_ADDRESS"
    assert time.monotonic() - started < 20


def test_many_runs_pass_through_a_small_window_on_a_cluster_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    grid = [cell(seed) for seed in range(500)]
    handed: list[int] = []
    launch = _Flight.launch

    def counted(self: _Flight, cell: Cell) -> None:
        launch(self, cell)
        handed.append(len(self.cells))

    monkeypatch.setattr(_Flight, "launch", counted)
    ended = list(RayEngine(workers=7).run(grid, Count(tmp_path)))
    assert {answer for _, answer in ended} == {"done"}
    done = [line for path in tmp_path.glob("*.txt") for line in path.read_text().split()]
    assert sorted(each.run for each, _ in ended) == sorted(done) == sorted(each.run for each in grid)
    assert len(handed) == 500
    assert max(handed) == 7
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) is before
