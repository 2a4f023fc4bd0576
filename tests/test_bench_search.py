"""The search of hyper-parameters: as many real trials as asked for, resumable, on validation data, found once."""

import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench_grid import TINY
from search_grid import DIGITS, FINETUNE, TRIALS, carried_out, grid
from temper.benchmark import search as module
from temper.benchmark.running import execute
from temper.benchmark.search import search_name, searched
from temper.benchmark.store import Store
from temper.core import claims
from temper.core.interrupt import Stopped
from temper.errors import MissingExtraError, NonFiniteLossError
from temper.training.splits import splits_of


def noted(store, cell):
    return store.noted("searches", search_name(cell))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A search without a break: its cell, store and result."""
    (cell,) = grid()
    store, config = carried_out(cell, tmp_path_factory.mktemp("reference"))
    return cell, store, config


@pytest.fixture
def counting(monkeypatch):
    """The optimisers that trials trained with, in turn."""
    seen = []
    real = module.train

    def train(fabric, task, classifier, within=None):
        seen.append(task.config.optimiser)
        real(fabric, task, classifier, within)

    monkeypatch.setattr(module, "train", train)
    return seen


@pytest.mark.slow
def test_as_many_trials_as_asked_for_and_the_best_is_used(reference):
    cell, store, config = reference
    result = noted(store, cell)
    trials = result["trials"]
    assert [trial["number"] for trial in trials] == list(range(TRIALS))
    ends = {"complete": {"1", "2"}, "pruned": {"1"}}
    assert all(trial["epochs"].keys() == ends[trial["state"]] for trial in trials)
    assert all(trial["value"] == list(trial["epochs"].values())[-1] for trial in trials)
    best = max((trial for trial in trials if trial["state"] == "complete"), key=lambda trial: trial["value"])
    assert result["best"] == best["params"]
    assert result["value"] == best["value"] > 0
    assert config.optimiser.model_dump(include=set(best["params"])) == best["params"]
    assert config == cell.config.model_copy(update={"optimiser": config.optimiser})


@pytest.mark.slow
def test_proposals_are_distinct_and_within_the_space(reference):
    cell, store, _ = reference
    params = [trial["params"] for trial in noted(store, cell)["trials"]]
    for name, (low, high) in {"lr": (1e-6, 1e-1), "weight_decay": (1e-6, 1e-2)}.items():
        for part in ("backbone", "head"):
            values = [each[f"{part}_{name}"] for each in params]
            assert len(set(values)) == TRIALS
            assert all(low <= value <= high for value in values)
    assert {each["lr_schedule"] for each in params} <= {"cosine", "constant"}


@pytest.mark.slow
def test_asha_stops_who_is_not_among_the_better_half_after_the_first_epoch(monkeypatch, tmp_path):
    values = iter([0.5, 0.1, 0.3, 0.6, 0.2, 0.4])
    monkeypatch.setattr(module, "accuracies", lambda *_, **__: (next(values),) * 2)
    (cell,) = grid(trials=4)
    store, _ = carried_out(cell, tmp_path)
    trials = noted(store, cell)["trials"]
    assert [trial["state"] for trial in trials] == ["complete", "pruned", "complete", "pruned"]
    assert [trial["epochs"] for trial in trials] == [{"1": 0.5, "2": 0.1}, {"1": 0.3}, {"1": 0.6, "2": 0.2}, {"1": 0.4}]
    assert noted(store, cell)["best"] == trials[2]["params"]  # of those that trained to the end


@pytest.mark.slow
def test_only_the_result_stays(reference):
    _, store, _ = reference
    assert not list((store.folder / "work").iterdir())
    assert not list((store.folder / "claims").iterdir())


@pytest.mark.slow
def test_a_known_result_is_used_without_training(reference, monkeypatch):
    cell, store, config = reference
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("it trained again"))
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert searched(cell, store, store.folder / "work" / "other") == config


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["error", "signal"])
def test_a_search_that_was_stopped_ends_as_one_that_was_not(reference, monkeypatch, tmp_path, counting, stop):
    """It is stopped after the third trial's first epoch: as a bug would, and as Ctrl-C does."""
    cell, store, config = reference
    calls, real = itertools.count(1), module.accuracies
    third = sum(len(trial["epochs"]) for trial in noted(store, cell)["trials"][:2]) + 1

    def stopping(*args, **options):
        if next(calls) == third:
            if stop == "error":
                raise ZeroDivisionError
            signal.raise_signal(signal.SIGINT)
        return real(*args, **options)

    monkeypatch.setattr(module, "accuracies", stopping)
    with pytest.raises(ZeroDivisionError if stop == "error" else Stopped):
        carried_out(cell, tmp_path)
    assert len(counting) == 3
    found, again = carried_out(cell, tmp_path)
    assert noted(found, cell) == noted(store, cell)
    assert again == config
    # Repeated is the trial that it was in, unless that one ended with the epoch.
    ended = stop == "signal" and noted(store, cell)["trials"][2]["state"] == "pruned"
    assert len(counting) == TRIALS + (0 if ended else 1)


