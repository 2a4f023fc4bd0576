"""Grids carried out for real on this machine: idempotent, killable, complete or said to be incomplete."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import pandas as pd
import pytest
import yaml

import bench_grid
from bench_grid import TINY, tiny
from temper.benchmark import driving, running
from temper.benchmark.costs import Sizes, cost
from temper.benchmark.driving import run_grid
from temper.benchmark.engines.base import Died
from temper.benchmark.engines.local import LocalEngine
from temper.benchmark.grid import cells
from temper.benchmark.outcomes import margins_of, outcomes
from temper.benchmark.progress import state
from temper.benchmark.running import execute
from temper.benchmark.spec import read_spec
from temper.benchmark.store import Store
from temper.cli import main as cli
from temper.core.claims import started

SAME = ["run", "clean", "linf", "expected", "weights", "data", "linf_low", "linf_high", "linf_n"]


def grid(**changes):
    return cells(read_spec(tiny(**changes)))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The tiny grid, carried out in this process."""
    store = Store(tmp_path_factory.mktemp("reference"), create=True)
    for cell in grid():
        assert execute(cell, store, "me") == "done"
    return store


def assert_same(store, reference):
    pd.testing.assert_frame_equal(store.rows()[SAME], reference.rows()[SAME])


@pytest.mark.slow
def test_a_row_says_what_was_measured(reference):
    for cell in grid():
        row = reference.rows().set_index("run").loc[cell.run]
        table = margins_of(reference, cell.run, "apgd")
        assert row["linf"] == table.robust_accuracy("Linf", 8 / 255).value
        assert row["clean"] == table.clean_accuracy().value
        assert row["clean_n"] == len(table) == 12
        assert row["expected"] == table.expected_robustness("Linf", 8 / 255).value
        assert row["seconds"] > row["training_seconds"] > 0
        assert row["passes"] > 2 * 96


@pytest.mark.slow
def test_each_threat_is_measured_with_its_own_suite(tmp_path):
    measure = TINY["measure"] | {"threats": {"linf": "Linf:8/255", "l2": "L2:0.5"}, "suites": {"l2": "fast"}}
    store, cell = Store(tmp_path, create=True), grid(measure=measure)[0]
    assert execute(cell, store, "me") == "done"
    row = store.rows().iloc[0]
    for metric, suite, norm, eps in (("linf", "apgd", "Linf", 8 / 255), ("l2", "fast", "L2", 0.5)):
        table = margins_of(store, cell.run, suite)
        assert set(table.frame["norm"]) == {norm}
        assert row[metric] == table.robust_accuracy(norm, eps).value
    by_sample = outcomes([cell], store)
    assert by_sample["l2"].mean() == row["l2"]
    assert by_sample["linf"].mean() == row["linf"]
    assert row["passes"] <= cost(cell, Sizes(int(row["train_n"]), 12)).total


def test_a_run_is_done_once(reference, monkeypatch):
    monkeypatch.setattr(running, "train_only", lambda config: pytest.fail("it trained again"))
    cell = grid()[0]
    assert execute(cell, reference, "another") == "done"


def test_a_run_that_someone_holds_is_left_alone(tmp_path):
    store, cell = Store(tmp_path, create=True), grid()[0]
    assert store.claim(cell.training, "someone")
    assert execute(cell, store, "me") == "elsewhere"
    assert store.finished() == set()


@pytest.mark.slow
def test_measuring_anew_does_not_train_anew(reference, monkeypatch, tmp_path):
    changed = grid(measure=tiny()["measure"] | {"limit": 10, "tau": 6, "corruptions": True})[0]
    (before,) = reference.folder.glob(f"work/{changed.training}/training/model.json")
    stamp = before.stat().st_mtime_ns
    assert execute(changed, reference, "me") == "done"
    row = reference.rows().set_index("run").loc[changed.run]
    assert before.stat().st_mtime_ns == stamp
    assert row["clean_n"] == 10
    assert row["common_n"] == 10
    assert row["tau_n"] == 6
    reference.remove_run(changed.run)


