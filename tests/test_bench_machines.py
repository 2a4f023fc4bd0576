"""Grids on several GPUs and machines: who gets which, and what becomes of the work of a machine that is gone."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml

import bench_grid
from bench_grid import tiny
from temper.benchmark import driving, engines
from temper.benchmark.engines import local
from temper.benchmark.engines.local import LocalEngine
from temper.benchmark.grid import cells
from temper.benchmark.running import execute
from temper.benchmark.spec import read_spec
from temper.benchmark.store import Store
from temper.cli import main as cli
from temper.core import claims


@pytest.mark.slow
def test_each_worker_sees_a_gpu_of_its_own():
    engine = LocalEngine(2, ["4", "GPU-5"])
    grid = cells(read_spec(tiny(seeds=[0, 1])))
    assert {gpu for _, gpu in engine.run(grid, bench_grid.seen_gpu)} == {"4", "GPU-5"}


@pytest.mark.parametrize(
    ("visible", "count", "placement", "workers", "gpus"),
    [
        ("", 0, {}, 6, []),
        ("", 0, {"threads": 4}, 1, []),
        ("", 0, {"threads": 12}, 1, []),
        ("", 2, {"threads": 4}, 2, ["0", "1"]),
        ("3, GPU-7", 2, {}, 2, ["3", "GPU-7"]),
        ("", 2, {"workers": 5}, 5, ["0", "1"]),
    ],
)
def test_workers_auto_are_what_the_machine_holds(visible, count, placement, workers, gpus, monkeypatch, caplog):
    monkeypatch.setattr(local, "cores", lambda: 6)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with caplog.at_level("INFO", "temper"):
        engine = engines.make("local", engines.Placement(**placement))
    assert (engine.workers, engine.gpus) == (workers, gpus)
    assert [line for line in caplog.messages if f"workers auto: {workers}, " in line] or "workers" in placement


ELSEWHERE = """
import socket
from temper.core import claims

socket.gethostname = lambda: "node-a"
claims.BEAT_SECONDS = 0.2
"""


@pytest.mark.slow
def test_what_a_killed_machine_was_at_is_done_by_another(tmp_path, monkeypatch):
    """As of a Slurm array on a shared folder; whether processes of another machine live, nobody knows."""
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(tiny()))
    (tmp_path / "path").mkdir()
    (tmp_path / "path/sitecustomize.py").write_text(ELSEWHERE)
    place, here = tmp_path / "s", Store(tmp_path / "here", create=True)
    call = ["bench", "run", str(tmp_path / "spec.yaml"), "--store", str(place), "--workers", "1"]
    path = f"{tmp_path / 'path'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    node_a = subprocess.Popen(
        [sys.executable, "-m", "temper", *call], env=os.environ | {"PYTHONPATH": path}, start_new_session=True
    )
    deadline = time.monotonic() + 100
    while not list(place.glob("work/*/training/checkpoints/epoch-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    claimed = [path.read_text() for path in place.glob("claims/*.json")]
    assert [text for text in claimed if '"machine": "node-a ' in text]
    os.killpg(node_a.pid, signal.SIGKILL)
    assert node_a.wait(10) == -signal.SIGKILL
    assert Store(place).finished() == set()
    monkeypatch.setattr(claims, "STALE_SECONDS", 5.0)
    monkeypatch.setattr(driving, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(LocalEngine, "run", lambda self, grid, task: ((cell, task(cell)) for cell in grid))
    assert cli.main(call) == 0
    for cell in cells(read_spec(tmp_path / "spec.yaml")):
        assert execute(cell, here, "me") == "done"
    same = ["run", "clean", "linf", "expected", "weights", "data", "linf_low", "linf_high", "linf_n"]
    pd.testing.assert_frame_equal(Store(place).rows()[same], here.rows()[same])
