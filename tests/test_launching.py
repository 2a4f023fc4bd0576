"""How work that several processes do together ends, when it does not end well."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lightning_fabric import Fabric

from temper.core.relay import listening
from temper.errors import DataError, RunError
from temper.runs.launching import together

PATIENCE = 120
DRIVER = """
from pathlib import Path
from lightning_fabric import Fabric
from temper.core.interrupt import Stopped
from temper.runs.launching import together

def work(fabric):
    print("at work")

if __name__ == "__main__":
    try:
        together(Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn"), Path("run"), work)
    except Stopped as stopped:
        print(stopped)
"""


def fail(fabric: Fabric) -> None:
    """The second of two processes cannot go on; the first waits for it."""
    if not fabric.is_global_zero:
        raise DataError("cat.png: damaged")
    fabric.barrier()


def fill(fabric: Fabric) -> None:
    """As :func:`fail`, with an error that names a file."""
    if not fabric.is_global_zero:
        raise OSError(28, "No space left on device", "weights.safetensors")
    fabric.barrier()


def die(fabric: Fabric) -> None:
    """As :func:`fail`, without a word."""
    if not fabric.is_global_zero:
        os.kill(os.getpid(), signal.SIGKILL)
    fabric.barrier()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "error", "message"),
    [
        (fail, DataError, "cat.png: damaged"),
        (fill, OSError, "No space left on device: 'weights.safetensors'"),
        (die, RunError, r"run: process 1 of the training ended \(SIGKILL\); out of memory\? --resume continues"),
    ],
)
def test_what_one_process_cannot_go_on_with_is_raised_in_the_one_that_started_it(work, error, message):
    with pytest.raises(error, match=message):
        together(Fabric(accelerator="cpu", devices=2, strategy="ddp_spawn"), Path("run"), work)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="children are found in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_processes_start_is_one_line(tmp_path, number):
    (tmp_path / "drive.py").write_text(DRIVER)
    call = [sys.executable, str(tmp_path / "drive.py")]
    process = subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True
    )
    deadline = time.monotonic() + PATIENCE
    while len(spawned(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, said = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in said, said
    assert out.splitlines() == ["run: stopped; --resume continues"]


def spawned(pid: int) -> list[int]:
    """The processes that one has spawned to compute."""
    lists = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    children = [int(child) for each in lists for child in each]
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def test_failures_are_known_when_the_listening_is_over():
    with listening() as line:
        line.fail(DataError("first"))
        line.fail(DataError("second"))
    assert [str(error) for error in line.failures] == ["first", "second"]
