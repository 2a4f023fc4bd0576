"""Runs of a second on 8x8 digits, and what they leave."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import tiny
from temper.core.interrupt import Stopped
from temper.runs.finetune import finetune, train_only
from temper.runs.run import Run
from temper.training.config import read_config


def config(out: Path, **changes: Any) -> dict[str, Any]:
    """A run of a second: 3 epochs of 3 updates on 8x8 digits."""
    base: dict[str, Any] = {
        "out": out,
        "model": {"name": "tiny:network", "image_size": 8},
        "data": {"train": "digits", "train_limit": 90, "test_limit": 20, "validation_fraction": 0.02},
        "eps": "16/255",
        "attack": {"name": "pgd", "steps": 2},
        "schedule": {"name": "linear"},
        "evaluation": {"points": 2},
        "epochs": 3,
        "batch_size": 30,
        "accelerator": "cpu",
        "checkpoint_seconds": 0,
    }
    for key, value in changes.items():
        base[key] = base[key] | value if isinstance(base.get(key), dict) else value
    return base


def stopped_and_resumed(out: Path, **changes: Any) -> Run:
    """A run that Ctrl-C stopped in its second epoch, and that went on with ``tiny:constant``, trained to its end."""
    settings = config(out, **changes | {"schedule": {"name": "custom", "function": "tiny:interrupting"}})
    with pytest.raises(Stopped, match="--resume continues"):
        finetune(settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "interrupting", tiny.constant)
        return train_only(read_config(settings))


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "weights.safetensors")


def assert_same_weights(one: Run, other: Run) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def assert_nearly_same_training(one: Run, other: Run, atol: float = 1e-4) -> None:
    """Weights and losses are equal within the rounding of sums that were made in another order."""
    a, b = weights(one), weights(other)
    for name, tensor in a.items():
        torch.testing.assert_close(b[name], tensor, rtol=1e-3, atol=atol)
    np.testing.assert_allclose([row["loss"] for row in steps(other)], [row["loss"] for row in steps(one)], rtol=1e-3)


def steps(run: Run) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "step"]
