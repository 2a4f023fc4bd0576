"""What commands cost on many samples, many images or many classes: seconds and peak memory, each in its own process.

The images are made up: noise around one pattern per class, 8x8, grey; the network is one linear layer that knows the
patterns, so that most samples break in the first step and a command's own work is what is measured.

    python benchmarks/load/many.py [--only NAME ...] [--label TEXT] [--place FOLDER]

Adds to cost.csv beside this file.
"""

import argparse
import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
SIDE = 8
FACTORY = """
import numpy as np
import torch
from torch import nn

def network(classes):
    patterns = torch.from_numpy(np.random.default_rng(1).random((classes, 64), dtype=np.float32))
    linear = nn.Linear(64, classes)
    linear.weight.data = 8 * (patterns - patterns.mean(1, keepdim=True))
    linear.bias.data.zero_()
    return nn.Sequential(nn.Flatten(), linear)

def ten(): return network(10)
def thousand(): return network(1000)
"""
NETWORKS = {10: "patterns:ten", 1000: "patterns:thousand"}


def images(path: Path, count: int, classes: int) -> None:
    """Noise around the network's patterns, as an npz."""
    patterns = np.random.default_rng(1).random((classes, SIDE**2), dtype=np.float32)
    random = np.random.default_rng(0)
    labels = np.arange(count) % classes
    pixels = (patterns[labels] + random.normal(0, 0.15, (count, SIDE**2))).clip(0, 1)
    np.savez(path, images=(255 * pixels).round().astype(np.uint8).reshape(-1, SIDE, SIDE), labels=labels)


def run(words: Sequence[str], place: Path, stop_after: float | None = None) -> tuple[float, float, int]:
    """Seconds of processor, peak memory in MB, and status of a command; Ctrl-C after so many seconds."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])}
    with (place / "output.txt").open("w") as output:
        command = [sys.executable, "-m", "temper", *words]
        process = subprocess.Popen(command, cwd=place, env=environment, stdout=output, stderr=subprocess.STDOUT)
        if stop_after is not None:
            time.sleep(stop_after)
            os.kill(process.pid, signal.SIGINT)
        _, status, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, os.waitstatus_to_exitcode(status)


class Table:
    """Rows of cost.csv, each written as it comes."""

    def __init__(self, path: Path, label: str) -> None:
        self.path, self.label = path, label

    def add(
        self, what: str, count: int, classes: int, words: Sequence[str], place: Path, stop: float | None = None
    ) -> None:
        """Run a command and note what it cost."""
        seconds, memory, status = run(words, place, stop)
        row = {"version": self.label, "what": what, "samples": count, "classes": classes}
        row |= {"cpu_seconds": f"{seconds:.1f}", "peak_mb": f"{memory:.0f}", "status": status}
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        print(row, flush=True)
        if status not in (0, 130, 3):
            print((place / "output.txt").read_text()[-2000:], flush=True)


def measured(place: Path, table: Table, count: int, classes: int, only: Sequence[str]) -> None:
    """All commands on so many samples."""
    data, model = place / f"{count}-{classes}.npz", NETWORKS[classes]
    images(data, count, classes)
    common = ["--model", model, "--data", data.name, "--threat", "Linf:0.3"]

    def wanted(name: str) -> bool:
        return not only or name in only

    for suite in ("apgd", "fast"):
        if wanted(suite):
            words = ["evaluate", *common, "--suite", suite, "--out", suite]
            table.add(f"evaluate {suite}", count, classes, words, place)
            table.add(f"evaluate {suite}, again", count, classes, words, place)
    if wanted("fast"):
        table.add("report", count, classes, ["report", "fast", "--out", "report.html"], place)
        table.add("merge", count, classes, ["merge", "fast", "fast", "--out", "merged.parquet"], place)
    if wanted("resume"):
        words = ["evaluate", *common, "--suite", "fast", "--out", "stopped"]
        table.add("evaluate fast, Ctrl-C after 30 s", count, classes, words, place, 30)
        table.add("evaluate fast, continued", count, classes, words, place)
    if wanted("margins"):
        table.add("margins", count, classes, ["margins", *common, "--out", "margins"], place)
    if wanted("predict"):
        (place / "photos").mkdir()
        with np.load(data) as arrays:
            for number, pixels in enumerate(arrays["images"]):
                Image.fromarray(pixels).save(place / "photos" / f"{number}.png")
        words = ["predict", "photos", "--run", model, "--image-size", str(SIDE), "--csv"]
        table.add("predict", count, classes, words, place)
        shutil.rmtree(place / "photos")


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[20_000, 100_000, 200_000])
    parser.add_argument("--classes", type=int, choices=list(NETWORKS), default=10)
    parser.add_argument("--only", nargs="*", default=[], help="apgd, fast, resume, margins, predict")
    parser.add_argument("--label", default="now", help="what the rows are called")
    parser.add_argument("--place", type=Path, help="folder to work in; a temporary one by default")
    parser.add_argument("--out", type=Path, default=HERE / "cost.csv")
    options = parser.parse_args()
    table = Table(options.out, options.label)
    for count in options.counts:
        with tempfile.TemporaryDirectory(dir=options.place) as folder:
            (Path(folder) / "patterns.py").write_text(FACTORY)
            measured(Path(folder), table, count, options.classes, options.only)


if __name__ == "__main__":
    main()