KILLED = """
import itertools, os, signal, sys
from pathlib import Path
from types import SimpleNamespace
from temper.benchmark import search
from temper.benchmark.store import Store
sys.path.insert(0, sys.argv[2])
from bench_grid import TINY
from search_grid import grid
calls, real = itertools.count(1), search.accuracies
def dying(*args, **options):
    if next(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **options)
search.accuracies = dying
(cell,) = grid()
search.searched(cell, Store(sys.argv[1], create=True), Path(sys.argv[1]) / "work" / cell.training)
"""


@pytest.mark.slow
def test_a_search_that_was_killed_ends_as_one_that_was_not(reference, monkeypatch, tmp_path):
    cell, store, config = reference
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path, Path(__file__).parent], timeout=100, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "work" / f"search-{search_name(cell)}" / module.JOURNAL).exists()
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.0)  # the dead process's claim
    found, again = carried_out(cell, tmp_path)
    assert noted(found, cell) == noted(store, cell)
    assert again == config


@pytest.mark.slow
def test_another_process_waits_for_the_result(reference, monkeypatch, tmp_path):
    cell, known, config = reference
    store, name = Store(tmp_path, create=True), search_name(cell)
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("two searched"))
    monkeypatch.setattr(module, "POLL_SECONDS", 0.05)
    found = []
    with store.claimed(f"search-{name}", "another") as held:
        assert held
        waiting = threading.Thread(target=lambda: found.append(searched(cell, store, tmp_path / "work" / "x")))
        waiting.start()
        time.sleep(0.2)
        assert waiting.is_alive()
        store.note("searches", name, noted(known, cell))
    waiting.join(10)
    assert found == [config]


@pytest.mark.slow
def test_who_waits_heeds_ctrl_c(reference, monkeypatch, tmp_path):
    cell = reference[0]
    store = Store(tmp_path, create=True)
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda _: signal.raise_signal(signal.SIGINT)))
    with store.claimed(f"search-{search_name(cell)}", "another"), pytest.raises(Stopped, match="stopped"):
        searched(cell, store, tmp_path / "work" / "x")


def names(**changes):
    return {search_name(cell) for cell in grid(**changes)}


def test_cells_share_a_search_unless_it_would_end_otherwise(monkeypatch):
    one = names()
    assert names(schedules=["fixed", "hinge"], seeds=[0, 1, 2]) == one
    assert names(finetune=FINETUNE | {"optimiser": {"head_lr": 0.5}}) == one
    assert names(measure={"suite": "fast"}) == one
    for change in (
        {"objectives": ["trades"]},
        {"datasets": {"digits": DIGITS | {"split_seed": 1}}},
        {"protocols": {"full": {"protocol": {"name": "full"}, "epochs": 3}}},
        {"finetune": FINETUNE | {"optimiser": {"warmup": 0.0}}},
        {"hyperparameters": {"trials": TRIALS, "seed": 1}},
        {"hyperparameters": {"trials": TRIALS, "robust_weight": 1.0}},
    ):
        assert not names(**change) & one, change
    assert len(names(objectives=["at", "trades", "standard"])) == 3


def test_seeds_whose_test_data_differ_share_no_search():
    """Where the seed says which samples are held out, another seed's search would train on this one's test data."""
    assert len(names(datasets={"digits": DIGITS | {"split_seed": None}}, seeds=[0, 1])) == 2


@pytest.mark.slow
def test_test_data_are_never_looked_at(monkeypatch, tmp_path, reference):
    cell, store, _ = reference

    class Untouchable:
        def __getattr__(self, name):
            pytest.fail(f"test data: {name}")

    def without_test(config):
        splits = splits_of(config)
        object.__setattr__(splits, "test", Untouchable())
        return splits

    monkeypatch.setattr(module, "splits_of", without_test)
    found, _ = carried_out(cell, tmp_path)
    assert noted(found, cell) == noted(store, cell)


@pytest.mark.slow
def test_searches_start_from_different_points(tmp_path, counting, monkeypatch):
    monkeypatch.setattr(module, "accuracies", lambda *_, **__: (0.5, 0.5))
    for number, change in enumerate(({}, {"objectives": ["standard"]}, {"hyperparameters": {"trials": 1, "seed": 1}})):
        (cell,) = grid(trials=1, **change)
        carried_out(cell, tmp_path / str(number))
    for part in ("backbone_lr", "head_lr", "backbone_weight_decay", "head_weight_decay"):
        assert len({getattr(optimiser, part) for optimiser in counting}) == 3


@pytest.mark.slow
def test_a_trial_that_diverges_is_one_trial_of_value_zero(monkeypatch, tmp_path, reference):
    cell, store, _ = reference
    calls, real = itertools.count(), module.train

    def diverging(*args):
        real(*args)
        if next(calls) == 0:
            raise NonFiniteLossError("loss is nan")

    monkeypatch.setattr(module, "train", diverging)
    found, _ = carried_out(cell, tmp_path)
    (first, *others), known = noted(found, cell)["trials"], noted(store, cell)["trials"]
    assert (first["state"], first["value"]) == ("diverged", 0.0)
    assert others == known[1:]
    assert noted(found, cell)["best"] != first["params"]