@pytest.mark.slow
def test_a_failing_run_is_recorded_and_the_others_go_on(tmp_path, reference):
    broken = {"name": "bundled", "weights": str(tmp_path / "none.safetensors")}
    both = grid(backbones={"broken": broken, "bundled": {}})
    store = Store(tmp_path / "store", create=True)
    found = run_grid(both, store, LocalEngine(1))
    assert len(found.done) == 2
    assert len(found.failed) == 2
    assert not found.missing
    assert all("none.safetensors: not found" in error for error in found.errors().values())
    assert_same(_only_done(store), reference)
    again = run_grid(both, store, LocalEngine(1))  # failed runs stay as they are until they are asked for
    assert len(again.failed) == 2


def _only_done(store):
    for run in store.rows().query("status == 'failed'")["run"]:
        store.remove_run(run)
    return store


@pytest.mark.slow
@pytest.mark.numerical
def test_a_worker_that_is_killed_costs_its_run_nothing(tmp_path, reference):
    store, engine = Store(tmp_path, create=True), LocalEngine(1)
    killed = []

    class Killing:
        def run(self, cells, task):
            import multiprocessing
            import threading

            def kill():
                while not killed:
                    for child in multiprocessing.active_children():
                        if list(tmp_path.glob("work/*/training/checkpoints/epoch-*")):
                            os.kill(child.pid, signal.SIGKILL)
                            killed.append(child.pid)
                    time.sleep(0.02)

            threading.Thread(target=kill, daemon=True).start()
            yield from engine.run(cells, task)

    found = run_grid(grid(), store, Killing())
    assert killed
    assert found.complete
    assert_same(store, reference)


@pytest.mark.slow
def test_a_run_whose_process_always_dies_is_recorded(tmp_path):
    store = Store(tmp_path, create=True)
    found = run_grid(grid(schedules=["fixed"]), store, LocalEngine(1), task=lambda store: bench_grid.suicide)
    (error,) = found.errors().values()
    assert "its process died 3 times (signal 9)" in error


@pytest.mark.slow
def test_many_workers_share_the_grid_and_each_run_is_done_once():
    many = grid(seeds=list(range(30)))
    ended = Counter((cell.run, outcome) for cell, outcome in LocalEngine(2).run(many, bench_grid.at_once))
    assert len(ended) == 60
    assert set(ended.values()) == {1}
    assert not any(isinstance(outcome, Died) for _, outcome in ended)


@pytest.mark.slow
def test_a_worker_ends_soon_after_its_driver_is_killed(tmp_path):
    (tmp_path / "drive.py").write_text(
        "import os, sys, time\nfrom types import SimpleNamespace\n"
        "from temper.benchmark.engines.local import LocalEngine\n"
        "def work(cell):\n    print(os.getpid(), flush=True)\n    time.sleep(100)\n"
        "if __name__ == '__main__':\n    list(LocalEngine(1).run([SimpleNamespace(run='a', label='a')], work))\n"
    )
    driver = subprocess.Popen([sys.executable, str(tmp_path / "drive.py")], stdout=subprocess.PIPE, text=True)
    worker = int(driver.stdout.readline())
    driver.kill()
    driver.wait()
    deadline = time.monotonic() + 30
    while started(worker):
        assert time.monotonic() < deadline, "the worker lives on"
        time.sleep(0.05)


@pytest.mark.slow
def test_the_first_worker_of_a_process_leaves_ctrl_c_unheard_while_it_imports(tmp_path):
    (tmp_path / "drive.py").write_text(
        "import os, signal\nfrom temper.benchmark.engines.local import _Worker\n"
        "if __name__ == '__main__':\n    worker = _Worker(print, None)\n"
        "    os.kill(worker.process.pid, signal.SIGINT)\n    worker.end()\n    print(worker.process.exitcode)\n"
    )
    ended = subprocess.run([sys.executable, str(tmp_path / "drive.py")], capture_output=True, text=True, check=True)
    assert int(ended.stdout) != -signal.SIGINT
    assert ended.stderr == ""


