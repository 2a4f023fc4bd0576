"""A run and a detector for the tests of what is deployed."""

from pathlib import Path
from typing import Any

import pytest

from temper import models
from temper.margins.detector import BrittlenessDetector, Calibration
from temper.margins.intervals import Estimate
from temper.runs.finetune import finetune
from temper.threat import Threat

POOLED = """
import time
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x):
        time.sleep(0.05)
        return self.linear(x.mean((2, 3)))
"""


def detector_of(folder: Path, threshold: float) -> BrittlenessDetector:
    """A detector of a run's model with a threshold of our choice."""
    nothing = Estimate(value=0.5, low=0.4, high=0.6, n=100)
    identity = {"model": models.fingerprint(models.load(folder)), "data": "any"}
    return BrittlenessDetector(
        Threat("Linf", 8 / 255), 0.05, threshold, Calibration(nothing, 50, 0, "margin", identity, (0, 1))
    )


def trained(folder: Path) -> Path:
    """A real run of a second on 8x8 digits, into that folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        settings: dict[str, Any] = {
            "out": folder,
            "model": {"name": "tiny:network", "image_size": 8},
            "data": {"train": "digits", "train_limit": 90, "test_limit": 20, "validation_fraction": 0.02},
            "objective": {"name": "standard"},
            "evaluation": {"points": 1},
            "epochs": 2,
            "batch_size": 30,
            "accelerator": "cpu",
        }
        finetune(settings)
    return folder
