"""A grid of tiny real runs on digits, and tasks of no work at all, for the tests of the benchmark."""

import os
import signal
import time
from typing import Any

TINY: dict[str, Any] = {
    "backbones": ["bundled"],
    "datasets": {"digits": {"train": "digits", "train_limit": 96, "test_limit": 24, "augmentation": "none"}},
    "objectives": ["at"],
    "schedules": ["fixed", "hinge"],
    "protocols": {"linear": {"protocol": {"name": "linear"}, "epochs": 2}},
    "seeds": [0],
    "finetune": {
        "eps": "8/255",
        "attack": {"name": "pgd", "steps": 1},
        "precision": "fp32",
        "accelerator": "cpu",
        "batch_size": 32,
    },
    "measure": {
        "threats": {"linf": "Linf:8/255"},
        "suite": "apgd",
        "points": 1,
        "tau": 0,
        "corruptions": False,
        "limit": 12,
    },
}


def tiny(**changes: Any) -> dict[str, Any]:
    """The grid with some of its keys changed."""
    return TINY | changes


def suicide(cell: Any) -> Any:
    """A task that kills its worker; here, so that workers need not import a whole file of tests."""
    os.kill(os.getpid(), signal.SIGKILL)


def seen_gpu(cell: object) -> str:
    """A task that tells which GPU it sees, slowly enough that every worker gets one."""
    time.sleep(0.3)
    return os.environ["CUDA_VISIBLE_DEVICES"]


def at_once(cell: Any) -> Any:
    """A task that is done at once."""
    return "done"