def bench_run(spec, store):
    return ["bench", "run", str(spec), "--store", str(store), "--workers", "1"]


@pytest.mark.slow
def test_two_drivers_share_one_store(tmp_path, reference, monkeypatch):
    monkeypatch.setattr(driving, "WAIT_SECONDS", 0.1)
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(tiny()))
    call = [sys.executable, "-m", "temper", *bench_run(path, tmp_path / "s")]
    both = [subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    told = [process.communicate(timeout=150)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert_same(Store(tmp_path / "s"), reference)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_the_same_command_ends_alike(tmp_path, reference):
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(tiny()))
    call = [sys.executable, "-m", "temper", *bench_run(path, tmp_path / "s")]
    process = subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("s/work/*/training/checkpoints/epoch-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    told = process.communicate(timeout=60)[0]
    assert process.returncode == 3, told
    assert "same command continues" in told, told
    assert "Traceback" not in told, told
    assert cli.main(bench_run(path, tmp_path / "s")) == 0
    assert_same(Store(tmp_path / "s"), reference)


def test_a_full_disk_stops_the_benchmark_and_blames_no_run(tmp_path, monkeypatch):
    store, cell = Store(tmp_path, create=True), grid()[0]

    def full(config):
        raise OSError(28, "No space left on device", "weights.safetensors")

    monkeypatch.setattr(running, "train_only", full)
    with pytest.raises(OSError, match="No space left"):
        execute(cell, store, "me")
    assert store.finished() == set()
    assert store.claim(cell.training, "another")


def test_status_tells_what_is_missing(tmp_path, capsys, reference):
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(tiny(seeds=[0, 1])))
    assert cli.main(["bench", "status", str(path), "--store", reference.place]) == 1
    told = capsys.readouterr().out
    assert "2 of 4 runs done, 0 failed, 2 missing" in told
    assert "missing: bundled / digits / at / fixed / linear / 1" in told
    assert state(grid(), reference).complete


def test_a_report_lists_what_is_missing_and_never_averages_over_it(tmp_path, capsys, reference):
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(tiny(seeds=[0, 1])))
    call = ["bench", "report", str(path), "--store", reference.place, "--out", str(tmp_path / "site")]
    assert cli.main(call) == 2
    told = capsys.readouterr().err
    assert "2 of 4 runs are not there: bundled / digits / at / fixed / linear / 1; " in told
    assert not (tmp_path / "site").exists()
    assert cli.main([*call, "--partial"]) == 0
    page = (tmp_path / "site" / "index.html").read_text()
    assert "bundled / digits / at / hinge / linear / 1" in page
    assert '"rankings":[]' in page.replace(" ", "")  # no configuration has all its seeds


def test_a_report_of_a_whole_grid_ranks_and_finds(tmp_path, reference):
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(tiny()))
    call = ["bench", "report", str(path), "--store", reference.place, "--out", str(tmp_path / "site")]
    assert cli.main(call) == 0
    page = (tmp_path / "site" / "index.html").read_text()
    assert "The best configuration, protocol linear" in page
    assert all((tmp_path / "site" / "runs" / f"{cell.run}.html").exists() for cell in grid())


@pytest.mark.slow
def test_what_a_spec_skips_is_neither_missing_nor_ranked(tmp_path, capsys, reference):
    path = tmp_path / "spec.yaml"
    skipped = [{"where": {"schedule": "hinge", "seed": 1}, "skip": True}]
    path.write_text(yaml.safe_dump(tiny(seeds=[0, 1], exceptions=skipped)))
    shutil.copytree(reference.folder, tmp_path / "s")
    for cell in cells(read_spec(path)):
        assert execute(cell, Store(tmp_path / "s"), "me") == "done"
    call = [str(path), "--store", str(tmp_path / "s")]
    assert cli.main(["bench", "status", *call]) == 0
    assert "3 of 3 runs done" in capsys.readouterr().out
    assert cli.main(["bench", "report", *call, "--out", str(tmp_path / "site")]) == 0
    page = (tmp_path / "site" / "index.html").read_text()
    assert "Neither ranked nor averaged" in page
    assert "bundled, at, hinge, linear" in page
    assert "bundled, at, fixed: Borda" in page
    assert "of 1." in page  # the one that is whole


