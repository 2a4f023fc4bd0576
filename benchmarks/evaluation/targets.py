"""What an order of targets is worth: flips that APGD towards the first few classes of an order misses. One command:

    python benchmarks/evaluation/targets.py --data ../shared/data

Writes targets.csv beside this file. Of the correct images of 256 that APGD on the logit difference (20 steps from the
image, a run towards each of nine classes) flips: how many the first 1, 2, 3 and 4 runs miss, by order.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from groups import Entry
from masking import BATCH, prepared
from torch import Tensor, nn

from temper.attacks.apgd import APGD
from temper.attacks.attack import perturb
from temper.attacks.crafting import crafting
from temper.attacks.losses import flipped, logit_difference_targeted
from temper.attacks.targets import linearised_distances, nearest_first
from temper.attacks.work import Work

HERE = Path(__file__).parent
CLASSES = 9
ENTRIES = (
    Entry("cifar_cnn_a_adv", "Linf", 3 / 255),
    Entry("cifar_vit_pgd_2_3_16", "Linf", 3 / 255),
    Entry("cifar_resnet4b", "Linf", 4 / 255),
    Entry("cifar_oval_base", "Linf", 2 / 255),
    Entry("mnist_smallcnn_standard", "Linf", 0.1),
    Entry("mnist_lenet5_clntrained", "Linf", 0.1),
    Entry("mnist_conv_small_diffai", "Linf", 0.15),
)


def flips(network: nn.Module, work: Work, entry: Entry) -> Tensor:
    """Which runs flip which images, likeliest class first: bool [N, 9]."""
    found = []
    for target in work.rivals.T:
        attack = APGD(20, climbs=logit_difference_targeted)
        moved = perturb(attack, network, work.x, work.y, entry.eps, entry.norm, target=target, keep_flips=True)
        with torch.no_grad():
            found.append(flipped(network(moved), work.y))
    return torch.stack(found, 1)


def missed(network: nn.Module, x: Tensor, y: Tensor, entry: Entry) -> list[dict[str, object]]:
    """A row per order."""
    with torch.no_grad():
        rivals = network(x).argsort(1, descending=True)[:, 1 : CLASSES + 1]
    parts = [Work(xs, ys, ys, rs) for xs, ys, rs in zip(*(each.split(BATCH) for each in (x, y, rivals)), strict=True)]
    found = torch.cat([flips(network, part, entry) for part in parts])
    far = torch.cat([linearised_distances(network, part, entry.norm) for part in parts])
    orders = {"likeliest": torch.arange(CLASSES).expand_as(found), "nearest": nearest_first(far)}
    any_ = found.any(1)
    return [
        {"case": entry.name, "correct": len(x), "flipped": int(any_.sum()), "order": name}
        | {f"missed by {few}": int((any_ & ~found.gather(1, order)[:, :few].any(1)).sum()) for few in (1, 2, 3, 4)}
        for name, order in orders.items()
    ]


def main() -> None:
    """Measure all, a network at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    for entry in ENTRIES:
        network, x, y = prepared(entry, options.data)
        with crafting(network):
            with torch.no_grad():
                right = network(x).argmax(1) == y
            rows += missed(network, x[right], y[right], entry)
        print(*rows[-2:], sep="\n", flush=True)
        pd.DataFrame(rows).to_csv(HERE / "targets.csv", index=False)


if __name__ == "__main__":
    main()
