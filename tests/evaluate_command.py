"""The command evaluate in a folder with a module of networks and images that they are right about."""

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
