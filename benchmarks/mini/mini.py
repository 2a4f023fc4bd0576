"""A complete benchmark at the size of a laptop: one command, stoppable, resumable, under 2 hours on 2 cores.

    python benchmarks/mini/mini.py --data ../shared/data [--out runs/mini] [--workers 2]

Pretrains a small timm network (once), carries out the grid of ``spec.yaml``, and writes the leaderboard to ``--site``:
``index.html``, to be opened in a browser, and a page per run.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import mini_backbones

HERE = Path(__file__).parent


def main() -> int:
    """Pretrain, run, report; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images and networks")
    parser.add_argument("--out", type=Path, default=Path("runs/mini"), help="folder of results and weights")
    parser.add_argument("--site", type=Path, help="folder of the leaderboard; by default leaderboard/ in OUT")
    parser.add_argument("--workers", type=int, default=2, help="runs at once")
    call = parser.parse_args()
    weights = call.out.resolve() / "weights"
    # Worker processes inherit both; the factories of the backbones read them.
    os.environ[mini_backbones.DATA] = str(call.data.resolve())
    os.environ[mini_backbones.WEIGHTS] = str(weights)
    _pretrain(call.data / "images", weights)
    spec = call.out / "spec.yaml"
    spec.write_text((HERE / "spec.yaml").read_text().replace("DATA/", f"{call.data / 'images'}/"))

    from temper.cli.main import main as temper

    store = str(call.out / "results")
    status = temper(["bench", "run", str(spec), "--store", store, "--workers", str(call.workers)])
    if status:
        return status
    return temper(["bench", "report", str(spec), "--store", store, "--out", str(call.site or call.out / "leaderboard")])


def _pretrain(images: Path, weights: Path) -> None:
    """Pretrain what is not there yet, and keep the accuracies."""
    from pretrain import pretrain

    missing = [name for name in mini_backbones.SMALL if not (weights / f"{name}.safetensors").exists()]
    for name in missing:
        accuracy = pretrain(name, images, weights)
        (weights / f"{name}.json").write_text(json.dumps({"cifar10_accuracy": accuracy}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
