"""The command evaluate in a folder with a module of networks and images that they are right about."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from temper.cli import main as cli

FACTORY = """
import torch
from torch import nn

print("loading a module that prints")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(3 * 32 * 32, 10)

    def forward(self, x):
        return self.linear(x.flatten(1) - 0.5)

class Soft(Net):
    def forward(self, x):
        return super().forward(x).softmax(1)

class Slow(Net):
    def forward(self, x):
        import time
        time.sleep(0.02)
        return super().forward(x)
"""


def call(*words: object) -> int:
    return cli.main(["evaluate", *map(str, words)])


def usual(*more: object, data: str = "some.npz", model: str = "bundled", out: str = "out") -> list[object]:
    return ["--model", model, "--data", data, "--threat", "Linf:1/255,4/255", "--out", out, *more]


def refusal(capsys, *words: object, status: int = 2) -> str:
    assert call(*words) == status
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out.replace("loading a module that prints\n", "") == ""
    assert len(lines) == 1
    assert lines[0].startswith("temper: error: ")
    return lines[0]


def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module of factories, and images that its networks are right about."""
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(FACTORY)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = nn.Linear(3 * 32 * 32, 10)
    logits = linear(torch.from_numpy(images).permute(0, 3, 1, 2).flatten(1) / 255 - 0.5)
    np.savez("some.npz", images=images, labels=logits.argmax(1).numpy())
    return tmp_path
