"""The command evaluate in trouble from outside: full disks, closed pipes, killed processes, Ctrl-C."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from evaluate_command import call, refusal, usual, working_directory
from temper.cli import main as cli
from temper.margins import EvidenceTable

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("undrawn")]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    return working_directory(tmp_path, monkeypatch)


def test_a_full_disk_is_one_line(place, capsys, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "out/margins.parquet")

    monkeypatch.setattr(EvidenceTable, "save", full)
    assert "out/margins.parquet: the disk is full; free some space" in refusal(capsys, *usual(), status=1)


def test_a_closed_stdout_is_one_line(place, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert call(*usual("--json")) == 2
    monkeypatch.undo()
    assert capsys.readouterr().err == "temper: error: stdout is closed; send it to a file, or to /dev/null\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_stdout_that_takes_nothing_is_one_line():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "temper", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith("temper: error: ")
    assert "the disk is full" in done.stderr
    assert done.stderr.count("\n") == 1


SLOWLY = ["--suite", "apgd", "--model", "mine:Slow", "--data", "some.npz", "--threat", "Linf:1e-6,2e-6"]


def started(*more: str) -> subprocess.Popen[str]:
    """The command on a slow network, as a process of its own."""
    command = [sys.executable, "-m", "temper", "evaluate", *SLOWLY, "--out", "out", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for_outcomes(process: subprocess.Popen[str], count: int) -> None:
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        lines = [line for path in Path("out/journal").rglob("*.csv") for line in path.read_text().splitlines()[1:]]
        if len(lines) >= count:
            return
        time.sleep(0.02)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_kill_loses_at_most_the_batch_in_flight_and_the_same_command_finishes(place):
    for moment in (1, 4):
        process = started("--batch-size", "2")
        wait_for_outcomes(process, moment)
        process.kill()
        process.communicate()
    kept = sum(len(path.read_text().splitlines()) - 1 for path in Path("out/journal").rglob("*.csv"))
    assert kept >= 4
    assert not Path("out/margins.parquet").exists()
    assert call(*SLOWLY, "--out", "out", "--batch-size", "2") == 0
    assert call(*SLOWLY, "--out", "whole") == 0
    whole, resumed = (EvidenceTable.load(Path(folder) / "margins.parquet") for folder in ("whole", "out"))
    pd.testing.assert_frame_equal(whole.frame, resumed.frame)


def test_processes_share_an_evaluation_and_outlive_one_that_is_killed(place):
    Path("shards.py").write_text(
        # A pause after each shard, so that processes that start later find some left.
        "import os, sys, time\nfrom temper.cli.main import main\n"
        "from temper.evaluation import searching\nsearching.SHARD = 3\n"
        "now, fast = time.time, float(os.environ['FAST'])\ntime.time = lambda: now() + fast\n"
        "settle = searching.Searching._settle\n"
        "def slowly(self, *shard):\n    settle(self, *shard)\n    time.sleep(1)\n"
        "searching.Searching._settle = slowly\n"
        "sys.exit(main())\n"
    )
    command = [sys.executable, "shards.py", "evaluate", *SLOWLY, "--out", "out"]
    workers = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"FAST": str(fast)}
        )
        for fast in (0, 3600, -3600)
    ]
    wait_for_outcomes(workers[0], 1)
    workers[0].kill()
    workers[0].communicate()
    assert [process.wait(timeout=120) for process in workers[1:]] == [0, 0]
    files = [path.read_text().splitlines()[1:] for path in Path("out/journal").rglob("*.csv")]
    assert len(files) > 1  # more than one had a part in it
    assert call(*SLOWLY, "--out", "whole") == 0
    whole, shared = (EvidenceTable.load(Path(folder) / "margins.parquet") for folder in ("whole", "out"))
    found = [column for column in whole.frame.columns if column not in ("forward", "backward")]
    pd.testing.assert_frame_equal(whole.frame[found], shared.frame[found])
    assert not list(Path("out/journal").rglob("claims/*.json"))


def test_tables_are_merged(place, capsys):
    assert call(*usual("--suite", "apgd", out="one")) == 0
    assert call(*usual("--suite", "pgd", out="two")) == 0
    assert call(*usual("--limit", 3, out="other")) == 0
    capsys.readouterr()
    assert cli.main(["merge", "one", "two/margins.parquet", "one", "--out", "both.parquet"]) == 0
    assert capsys.readouterr().out == "both.parquet: 12 samples, Linf\n"
    both = EvidenceTable.load(Path("both.parquet"))
    assert sorted(both.provenance.suites) == ["apgd", "pgd"]
    assert cli.main(["merge", "one", "other", "--out", "no.parquet"]) == 2
    said = capsys.readouterr().err
    assert "other/margins.parquet does not go with one/margins.parquet: the evidence is on another data" in said
    assert not Path("no.parquet").exists()
    assert cli.main(["merge", "nowhere", "--out", "no.parquet"]) == 2
    assert "TABLE = 'nowhere': is not there" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_saves_and_is_status_3(place):
    process = started("--batch-size", "1", "--json")
    wait_for_outcomes(process, 1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, err
    assert "stopped early; out keeps what was found" in err
    table = EvidenceTable.load(Path("out/margins.parquet"))
    assert json.loads(out)["threats"][0]["robust_accuracy"] == table.robust_accuracy("Linf", 1e-6).to_json()
    assert 0 < table.robust_accuracy("Linf", 1e-6).unknown < 1
