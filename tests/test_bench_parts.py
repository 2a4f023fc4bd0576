"""Parts of a store: many runs in few files. They change nothing but the time it takes, whatever happens to them."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.benchmark import parts as parts_module
from temper.benchmark.queries import query
from temper.benchmark.store import Store
from temper.core.places import Place
from temper.errors import ArgumentError, TemperWarning

DAMAGE = {"empty": b"", "zeros": b"\x00" * 300, "text": b"PAR1 no such thing", "short": None}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts_module, "SIZE", 4)


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path):
    return Store(str(tmp_path / "s") if request.param == "local" else f"memory://{uuid.uuid4().hex}", create=True)


@pytest.fixture(params=["local", "s3"])
def shared(request, tmp_path):
    """A place that several stores may be opened at."""
    return str(tmp_path / "s") if request.param == "local" else request.getfixturevalue("bucket")


def names(count):
    return [f"{number:04x}" for number in range(count)]


def fill(store, count, value=0.0):
    for name in names(count):
        store.write_run({"run": name, "status": "done", "error": "", "linf": value})


def part_names(store):
    return sorted(name for name in store._files.stamps("parts") if not name.startswith("."))


def damage(store, name, kind):
    content = DAMAGE[kind]
    store._files.write(name, store._files.read(name)[:-20] if content is None else content)


def test_many_rows_lie_in_few_files_and_are_the_same(store):
    fill(store, 11)
    before = pd.concat([pd.DataFrame([{"run": n, "status": "done", "error": "", "linf": 0.0}]) for n in names(11)])
    assert store.rows().to_dict("records") == before.to_dict("records")
    contents = store.parts["runs"].look()
    assert sum(len(part.sources) for part in contents.parts) >= 8
    assert len(contents.loose) < 4
    assert store.rows().to_dict("records") == before.to_dict("records")
    assert store.rows(["run", "linf", "none"]).columns.tolist() == ["run", "linf"]
    assert store.finished() == set(names(11))


def test_a_row_that_changes_or_goes_is_seen_at_once(store):
    fill(store, 9)
    store.rows()
    store.write_run({"run": "0001", "status": "failed", "error": "new", "linf": 0.5})
    store.remove_run("0006")
    for _ in range(2):  # before and after the parts are made anew
        rows = store.rows().set_index("run")
        assert len(rows) == 8
        assert rows.loc["0001", "error"] == "new"
        assert "0006" not in rows.index
        store.parts["runs"].compact()
    assert len(part_names(store)) == len(store.parts["runs"].look().parts) == 2  # what holds no more is removed


OPERATION = st.tuples(
    st.sampled_from(["write", "remove", "compact", "harm", "copy"]), st.integers(0, 9), st.integers(0, 3)
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.lists(OPERATION, max_size=40))
def test_no_order_of_events_loses_or_doubles_a_row(operations):
    store, expected = Store(f"memory://{uuid.uuid4().hex}", create=True), {}
    for what, number, value in operations:
        name, there = f"{number:04x}", part_names(store)
        if what == "write":
            # Of another length with each value, as the stamps of this file system know nothing else at one moment.
            store.write_run({"run": name, "status": "done", "text": "x" * 50 * value + str(value)})
            expected[name] = "x" * 50 * value + str(value)
        elif what == "remove":
            store.remove_run(name)
            expected.pop(name, None)
        elif what == "compact":
            store.parts["runs"].compact()
        elif there and what == "harm":
            damage(store, f"parts/{there[number % len(there)]}", list(DAMAGE)[value])
        elif there and what == "copy":  # two processes made the same part
            twice = store._files.read(f"parts/{there[number % len(there)]}")
            store._files.write(f"parts/runs-{number:016x}.parquet", twice)
        rows = store.rows()
        found = dict(zip(rows["run"], rows["text"], strict=True)) if expected else {}
        assert found == expected
        assert len(rows) == len(expected)


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("compact", [True, False])
def test_a_damaged_row_counts_as_not_done(store, kind, compact):
    fill(store, 6)
    if compact:
        store.parts["runs"].compact()
    damage(store, "runs/0002.parquet", kind)
    with pytest.warns(TemperWarning, match=r"runs/0002\.parquet: damaged .*counts as not done"):
        assert store.finished() == set(names(6)) - {"0002"}
    with pytest.warns(TemperWarning, match="damaged"):
        assert not store.has_run("0002")
    with pytest.warns(TemperWarning, match="damaged"):
        assert query(store, "SELECT count(*) AS n FROM results")["n"].tolist() == [5]
    store.write_run({"run": "0002", "status": "done", "error": "", "linf": 1.0})
    assert store.finished() == set(names(6))
    assert store.has_run("0002")
    assert not store.has_run("9999")


def test_a_file_without_a_row_is_no_row(store, tmp_path):
    fill(store, 2)
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "x.parquet")
    store.write_evidence("runs", "0000", tmp_path / "x.parquet")
    with pytest.warns(TemperWarning, match="no result row"):
        assert store.finished() == {"0001"}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_evidence_is_left_out_of_a_query_and_told(store, tmp_path, kind):
    for name in names(5):
        pd.DataFrame({"sample": [1, 2], "upper": [0.1, 0.2]}).to_parquet(tmp_path / "m.parquet")
        store.write_evidence("margins", f"{name}-fast", tmp_path / "m.parquet")
    damage(store, "margins/0003-fast.parquet", kind)
    with pytest.warns(TemperWarning, match=r"margins/0003-fast\.parquet: damaged"):
        found = query(store, "SELECT run, count(*) AS n FROM margins GROUP BY run ORDER BY run")
    assert found["run"].tolist() == ["0000", "0001", "0002", "0004"]
    assert set(found["n"]) == {2}


def test_a_store_that_may_only_be_read_is_read(store, monkeypatch):
    fill(store, 9)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Place, "write", refuse)
    monkeypatch.setattr(Place, "create", refuse)
    for name in part_names(store):
        store._files.remove(f"parts/{name}")
    assert len(store.rows()) == 9
    assert query(store, "SELECT count(*) AS n FROM results")["n"].tolist() == [9]
    assert not part_names(store)


def test_columns_of_two_types_become_text(store):
    store.write_run({"run": "a", "status": "done", "depth": 3, "part": 1})
    store.write_run({"run": "b", "status": "done", "depth": "deep", "part": 0.5})
    store.write_run({"run": "c", "status": "done", "depth": None})
    rows = store.rows()
    assert rows["depth"].tolist()[:2] == ["3", "deep"]
    assert rows["part"].tolist()[:2] == [1.0, 0.5]
    assert query(store, "SELECT depth FROM results ORDER BY run")["depth"].tolist()[:2] == ["3", "deep"]


@pytest.mark.parametrize("name", ["plain", "it's [1] here?", "*", "[ab]", "a, b; --"])
def test_a_store_in_a_folder_of_any_name_is_queried(tmp_path, name):
    others = [Store(tmp_path / other, create=True) for other in ("a", "it's 1 here1")]  # what patterns would match
    own = Store(tmp_path / name, create=True)
    for store, count in (*((other, 5) for other in others), (own, 9)):
        fill(store, count)
        store.compact("runs")
    assert query(own, "SELECT count(*) AS n FROM results")["n"].tolist() == [9]
    with pytest.raises(ArgumentError, match="SQL"):
        query(own, f"SELECT * FROM read_parquet('{tmp_path}/a/runs/0000.parquet'), results")


LOOP = (
    "import sys; from temper.benchmark import parts; parts.SIZE = 4; from temper.benchmark.store import Store\n"
    "store = Store(sys.argv[1]); print('ready', flush=True)\n"
    "while True:\n"
    "    for name in store._files.stamps('parts'): store._files.remove(f'parts/{name}')\n"
    "    store.parts['runs'].compact()"
)


@pytest.mark.slow
def test_compaction_that_is_killed_loses_and_doubles_nothing(tmp_path):
    store, random = Store(tmp_path, create=True), np.random.default_rng(0)
    fill(store, 21)
    processes = [
        subprocess.Popen([sys.executable, "-c", LOOP, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # first four at once, then fewer
        time.sleep(random.uniform(0.02, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert store.rows()["run"].tolist() == names(21)
    store.parts["runs"].compact()
    assert store.rows()["run"].tolist() == names(21)


@pytest.mark.slow
def test_workers_write_while_others_compact_and_read(shared):
    store, done, failed = Store(shared, create=True), threading.Event(), []

    def compact():
        own = Store(shared)
        while not done.is_set():
            try:
                own.parts["runs"].compact()
            except Exception as error:
                failed.append(error)
                raise

    others = [threading.Thread(target=compact) for _ in range(2 if store.folder else 1)]
    for other in others:
        other.start()
    try:
        rounds, step = (3, 1) if store.folder else (2, 6)  # each look at an object store is many requests
        for round_ in range(rounds):
            for count, name in enumerate(names(12)):
                store.write_run({"run": name, "status": "done", "error": "", "linf": float(round_)})
                if (count + 1) % step:
                    continue
                rows = store.rows()
                assert rows["run"].is_unique
                assert len(rows) == (count + 1 if round_ == 0 else 12)
                assert rows.set_index("run").loc[name, "linf"] == round_
                asked = query(store, "SELECT run, linf FROM results")
                assert sorted(asked["run"]) == rows["run"].tolist()
    finally:
        done.set()
        for other in others:
            other.join()
    assert not failed
    store.parts["runs"].compact()
    contents = store.parts["runs"].look()
    assert len(contents.parts) == 3
    assert not contents.loose


REFUSED = [
    "DELETE FROM results",
    "UPDATE results SET linf = 1",
    "INSERT INTO results VALUES (1)",
    "DROP VIEW results",
    "CREATE TABLE x AS SELECT 1",
    "COPY results TO '{out}'",
    "COPY (SELECT 1) TO '{out}'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}'",
    "EXPORT DATABASE '{out}'",
    "ATTACH '{out}'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access=true",
    "PRAGMA database_list",
    "SELECT 1; DELETE FROM results",
    "SELECT 1; SELECT 2",
]


@pytest.mark.parametrize("sql", REFUSED)
def test_sql_changes_nothing(store, tmp_path, sql):
    fill(store, 2)
    with pytest.raises(ArgumentError, match=r"SQL = .*only reads results: write one SELECT"):
        query(store, sql.format(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM '/etc/passwd'",
        "WITH gone AS (DELETE FROM results RETURNING *) SELECT * FROM gone",
        "SELECT * FROM read_parquet('runs/*.parquet')",
    ],
)
def test_sql_reads_no_other_file(store, sql):
    fill(store, 2)
    with pytest.raises(ArgumentError, match="SQL"):
        query(store, sql)


@pytest.mark.parametrize("sql", ["", " ", ";", "-- nothing"])
def test_empty_sql_is_told_in_one_line(store, sql):
    with pytest.raises(ArgumentError, match="is empty; write a SELECT on results, margins, corruptions") as told:
        query(store, sql)
    assert "\n" not in str(told.value)


def test_a_limit_ends_an_answer_that_would_not(store):
    fill(store, 3)
    assert len(query(store, "SELECT * FROM results", limit=2)) == 2
    assert len(query(store, "SELECT * FROM results ORDER BY run DESC -- all", limit=9)) == 3
    endless = "SELECT range FROM range(10000000000000)"
    assert len(query(store, endless, limit=5)) == 5
    with pytest.raises(ArgumentError, match="limit = 0"):
        query(store, "SELECT 1", limit=0)


def test_ctrl_c_stops_an_endless_query(store):
    presser = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    presser.start()
    with pytest.raises(KeyboardInterrupt):
        query(store, "SELECT count(*) FROM range(10000000000000) WHERE random() > 2")
    presser.join()