@pytest.mark.filterwarnings("always::temper.errors.TemperWarning")
def test_a_damaged_store_is_told(tmp_path, capsys, reference):
    shutil.copytree(reference.folder, tmp_path / "s")
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(tiny()))
    row = next((tmp_path / "s" / "runs").glob("*.parquet"))
    row.write_bytes(row.read_bytes()[:100])
    assert cli.main(["bench", "status", str(path), "--store", str(tmp_path / "s")]) == 1
    told = capsys.readouterr()
    assert f"runs/{row.name}: damaged" in told.err
    assert told.err.count("\n") == 1
    assert "1 of 2 runs done, 0 failed, 1 missing" in told.out


def test_plan_tells_size_and_cost_and_knows_what_is_done(tmp_path, capsys, reference):
    import json

    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(tiny(seeds=[0, 1])))
    assert cli.main(["bench", "plan", str(path), "--store", reference.place, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["runs"], plan["done"], plan["backbones"]["bundled"]["runs"]) == (4, 2, 2)
    assert plan["backbones"]["bundled"]["throughput"] > 0
    assert plan["hours"] > 0  # from the runs that are done
    assert cli.main(["bench", "plan", str(path), "--store", str(tmp_path / "none"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hours"] is None  # nothing was measured: unknown, not guessed
    assert cli.main(["bench", "plan", str(path), "--store", str(tmp_path / "none"), "--json", "--measure"]) == 0
    assert json.loads(capsys.readouterr().out)["hours"] > 0


@pytest.mark.slow
def test_results_are_read_without_torch(tmp_path, reference):
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(tiny()))
    place = ["--store", reference.place]
    calls = [
        ["--help"], ["--version"], ["finetune", "--help"], ["evaluate", "--help"],
        ["bench", "status", str(path), *place],
        ["bench", "query", "SELECT linf FROM results JOIN margins USING (run)", *place],
        ["bench", "report", str(path), "--out", str(tmp_path / "site"), *place],
    ]  # fmt: skip
    code = (
        "import sys; from temper.cli import main as cli\n"
        f"for call in {calls!r}:\n"
        "    try:\n"
        "        status = cli.main(call)\n"
        "    except SystemExit as end:\n"
        "        status = end.code\n"
        "    assert not status and 'torch' not in sys.modules, (call, status, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").exists()


def test_passes_are_counted_where_epsilon_is_above_zero():
    fixed, hinge = grid(protocols={"linear": {"protocol": {"name": "linear"}, "epochs": 4}})
    # Four epochs of 96 images, one PGD step each: as many passes to craft as to train. The hinge is 0 in the first.
    spent, scheduled = (cost(cell, Sizes(96, 24)) for cell in (fixed, hinge))
    assert (spent.train_forward, spent.train_backward) == (2 * 4 * 96, 2 * 4 * 96)
    assert (scheduled.train_forward, scheduled.train_backward) == ((4 + 3) * 96, (4 + 3) * 96)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"backbones": ["convnext_tinny.fb_in1k"]}, "convnext_tiny.fb_in1k"),
        ({"datasets": {"mine": {"train": "no/such/folder"}}}, "no such file or folder"),
    ],
)
def test_what_cannot_be_loaded_is_told_before_anything_runs(tmp_path, capsys, spec, message):
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(tiny(**spec)))
    assert cli.main(["bench", "run", str(path), "--store", str(tmp_path / "s")]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "s").exists()
