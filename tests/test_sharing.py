"""Two commands on one folder at once: what cannot be shared is refused in one line, and nothing of it is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from temper.cli import main as cli
from temper.core import claims as claims_module
from temper.core.claims import FILLED_BY, Claims, alone, in_turn
from temper.core.files import made
from temper.core.places import Place
from temper.errors import EvidenceError, RunError
from temper.evaluation import measurement
from temper.runs import evaluate
from temper.runs.run import CONFIG, RECORD

pytestmark = pytest.mark.usefixtures("undrawn")

FILL = (
    "import sys, time; from pathlib import Path; from temper.core.claims import alone\n"
    "with alone(Path(sys.argv[1])): print('taken', flush=True); time.sleep(60)"
)
FINETUNE = ["finetune", "--data.train", "digits", "--model.name", "tiny:plain", "--model.image-size", "8"]
FINETUNE += ["--data.train-limit", "60", "--data.test-limit", "20", "--epochs", "1", "--eps", "8/255"]
FINETUNE += ["--attack.steps", "1", "--evaluation.points", "1"]
MEASURE = ["--model", "bundled", "--data", "digits", "--limit", "20"]
THREAT = ["--threat", "Linf:8/255"]


@pytest.fixture
def filled(tmp_path):
    """A folder that another process is filling."""
    folder = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", FILL, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "taken\n"
    yield folder, process
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    "words",
    [
        FINETUNE,
        [*FINETUNE, "--resume"],
        [*FINETUNE, "--force"],
        ["corruptions", *MEASURE],
        ["evaluate", *MEASURE, *THREAT],
        ["margins", *MEASURE, *THREAT],
    ],
    ids=lambda words: " ".join([words[0], words[-1]]),
)
def test_a_folder_that_is_being_filled_is_refused_as_it_is(filled, capsys, words, begun):
    folder, process = filled
    for name in (CONFIG, RECORD) if begun else ():
        (folder / name).write_text("{}")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert cli.main([*words, "--out", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert f"out = '{folder}': is being filled by process {process.pid} on " in said, said
    assert " since 2" in said
    assert "choose another out folder" in said
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
def test_of_two_trainings_begun_at_once_one_is_refused(tmp_path):
    call = [sys.executable, "-m", "temper", *FINETUNE, "--out", str(tmp_path / "new")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    pair = [subprocess.Popen(call, stderr=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    said = [process.communicate()[1] for process in pair]
    assert sorted(process.returncode for process in pair) == [0, 2], said
    refused = said[[process.returncode for process in pair].index(2)]
    assert refused.count("\n") == 1, refused
    assert "is being filled by" in refused or "holds a run already" in refused, refused
    assert json.loads((tmp_path / "new" / RECORD).read_text())["finished"]
    assert not (tmp_path / "new" / FILLED_BY).exists()


@pytest.mark.slow
@pytest.mark.parametrize("option", [[], ["--force"]])
def test_what_a_killed_process_was_filling_is_taken_over_at_once(filled, monkeypatch, option):
    folder, process = filled
    monkeypatch.setattr(claims_module, "STALE_SECONDS", 1e6)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / FILLED_BY).exists()
    if option:
        assert cli.main([*FINETUNE, "--out", str(folder)]) == 0
        process = subprocess.run([sys.executable, "-c", FILL.replace("time.sleep(60)", "__import__('os')._exit(9)"),
                                  str(folder)], check=False)  # fmt: skip
    assert cli.main([*FINETUNE, *option, "--out", str(folder)]) == 0
    assert not (folder / FILLED_BY).exists()
    assert not list(folder.parent.glob(".*"))


def test_who_is_alone_leaves_nothing_behind(tmp_path):
    again = alone(tmp_path / "a/b")
    with alone(tmp_path / "a/b"), pytest.raises(RunError, match="is being filled by process"):
        again.__enter__()
    assert not list(tmp_path.iterdir())
    with alone(tmp_path / "a/b"):
        (tmp_path / "a/b/kept").touch()
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["kept"]


def test_a_silent_process_elsewhere_is_waited_for(tmp_path):
    content = {"owner": "them", "machine": "far 1", "pid": 7, "started": "1", "since": "2026-01-01"}
    (tmp_path / FILLED_BY).write_text(json.dumps(content))
    told = "is being filled by process 7 on far since 2026-01-01; wait until that ends, or until it was silent for 30 s"
    with pytest.raises(RunError, match=told), alone(tmp_path):
        pass
    os.utime(tmp_path / FILLED_BY, (time.time() - 60,) * 2)
    with alone(tmp_path):
        pass


@pytest.mark.parametrize("name", ["a::b", "s3:", "memory:x", "file:y", "[/x]e", "~z", "a b#c?d"])
def test_any_name_of_a_folder_is_that_folder(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with alone(Path(name)):
        assert (tmp_path / name / FILLED_BY).exists()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [1, 95])  # EPERM, EOPNOTSUPP
def test_file_systems_without_hard_links_hold_claims(tmp_path, monkeypatch, number):
    monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError(number, "no links")))
    claims = Claims(Place(tmp_path), "")
    assert claims.take("work", "me")
    assert not claims.take("work", "them")
    claims.release("work", "me")
    assert claims.take("work", "them")


def test_turns_are_waited_for(tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "temper")
    other = Claims(Place(tmp_path), "")
    assert other.take("saving", "them")
    monkeypatch.setattr(claims_module.time, "sleep", lambda seconds: other.release("saving", "them"))
    with in_turn(tmp_path, "saving"):
        assert not other.take("saving", "them")
    assert "waiting for process" in caplog.text


@pytest.mark.parametrize(("other", "seed"), [("model", 0), ("data", 0), ("", 1)])
def test_evidence_on_something_else_is_refused_before_there_is_any(tmp_path, monkeypatch, capsys, other, seed):
    """As when two searches of another suite begin on one new folder at the same time."""

    def stopped(*arguments, **options):
        assert (tmp_path / "out/journal" / evaluate.ABOUT).exists()
        with pytest.raises(EvidenceError, match="of another model, data set, seed or eot"):
            about = json.loads((tmp_path / "out/journal" / evaluate.ABOUT).read_text())
            about["identity"] |= {other: "x"} if other else {}
            with evaluate._only_about(tmp_path / "out/journal", about | {"seed": seed}):
                pass
        raise EvidenceError("stopped")

    monkeypatch.setattr(measurement, "measure", stopped)
    assert cli.main(["evaluate", *MEASURE, *THREAT, "--out", str(tmp_path / "out")]) == 2
    assert "stopped" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_another_suite_found_meanwhile_is_kept(tmp_path, monkeypatch):
    measure, out = measurement.measure, tmp_path / "out"
    call = ["evaluate", *MEASURE[:-1], "10", *THREAT, "--out", str(out), "--suite"]

    def overtaken(*arguments, **options):
        done = measure(*arguments, **options)
        monkeypatch.setattr(measurement, "measure", measure)
        assert cli.main([*call, "pgd"]) == 0
        return done

    monkeypatch.setattr(measurement, "measure", overtaken)
    assert cli.main([*call, "apgd"]) == 0
    assert {*evaluate.known_evidence(out / measurement.TABLE).provenance.suites} == {"apgd", "pgd"}


def test_folders_made_for_nothing_are_removed(tmp_path):
    with made(tmp_path / "a/b"):
        pass
    assert not (tmp_path / "a").exists()
    with made(tmp_path / "a/b"):
        (tmp_path / "a/kept").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]
