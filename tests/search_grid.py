"""A grid whose runs search for hyper-parameters, for the tests of that search."""

from bench_grid import TINY, tiny
from temper.benchmark.grid import cells
from temper.benchmark.search import searched
from temper.benchmark.spec import read_spec
from temper.benchmark.store import Store

TRIALS = 4
DIGITS = TINY["datasets"]["digits"] | {"train_limit": 80, "validation_fraction": 0.04, "split_seed": 0}
FINETUNE = TINY["finetune"] | {"eps": "2/255"}
FULL = {"full": {"protocol": {"name": "full"}, "epochs": 2}}


def grid(trials=TRIALS, **changes):
    settings = {"datasets": {"digits": DIGITS}, "protocols": FULL, "schedules": ["fixed"], "finetune": FINETUNE}
    return cells(read_spec(tiny(**settings | {"hyperparameters": {"trials": trials}} | changes)))


def carried_out(cell, folder):
    store = Store(folder, create=True)
    return store, searched(cell, store, folder / "work" / cell.training)
