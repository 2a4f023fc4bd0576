"""The store: a folder or an object store, rows that appear whole, claims, foreign formats, SQL."""

import json
import subprocess
import sys
import time

import pandas as pd
import pytest

from temper.benchmark.queries import query
from temper.benchmark.store import Store
from temper.core import claims as claims_module
from temper.errors import ArgumentError, RunError, UnreachableError


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    if request.param == "local":
        return str(tmp_path / "store")
    return request.getfixturevalue("bucket")


def test_rows_are_read_as_they_were_written(place):
    store = Store(place, create=True)
    assert store.rows().empty
    assert store.finished() == set()
    store.write_run({"run": "b", "status": "done", "linf": 0.25, "seed": 3})
    store.write_run({"run": "a", "status": "failed", "error": "it's broken"})
    store.write_run({"run": "b", "status": "done", "linf": 0.5, "seed": 3})
    rows = Store(place).rows()
    assert rows["run"].tolist() == ["a", "b"]
    assert rows["linf"].tolist()[1] == 0.5
    assert rows["error"].tolist()[0] == "it's broken"
    assert pd.isna(rows["linf"][0])
    store.remove_run("a")
    assert store.finished() == {"b"}


def test_a_place_without_a_store_or_with_another_format_is_told(place):
    with pytest.raises(RunError, match="holds no benchmark results"):
        Store(place)
    store = Store(place, create=True)
    store._files.write("store.json", json.dumps({"format": 7, "temper": "9.9"}).encode())
    with pytest.raises(RunError, match=r"written in format 7 by Temper 9\.9.*reads 1; use that version"):
        Store(place, create=True)


def test_a_kind_of_url_that_nobody_reads_is_told():
    with pytest.raises(ArgumentError, match=r"store = 'gopher://x'"):
        Store("gopher://x")


@pytest.mark.parametrize("url", ["s3://KEY:hunter2@bucket/x", "https://KEY:hunter2@example.org/x"])
def test_a_secret_in_a_url_is_refused_and_not_shown(url):
    with pytest.raises(ArgumentError, match=r"\*\*\*@.*leave user name and password out") as told:
        Store(url)
    assert "hunter2" not in str(told.value)
    assert "KEY:" not in str(told.value)
    assert "\n" not in str(told.value)


def test_an_object_store_that_cannot_be_used_is_told_in_one_line(s3_server, monkeypatch):
    with pytest.raises(ArgumentError, match="names no bucket"):
        Store("s3://")
    with pytest.raises((RunError, UnreachableError), match=r"s3://no-such-bucket-here/x: .*bucket") as told:
        Store("s3://no-such-bucket-here/x", create=True)
    assert "\n" not in str(told.value)
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UnreachableError, match=r"s3://bucket/x: .*credentials") as told:
        Store("s3://bucket/x")
    assert "\n" not in str(told.value)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("header", [b"", b"\x00", b"\xff\xfe", b"[]", b"3", b"{}"])
def test_a_damaged_header_is_told(tmp_path, header):
    (tmp_path / "store.json").write_bytes(header)
    with pytest.raises(RunError, match="is no store of benchmark results"):
        Store(tmp_path, create=True)


def test_a_claim_is_held_by_one_and_taken_over_when_stale(place, monkeypatch):
    store = Store(place, create=True)
    assert store.claim("run", "one")
    assert not store.claim("run", "two")
    assert store.claim("run", "one")  # a retry of the same driver
    monkeypatch.setattr(claims_module, "STALE_SECONDS", 0.0)
    time.sleep(0.01)
    assert store.claim("run", "two")
    store.release("run", "two")
    store.release("run", "two")
    assert store.claim("run", "three")


def test_a_claim_is_kept_fresh_while_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(claims_module, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(claims_module, "STALE_SECONDS", 0.5)
    store = Store(tmp_path, create=True)
    with store.claimed("run", "one") as mine:
        time.sleep(0.8)
        assert mine
        assert not store.claim("run", "two")
    assert store.claim("run", "two")


def test_work_travels_through_an_object_store(s3_server, tmp_path):
    import s3fs

    s3fs.S3FileSystem().mkdir("travel")
    store, here, there = Store("s3://travel/results", create=True), tmp_path / "here", tmp_path / "there"
    (here / "checkpoints" / "epoch-1").mkdir(parents=True)
    (here / "checkpoints" / "epoch-1" / "model").write_bytes(b"one")
    (here / "checkpoints" / ".unfinished.part").write_bytes(b"no")
    store.push("w", here)
    (here / "checkpoints" / "epoch-1" / "model").unlink()
    (here / "checkpoints" / "epoch-1").rmdir()
    (here / "checkpoints" / "epoch-2").mkdir()
    (here / "checkpoints" / "epoch-2" / "model").write_bytes(b"two")
    store.push("w", here)
    store.pull("w", there)
    found = {str(path.relative_to(there)): path.read_bytes() for path in there.rglob("*") if path.is_file()}
    assert found == {"checkpoints/epoch-2/model": b"two"}


def test_sql_reads_results_and_nothing_else(place, tmp_path):
    store = Store(place, create=True)
    for name, linf in (("a1", 0.25), ("b2", 0.5)):
        store.write_run({"run": name, "status": "done", "backbone": "x", "linf": linf})
        frame = pd.DataFrame({"sample": [1, 2], "upper": [0.1, 0.2]})
        frame.to_parquet(tmp_path / "margins.parquet")
        store.write_evidence("margins", f"{name}-fast", tmp_path / "margins.parquet")
    assert query(store, "SELECT avg(linf) AS mean FROM results")["mean"].tolist() == [0.375]
    joined = query(store, "SELECT run, count(*) AS n FROM margins JOIN results USING (run) GROUP BY run ORDER BY run")
    assert joined.to_dict("list") == {"run": ["a1", "b2"], "n": [2, 2]}
    with pytest.raises(ArgumentError, match=r"SQL = .*lnf.*tables: results, margins"):
        query(store, "SELECT lnf FROM results")
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with pytest.raises(ArgumentError, match="SQL"):
        query(store, f"SELECT * FROM read_csv('{tmp_path / 'secret.csv'}')")


@pytest.mark.slow
def test_of_two_processes_one_gets_the_claim(tmp_path):
    Store(tmp_path, create=True)
    code = (
        "import sys; from temper.benchmark.store import Store;"
        "print(sum(Store(sys.argv[1]).claim(f'run{k}', sys.argv[2]) for k in range(50)), flush=True);"
        "sys.stdin.read()"  # lives on: what a process held that ended is anyone's
    )
    calls = [[sys.executable, "-c", code, str(tmp_path), name] for name in ("one", "two")]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(call, stdin=pipe, stdout=pipe, text=True) for call in calls]
    taken = [int(process.stdout.readline()) for process in processes]
    for process in processes:
        process.communicate(timeout=60)
    assert sum(taken) == 50
