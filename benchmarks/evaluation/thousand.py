"""A thousand classes at 224 pixels: time per image of ``fast``, beside AutoAttack's. One command:

    python benchmarks/evaluation/thousand.py --data ../shared/data [--threads N] [--count 64] [--reference 16]

MobileNetV2 (not robust) on ImageNet photos, Linf 0.25/255 and 1/255. Writes thousand.csv beside this file. AutoAttack
takes long where anything withstands it, so it gets the first ``--reference`` images, and ``fast`` those once more.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from reference import autoattack

from temper import data, models
from temper.core.precision import half
from temper.evaluation.measurement import measure
from temper.evaluation.samples import Samples, from_dataset
from temper.threat import Threat

HERE = Path(__file__).parent
WEIGHTS, PHOTOS = "backbones/mobilenetv2_100.safetensors", "images/imagenet_sample1000.zip"
RADII = (0.25 / 255, 1 / 255)


def ours(model: models.Classifier, samples: Samples, eps: float) -> dict[str, Any]:
    """Time and passes of ``fast``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = measure(model, samples, [Threat("Linf", eps)], "fast", 0)
    if not done.complete:
        raise SystemExit("stopped; rows that are finished are kept")
    robust = done.table.robust_accuracy("Linf", eps, "fast").value
    return {"attack": "fast", "n": len(samples), "robust": robust, "seconds": done.seconds, **done.table.passes()}


def theirs(model: models.Classifier, samples: Samples, eps: float) -> dict[str, Any]:
    """Time and passes of AutoAttack."""
    ((images, labels, _),) = samples.batches(len(samples))
    model.eval().requires_grad_(False)
    started = time.perf_counter()
    found = autoattack(model, images.float() / 255, labels, "Linf", eps, 16)
    return {
        "attack": "autoattack",
        "n": len(samples),
        "robust": float((~found.broken).mean()),
        "seconds": time.perf_counter() - started,
        "forward": found.forward,
        "backward": found.backward,
    }


def main() -> None:
    """Measure both radii, a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--reference", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = models.load(f"timm:mobilenetv2_100@{options.data / WEIGHTS}")
    photos = data.load(str(options.data / PHOTOS)).limit(options.count, 0)
    samples = from_dataset(photos, model)
    few = samples.take(samples.ids[np.linspace(0, len(samples) - 1, options.reference).astype(int)].tolist())
    rows: list[dict[str, Any]] = []
    for eps in reversed(RADII):
        for attack, some in ((ours, samples), (ours, few), (theirs, few)):
            row = {"eps x 255": eps * 255, **attack(model, some, eps), "threads": options.threads}
            rows.append({**row, "seconds per image": row["seconds"] / row["n"], "half": str(half("cpu"))})
            print(rows[-1], flush=True)
            pd.DataFrame(rows).round(4).to_csv(HERE / "thousand.csv", index=False)


if __name__ == "__main__":
    main()