def test_a_search_whose_every_trial_diverges_ends(monkeypatch, tmp_path):
    """The only update of the first epoch leaves weights that no logits come of: no epoch ended."""
    monkeypatch.setattr(module, "LEARNING_RATES", (1e30, 1e31))
    (cell,) = grid(trials=2, finetune=FINETUNE | {"batch_size": 80})
    store, _ = carried_out(cell, tmp_path)
    trials = noted(store, cell)["trials"]
    assert [trial["state"] for trial in trials] == ["diverged", "diverged"]
    assert [trial["epochs"] for trial in trials] == [{}] * 2
    assert noted(store, cell)["value"] == 0.0


@pytest.mark.slow
def test_a_stopped_trial_is_better_than_none_but_diverged_ones(monkeypatch, tmp_path):
    """The first trial leads, and diverges at the end; the second was stopped because the first led."""
    values = iter([0.9, 0.9, 0.3])
    monkeypatch.setattr(module, "accuracies", lambda *_, **__: (next(values),) * 2)
    calls, real = itertools.count(), module.train

    def diverging(*args):
        real(*args)
        if next(calls) == 0:
            raise NonFiniteLossError("loss is nan")

    monkeypatch.setattr(module, "train", diverging)
    (cell,) = grid(trials=2)
    store, _ = carried_out(cell, tmp_path)
    result = noted(store, cell)
    assert [trial["state"] for trial in result["trials"]] == ["diverged", "pruned"]
    assert result["best"] == result["trials"][1]["params"]
    assert result["value"] == 0.3


@pytest.mark.slow
@pytest.mark.parametrize("weight, value", [(0.0, 0.8), (0.25, 0.7), (1.0, 0.4)])
def test_what_is_maximised_weighs_clean_and_robust_accuracy(monkeypatch, tmp_path, weight, value):
    monkeypatch.setattr(module, "accuracies", lambda *_, **__: (0.8, 0.4))
    (cell,) = grid(hyperparameters={"trials": 1, "robust_weight": weight})
    store, _ = carried_out(cell, tmp_path)
    assert noted(store, cell)["value"] == pytest.approx(value)


def test_a_linear_protocol_searches_the_head_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "accuracies", lambda *_, **__: (0.5, 0.5))
    (cell,) = grid(trials=1, protocols=TINY["protocols"])
    store, config = carried_out(cell, tmp_path)
    assert noted(store, cell)["best"].keys() == {"head_lr", "head_weight_decay", "lr_schedule"}
    assert config.optimiser.backbone_lr == cell.config.optimiser.backbone_lr
    assert config.optimiser.head_lr != cell.config.optimiser.head_lr


@pytest.mark.slow
def test_a_run_trains_with_what_was_found(reference, tmp_path):
    cell, known, config = reference
    store = Store(tmp_path, create=True)
    store.note("searches", search_name(cell), noted(known, cell))
    assert execute(cell, store, "me") == "done"
    (path,) = tmp_path.glob("work/*/training/config.yaml")
    assert f"head_lr: {config.optimiser.head_lr}" in path.read_text()


@pytest.mark.slow
def test_a_store_elsewhere_gets_every_ended_trial_and_nothing_in_the_end(tmp_path, monkeypatch):
    """An interrupted search goes on where nothing of its work folder is but what the store got."""
    (cell,) = grid(trials=2)
    store = Store("memory://search", create=True)
    monkeypatch.setattr(module, "accuracies", lambda *_, **__: (0.5, 0.5))
    calls, real = itertools.count(), module.train

    def dying(*args):
        if next(calls) == 1:
            raise ZeroDivisionError
        real(*args)

    monkeypatch.setattr(module, "train", dying)
    with pytest.raises(ZeroDivisionError):
        searched(cell, store, tmp_path / "here" / cell.training)
    kept = {path.rpartition("/")[2] for path in store._fs.find("/search/work")}
    assert kept == {module.JOURNAL}
    searched(cell, store, tmp_path / "there" / cell.training)
    assert next(calls) == 3
    assert len(noted(store, cell)["trials"]) == 2
    assert not store._fs.find("/search/work")


def test_without_optuna_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setitem(sys.modules, "optuna.samplers", None)
    (cell,) = grid()
    with pytest.raises(MissingExtraError, match=r"a search of hyper-parameters needs .*temper-robust\[search\]"):
        carried_out(cell, tmp_path)


@pytest.mark.slow
def test_it_is_quiet_but_for_a_line_per_trial(reference, tmp_path, monkeypatch, capfd, caplog, recwarn):
    monkeypatch.setattr(module, "accuracies", lambda *_, **__: (0.5, 0.5))
    (cell,) = grid(trials=2)
    with caplog.at_level("INFO", "temper.benchmark.search"):
        carried_out(cell, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert [record.message.partition(", ")[2] for record in caplog.records if record.name == module.__name__] == [
        "trial 1/2: complete at 0.500", "trial 2/2: complete at 0.500",
    ]  # fmt: skip
    assert not [warning for warning in recwarn if "optuna" in str(warning.filename)]
    json.dumps(noted(Store(tmp_path), cell), allow_nan=False)
