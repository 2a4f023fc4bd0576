"""Whether adversarial images that are kept flip for whoever asks: alone, and in batches of 16 and 64. One command:

    python benchmarks/evaluation/alone.py --data ../shared/data [--only NAME ...]

Writes alone.csv beside this file, a row per network, suite and norm as it comes: how many images were kept, and how
many of them are no flip for the plain model (unfolded, contiguous images, default settings) in batches of 1, 16 and 64.
"""

import argparse
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cases import named_network, pixels
from torch import Tensor, nn

from temper import data, models
from temper.attacks.losses import flipped
from temper.evaluation.measurement import measure
from temper.evaluation.samples import from_arrays, from_dataset
from temper.threat import NORMS, Threat

HERE = Path(__file__).parent
SIZES = (1, 16, 64)
# Two radii close to each other: what is found at the one is brought closer before the other is looked at.
RADII = {
    "cifar10": {"Linf": 16 / 255, "L2": 2.0, "L1": 40.0},
    "mnist": {"Linf": 0.4, "L2": 5.0, "L1": 40.0},
}
PHOTOS, BUNDLED = "mobilenetv2_100", "bundled"


def subject(name: str, folder: Path, count: int) -> tuple[nn.Module, Tensor, str]:
    """A network, images float [N, C, H, W] in [0, 1], and whose radii suit them."""
    if name in (PHOTOS, BUNDLED):
        weights = folder / "backbones" / f"{PHOTOS}.safetensors"
        network = models.load(BUNDLED if name == BUNDLED else f"timm:{PHOTOS}@{weights}")
        images = data.load("digits" if name == BUNDLED else str(folder / "images" / "imagenet_sample1000.zip"))
        taken = from_dataset(images.limit(2 if name == PHOTOS else count, 0), network)
        return network, taken.few(count), "cifar10"
    kind = json.loads((folder / "networks.json").read_text())[name]["dataset"]
    with np.load(folder / "images" / f"{kind}_test.npz") as arrays:
        return named_network(name, folder), pixels(arrays["images"][:count]), kind


def refuting(network: nn.Module, images: Tensor, y: Tensor, size: int) -> int:
    """How many images are no flips off classes ``y`` in batches of that size, filled up with others of them."""
    places = torch.arange(-(-len(images) // size) * size) % len(images)
    with torch.no_grad():
        logits = torch.cat([network(images[some].contiguous()) for some in places.split(size)])
    return int((~flipped(logits, y[places]))[: len(images)].sum())


def rows(name: str, folder: Path, count: int) -> list[dict[str, object]]:
    """What is kept of a network, and what it says of that."""
    network, images, kind = subject(name, folder, count)
    with torch.no_grad():
        labels = network.eval()(images).argmax(1)
    found: list[dict[str, object]] = []
    for suite in ("fast", "margin"):
        for norm in NORMS:
            eps = RADII[kind][norm]
            with tempfile.TemporaryDirectory() as out, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                threats = [Threat(norm, 0.95 * eps), Threat(norm, eps)]
                done = measure(network, from_arrays(images, labels), threats, suite, 0, adversarial=Path(out))
                if not done.complete:
                    raise SystemExit("stopped")
                with np.load(done.pack()[norm]) as arrays:
                    kept, y = (torch.from_numpy(arrays[each]) for each in ("images", "prediction"))
            row: dict[str, object] = {
                "network": name,
                "suite": suite,
                "norm": norm,
                "images": len(images),
                "kept": len(kept),
            }
            found.append(row | {f"refuted in {size}": refuting(network, kept, y, size) for size in SIZES})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--count", type=int, default=16)
    options = parser.parse_args()
    path = HERE / "alone.csv"
    for name in options.only or [*json.loads((options.data / "networks.json").read_text()), BUNDLED, PHOTOS]:
        table = pd.DataFrame(rows(name, options.data, options.count))
        print(table.to_string(index=False), flush=True)
        if path.exists():
            before = pd.read_csv(path)
            table = pd.concat([before[before["network"] != name], table])
        table.to_csv(path, index=False)


if __name__ == "__main__":
    main()
