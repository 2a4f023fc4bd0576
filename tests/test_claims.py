"""Claims: one holder at a time, taken over when its process is gone, unreadable or silent, whatever the clocks say."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from temper.core import claims as claims_module
from temper.core.claims import Claims, Holder, machine, started
from temper.core.places import Place

HOLD = (
    "import sys, time; from temper.core.claims import Claims; from temper.core.places import Place;"
    "assert Claims(Place(sys.argv[1]), 'claims').take('work', 'theirs'); print('taken', flush=True); time.sleep(60)"
)


@pytest.fixture(params=["local", "memory"])
def place(request, tmp_path):
    return Place(str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def holder(tmp_path):
    """A process that holds the claim on "work" in tmp_path."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "taken\n"
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def slow_to_give_up(monkeypatch):
    """Nothing is taken over for its age."""
    monkeypatch.setattr(claims_module, "STALE_SECONDS", 1e6)


def test_a_claim_is_held_by_one(place):
    mine, theirs = Claims(place, "claims"), Claims(place, "claims")
    assert mine.take("work", "me")
    assert not theirs.take("work", "them")
    assert mine.take("work", "me")
    theirs.release("work", "them")  # not theirs to give
    assert not theirs.take("work", "them")
    mine.release("work", "me")
    assert theirs.take("work", "them")


@pytest.mark.parametrize(
    "content", [b"", b"\x00" * 40, b'{"owner": "x"', b"[]", b"3", b'{"owner": "a", "pid": "b"}', b"\xff"]
)
def test_a_claim_that_cannot_be_read_stops_nothing(place, content, slow_to_give_up):
    place.write("claims/work.json", content)
    assert Claims(place, "claims").take("work", "me")
    assert json.loads(place.read("claims/work.json"))["owner"] == "me"


def test_a_killed_holder_is_known_to_be_gone(tmp_path, holder, slow_to_give_up):
    claims = Claims(Place(tmp_path), "claims")
    assert not claims.take("work", "me")
    holder.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while not claims.take("work", "me"):  # also before its parent has waited for it
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, False),
        ({"started": "1"}, True),  # its number was given to a later process
        ({"machine": "elsewhere"}, False),  # of whose processes nothing is known
        ({"machine": "elsewhere", "started": "1"}, False),
        ({"started": ""}, False),  # as an older version wrote it
    ],
)
def test_a_process_is_known_by_machine_number_and_start(tmp_path, changes, taken, slow_to_give_up):
    values = vars(Holder.here("them")) | changes
    Place(tmp_path).write("claims/work.json", json.dumps(values).encode())
    assert Claims(Place(tmp_path), "claims").take("work", "me") is taken


def test_processes_are_told_apart():
    assert started(os.getpid()) == started(os.getpid()) is not None
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert started(gone.pid) is None
    assert machine() == machine()


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_clocks_an_hour_apart_change_nothing(tmp_path, monkeypatch, holder, skew):
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + skew)
    assert not Claims(Place(tmp_path), "claims").take("work", "me")


def test_silence_is_judged_by_the_clock_of_the_file_system(tmp_path):
    claims = Claims(Place(tmp_path), "claims")
    path = tmp_path / "claims" / "work.json"
    Place(tmp_path).write("claims/work.json", b'{"owner": "them", "machine": "elsewhere"}')
    assert not claims.take("work", "me")
    long_ago = path.stat().st_mtime - claims_module.STALE_SECONDS - 1
    os.utime(path, (long_ago, long_ago))
    assert claims.take("work", "me")


def test_silence_of_a_claim_from_the_future_is_noticed_by_watching(tmp_path, monkeypatch):
    claims = Claims(Place(tmp_path), "claims")
    path = tmp_path / "claims" / "work.json"
    Place(tmp_path).write("claims/work.json", b'{"owner": "them", "machine": "elsewhere"}')
    later = path.stat().st_mtime + 3600
    os.utime(path, (later, later))
    monkeypatch.setattr(claims_module, "STALE_SECONDS", 0.2)
    assert not claims.take("work", "me")
    time.sleep(0.1)
    os.utime(path, (later + 1, later + 1))  # it lives
    assert not claims.take("work", "me")
    time.sleep(0.3)
    assert claims.take("work", "me")


def test_a_claim_that_is_held_is_kept_fresh(place, monkeypatch):
    monkeypatch.setattr(claims_module, "BEAT_SECONDS", 0.02)
    mine = Claims(place, "claims")
    assert mine.take("work", "me")
    before = place.modified("claims/work.json")
    deadline = time.monotonic() + 10
    while place.modified("claims/work.json") == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    mine.release("work", "me")


def test_who_slept_while_another_took_over_leaves_it_alone(place, monkeypatch):
    monkeypatch.setattr(claims_module, "BEAT_SECONDS", 0.02)
    mine = Claims(place, "claims")
    assert mine.take("work", "me")
    place.write("claims/work.json", b'{"owner": "them"}')
    time.sleep(0.1)
    mine.release("work", "me")
    assert place.read("claims/work.json") == b'{"owner": "them"}'


def test_of_two_who_find_a_silent_claim_one_gets_it(tmp_path):
    place = Place(tmp_path)
    place.write("claims/work.json", b"old")
    assert place.replace("claims/work.json", b"old", b"one")
    assert not place.replace("claims/work.json", b"old", b"other")
    assert place.read("claims/work.json") == b"one"
    assert len(list((tmp_path / "claims").iterdir())) == 1


def test_what_nobody_holds_is_swept_away(holder, tmp_path, slow_to_give_up):
    mine, others = Claims(Place(tmp_path), "claims"), Claims(Place(tmp_path), "claims")
    assert others.take("other", "someone who lives")
    mine.sweep("me")
    assert {path.name for path in (tmp_path / "claims").iterdir()} == {"work.json", "other.json"}
    holder.kill()
    holder.wait()
    mine.sweep("me")
    assert [path.name for path in (tmp_path / "claims").iterdir()] == ["other.json"]


def test_what_a_killed_process_had_just_begun_to_write_is_swept_when_it_is_old(tmp_path):
    claims, folder = Claims(Place(str(tmp_path)), "claims"), tmp_path / "claims"
    assert claims.take("work", "me")
    for name, age in (("old", 3600), ("fresh", 0)):
        (folder / f".{name}.json.part").touch()
        os.utime(folder / f".{name}.json.part", (time.time() - age,) * 2)
    claims.sweep("me")
    assert [path.name for path in folder.iterdir()] == [".fresh.json.part"]
