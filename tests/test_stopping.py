"""A signal at any moment is one line and a documented status, and no process outlives the one that started it."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import temper.__main__
import temper.cli
from temper.core.claims import started

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="POSIX signals")]
PATIENCE = 120.0  # seconds, on a machine with much else to do

EVALUATE = ["evaluate", "--model", "bundled", "--data", "digits", "--threat", "Linf:8/255", "--limit", "200"]
FINETUNE = ["finetune", "--data.train", "digits", "--eps", "8/255", "--epochs", "500"]
SLOW = """
import sys
import time
from pathlib import Path

import numpy as np
import torch

from temper.evaluation.samples import Samples


class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, place):
        if place > 1:
            (Path(sys.argv[1]) / str(torch.utils.data.get_worker_info().id)).touch()
            time.sleep(600)
        return torch.zeros(3, 4, 4), 0, place


if __name__ == "__main__":
    for _ in Samples(Slow(), np.arange(8), "", workers=2).batches(1):
        pass
"""


@pytest.mark.parametrize(
    ("words", "imported", "number"),
    [
        *((EVALUATE, name, number) for name in ("json", "tyro", "numpy") for number in (signal.SIGINT, signal.SIGTERM)),
        (EVALUATE, "torch._tensor", signal.SIGINT),
        (FINETUNE, "temper.runs.finetune", signal.SIGTERM),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else str(value),
)
def test_a_signal_while_the_program_starts_is_one_line(tmp_path, words, imported, number):
    call = [sys.executable, "-X", "importtime", "-m", "temper", *words]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=tmp_path)
    try:
        lines = iter(process.stderr)
        while not re.search(rf"\| +{re.escape(imported)}$", next(lines).rstrip()):
            pass
        process.send_signal(number)
        said = [line for line in lines if not line.startswith("import time:")]
        assert process.wait(PATIENCE) == 3
    finally:
        process.kill()
    assert len(said) == 1, said
    assert said[0].startswith("temper: "), said
    assert "the same command continues" in said[0], said
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="moments are told by the processor's time")
@pytest.mark.parametrize(
    ("words", "moments"),  # seconds of the processor: from the first imports to the way out
    [(["env"], (0.15, 0.9, 1.7, 2.0)), (["bench", "status", "nowhere.yaml"], (0.3, 0.5)), (EVALUATE, (1.2, 2.4))],
    ids=["env", "bench", "evaluate"],
)
def test_ctrl_c_at_any_moment_shows_no_traceback(tmp_path, words, moments):
    for moment in moments:
        call = [sys.executable, "-m", "temper", *words]
        process = subprocess.Popen(call, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=tmp_path)
        while process.poll() is None and spent(process.pid) < moment:
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode in (0, 2, 3), (moment, said)
        assert said.count("\n") <= 1, (moment, said)
        assert "Traceback" not in said, (moment, said)


def test_the_program_and_its_commands_agree_on_the_status_of_a_stop():
    assert temper.__main__.STOPPED == temper.cli.STOPPED


def spent(pid: int) -> float:
    """Seconds of the processor that a process has taken."""
    facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(facts[11]) + int(facts[12])) / os.sysconf("SC_CLK_TCK")


def test_workers_of_a_data_loader_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    process, workers = subprocess.Popen([sys.executable, str(script), str(tmp_path)]), []
    try:
        wait_for(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
        workers = children(process.pid)
        assert len(workers) >= 2
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: all(started(pid) is None for pid in workers))


def children(parent: int) -> list[int]:
    told = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=True)
    return [int(word) for word in told.stdout.split()]


def wait_for(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
