"""What a store of 5,000 runs costs to read: processor seconds and peak memory of the commands, each in its own process.

The store is made up: rows as a run leaves them (factors, five metrics with their intervals, configuration, history),
evidence on 100 samples in three norms, and corruptions of 100 samples, one Parquet file per run and kind.

    python benchmarks/bench_store/read_store.py [--runs N] [--samples N] [--label TEXT] [--place FOLDER]
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from temper.benchmark.grid import Cell, cells
from temper.benchmark.spec import read_spec
from temper.benchmark.store import Store

METRICS = ("clean", "linf", "l2", "l1", "expected", "common", "tau")
QUERIES = {
    "query results": "SELECT backbone, avg(linf) FROM results GROUP BY 1",
    "query margins": "SELECT suite, norm, avg(upper) FROM margins GROUP BY ALL",
    "query joined": "SELECT backbone, avg(survived) FROM margins JOIN results USING (run) GROUP BY 1",
}


def spec(runs: int) -> dict[str, Any]:
    """A grid of two objectives and two schedules over as many seeds as it takes."""
    return {
        "backbones": ["bundled"],
        "datasets": {"digits": {"train": "digits"}},
        "objectives": ["at", "trades"],
        "schedules": ["fixed", "hinge"],
        "protocols": {"linear": {"protocol": {"name": "linear"}, "epochs": 50}},
        "seeds": list(range(runs // 4)),
    }


def row(cell: Cell, random: np.random.Generator) -> dict[str, Any]:
    """A result row as a run writes it."""
    metrics: dict[str, Any] = {}
    for name in METRICS:
        value = float(random.uniform())
        metrics |= {name: value, f"{name}_low": value, f"{name}_high": value, f"{name}_n": 100, f"{name}_unknown": 0.0}
    history = [{"epoch": epoch, "loss": float(random.uniform()), "seconds": 1.5} for epoch in range(50)]
    facts = {"train_n": 1400, "classes": 10, "training_seconds": 75.0, "passes": 10**7, "loaded": 1.0}
    texts = {"weights": cell.run, "data": cell.run, "versions": "{}", "warnings": "", "history": json.dumps(history)}
    config = json.dumps(cell.config.model_dump(mode="json", exclude={"out"}))
    described = cell.describe() | {"config": config, "status": "done", "error": ""}
    return described | metrics | facts | texts | {"seconds": 90.0}


def margins(samples: int, random: np.random.Generator) -> pd.DataFrame:
    """Evidence as a run keeps it: a row per norm and sample."""
    count = 3 * samples
    reals = ("logit_margin", "top_logit_1", "top_logit_2", "top_logit_3", "upper", "survived")
    return pd.DataFrame(
        {
            "sample": np.tile(np.arange(samples), 3),
            "label": random.integers(0, 10, count),
            "prediction": random.integers(0, 10, count),
            "norm": np.repeat(["L1", "L2", "Linf"], samples),
            "suite": "fast",
            "attack": "apgd-ce",
            "seed": 0,
            "forward": random.integers(0, 500, count),
            "backward": random.integers(0, 500, count),
        }
        | {name: random.uniform(size=count) for name in reals}
    )


def fill(place: Path, grid: list[Cell], samples: int) -> None:
    """Write every run's three files."""
    store, random = Store(place, create=True), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "evidence.parquet"
        for cell in grid:
            store.write_run(row(cell, random))
            margins(samples, random).to_parquet(local, index=False)
            store.write_evidence("margins", f"{cell.run}-fast", local)
            labels = random.integers(0, 10, (2, samples))
            frame = pd.DataFrame({"sample": np.arange(samples), "label": labels[0], "prediction": labels[1]})
            frame.assign(corruption="fog", severity=3).to_parquet(local, index=False)
            store.write_evidence("corruptions", cell.run, local)


def measured(words: list[str]) -> tuple[float, float]:
    """Processor seconds (user and system) and peak MB of a command in a process of its own, on Linux."""
    code = (
        "import re, resource, sys; from temper.cli import main as cli; status = cli.main(sys.argv[1:]);"
        "use = resource.getrusage(resource.RUSAGE_SELF);"
        "peak = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1];"
        "sys.stderr.write(f'\\n{use.ru_utime + use.ru_stime} {peak}'); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    seconds, peak = done.stderr.splitlines()[-1].split()
    return float(seconds), float(peak) / 1024


def main() -> None:
    """Make a store, run each command twice, append the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--label", default="now")
    parser.add_argument("--place", type=Path, help="of the store; one that is there already is measured as it is")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("cost.csv"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = options.place or Path(folder) / "store"
        path = Path(folder) / "spec.yaml"
        path.write_text(yaml.safe_dump(spec(options.runs)))
        if not place.exists():
            fill(place, cells(read_spec(path)), options.samples)
        calls = {"status": ["bench", "status", str(path)], "plan": ["bench", "plan", str(path), "--json"]}
        calls |= {name: ["bench", "query", sql] for name, sql in QUERIES.items()}
        new = not options.out.exists()
        with options.out.open("a", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            if new:
                table.writerow(["label", "runs", "command", "call", "cpu_seconds", "peak_mb"])
            for name, words in calls.items():
                for call in (1, 2):
                    seconds, peak = measured([*words, "--store", str(place)])
                    table.writerow([options.label, options.runs, name, call, f"{seconds:.2f}", f"{peak:.0f}"])
                    file.flush()


if __name__ == "__main__":
    main()
