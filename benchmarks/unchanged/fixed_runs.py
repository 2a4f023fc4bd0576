"""Whether two checkouts of Temper give the same numbers on a fixed set of runs: what a move in the code must keep.

    python benchmarks/unchanged/fixed_runs.py BEFORE AFTER --out FOLDER

runs the same commands with either checkout (about 3 minutes each on a free core; what is finished is kept) and compares
every file that they leave: byte for byte, or, where a file tells times, without those; a page as a browser shows it,
which is the same however its source is broken into lines.
"""

import argparse
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet

TRAIN = "finetune --data.train digits --model.name bundled --eps 16/255 --threads 1"
RUNS = (
    f"{TRAIN} --epochs 2 --seed 3 --out run",
    f"{TRAIN} --epochs 1 --objective.name trades --schedule.name fixed --out trades",
    "evaluate --model run --data digits --threat Linf:8/255,16/255 --threat L2:0.5 --threat L1:2 --limit 40 --out fast",
    "evaluate --model bundled --data digits --threat Linf:16/255 --limit 60 --suite standard --out standard",
    "margins --model run --data digits --threat Linf:8/255 --limit 120 --adaptive --out margins",
    "corruptions --model run --data digits --limit 40 --severity 3 --out corruptions",
    "export --run run --format onnx --out model.onnx",
    "report run fast margins --out report.html",
)
TIMES = re.compile(r"seconds|started|created|date|images_per_second|versions")


def carried_out(checkout: Path, folder: Path) -> None:
    """Carry the runs out with the Temper of a checkout, on one thread."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    for number, words in enumerate(RUNS):
        done = folder / f"{number}.done"
        if not done.exists():
            command = [sys.executable, "-m", "temper", *words.split()]
            with (folder / f"{number}.log").open("w") as log:
                subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, check=True)
            done.touch()


def untimed(content: Any) -> Any:
    """JSON without what tells times."""
    if isinstance(content, dict):
        return {key: untimed(value) for key, value in content.items() if not TIMES.search(key)}
    return [untimed(each) for each in content] if isinstance(content, list) else content


def shown(page: str) -> str:
    """A page without what no browser shows: breaks of lines, spaces beside tags, and how a character is written."""
    return re.sub(r" ?(<[^>]*>) ?", r"\1", re.sub(r"\s+", " ", html.unescape(page)))


def same(one: Path, other: Path) -> bool:
    """Whether two files say the same."""
    if one.read_bytes() == other.read_bytes():
        return True
    if one.suffix == ".html":
        return shown(one.read_text()) == shown(other.read_text())
    if one.suffix == ".parquet":
        return bool(pyarrow.parquet.read_table(one).equals(pyarrow.parquet.read_table(other)))
    if one.suffix in (".json", ".jsonl"):
        lines = [path.read_text() for path in (one, other)]
        parts = [text.splitlines() if one.suffix == ".jsonl" else [text] for text in lines]
        first, second = ([untimed(json.loads(line)) for line in each] for each in parts)
        return first == second
    return False


def main() -> None:
    """Run, compare, and say what differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    folders = [options.out / name for name in ("before", "after")]
    for checkout, folder in zip((options.before, options.after), folders, strict=True):
        carried_out(checkout.resolve(), folder)
    # Journals are named after processes, and logs and markers are this script's.
    files = [
        {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "journal" not in path.parts}
        for folder in folders
    ]
    names = sorted(path for path in files[0] | files[1] if path.suffix not in (".log", ".done"))
    differing = [
        path for path in names if not all(path in each for each in files) or not same(*(f / path for f in folders))
    ]
    print(f"{len(names)} files, {len(differing)} differ", *differing, sep="\n")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
