"""What it costs to say with each decision whether it is brittle: a forward pass with the score over one without.

    python benchmarks/brittleness/cost.py [--threads N]

A ResNet-20 at 32x32 and a MobileNetV2 at 224x224, random weights, batch 64, float32. Passes with and without a score
alternate in one process, in an order that goes round; a ratio is that of two passes of one round, and the median over
the rounds is reported, by the wall clock and by the process's own CPU time, which other processes disturb less. The
score is also timed alone, on logits. Takes some minutes, nearly all of them for MobileNetV2.
"""

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from temper import models
from temper.deployment.prediction import Deployed
from temper.margins.detector import BrittlenessDetector, Calibration
from temper.margins.intervals import Estimate
from temper.threat import Threat

sys.path.insert(0, str(Path(__file__).parents[1] / "epsilon_scheduling"))

BATCH, WARM_UP, ALONE = 64, 2, 500
NETWORKS = {  # MODEL, image size, rounds
    "ResNet-20, 32x32": ("backbone:resnet20", 32, 300),
    "MobileNetV2, 224x224": ("timm:mobilenetv2_100", 224, 31),
}
OUT = Path(__file__).with_name("cost.csv")

Action = Callable[[], object]
Time = tuple[float, float]


def seconds(action: Action) -> Time:
    """Wall and CPU time of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def alternate(actions: dict[str, Action], rounds: int) -> dict[str, list[Time]]:
    """Times of each action in each round; another one is first each time."""
    names = list(actions)
    times: dict[str, list[Time]] = {name: [] for name in names}
    for turn in range(rounds + WARM_UP):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken = seconds(actions[name])
            if turn >= WARM_UP:
                times[name].append(taken)
    return times


def ratios(scored: list[Time], plain: list[Time], clock: int) -> list[float]:
    """Quartiles, over rounds, of the ratio by the wall clock (0) or CPU time (1)."""
    return statistics.quantiles([one[clock] / other[clock] for one, other in zip(scored, plain, strict=True)], n=4)


@torch.no_grad()
def measure(name: str) -> list[dict[str, str | float | int]]:
    """A row per way to score: the module that is exported, and the detector of the Python interface."""
    spec, size, rounds = NETWORKS[name]
    classifier = models.load(spec, weights="none", image_size=size)
    x = torch.rand(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    logits = classifier(x)
    deployed, on_logits = Deployed(classifier, 1.0).eval(), Deployed(torch.nn.Identity(), 1.0)
    nothing = Estimate(value=0.0, low=0.0, high=1.0, n=0)
    detector = BrittlenessDetector(Threat("Linf", 8 / 255), 0.05, 1.0, Calibration(nothing, 0, 0, "margin", {}, ()))
    alone: dict[str, Action] = {
        "margin and flag": lambda: on_logits(logits),
        "detector.flag": lambda: detector.flag(logits),
    }
    actions: dict[str, Action] = {
        "plain": lambda: classifier(x),
        "margin and flag": lambda: deployed(x),
        "detector.flag": lambda: detector.flag(classifier(x)),
    }
    times = alternate(actions, rounds)
    forward = statistics.median(wall for wall, _ in times["plain"])
    rows: list[dict[str, str | float | int]] = []
    for way, action in alone.items():
        wall, cpu = (ratios(times[way], times["plain"], clock) for clock in (0, 1))
        score = statistics.median(seconds(action)[0] for _ in range(ALONE))
        rows.append(
            {
                "network": name,
                "score": way,
                "threads": torch.get_num_threads(),
                "rounds": rounds,
                "forward_ms": round(forward * 1000, 3),
                "score_us": round(score * 1e6, 1),
                "wall_ratio": round(wall[1], 4),
                "wall_ratio_low": round(wall[0], 4),
                "wall_ratio_high": round(wall[2], 4),
                "cpu_ratio": round(cpu[1], 4),
                "cpu_ratio_low": round(cpu[0], 4),
                "cpu_ratio_high": round(cpu[2], 4),
                "one_plus_score_over_forward": round(1 + score / forward, 5),
            }
        )
    return rows


def main() -> None:
    """Measure, print a table and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [row for name in NETWORKS for row in measure(name)]
    with OUT.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"batch {BATCH}, {options.threads} thread(s), medians and quartiles over rounds")
    for row in rows:
        wall, cpu = (
            f"{row[f'{clock}_ratio']:.4f} [{row[f'{clock}_ratio_low']:.4f}, {row[f'{clock}_ratio_high']:.4f}]"
            for clock in ("wall", "cpu")
        )
        print(
            f"{row['network']:21s} {row['score']:16s} forward {row['forward_ms']:8.2f} ms, score {row['score_us']:6.1f}"
            f" us, ratio: wall {wall}, CPU {cpu}, 1 + score / forward {row['one_plus_score_over_forward']:.5f}"
        )


if __name__ == "__main__":
    main()
