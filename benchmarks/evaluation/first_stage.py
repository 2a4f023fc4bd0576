"""Which loss should the first attack of ``fast`` climb? Samples that one run of APGD flips, by loss and steps:

    python benchmarks/evaluation/first_stage.py --data ../shared/data

Writes first_stage.csv beside this file. The probability margin, largest other probability less the label's, is that of
arXiv:2411.15210.
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
from temper.attacks.losses import Loss, cross_entropy, dlr, flipped, logit_difference
from temper.core import randomness

HERE = Path(__file__).parent
ENTRIES = (
    Entry("cifar_cnn_a_adv", "Linf", 3 / 255),
    Entry("cifar_cnn_a_adv", "L2", 0.4),
    Entry("cifar_vit_pgd_2_3_16", "Linf", 3 / 255),
    Entry("cifar_resnet4b", "Linf", 4 / 255),
    Entry("cifar_oval_base", "Linf", 2 / 255),
    Entry("cifar_kw_l2_36px", "L2", 0.25),
    Entry("resnet20", "Linf", 0.25 / 255),
    Entry("mnist_smallcnn_standard", "Linf", 0.1),
    Entry("mnist_conv_small_diffai", "Linf", 0.15),
)


def probability_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Largest other probability less the label's."""
    return logit_difference(logits.float().softmax(1), labels)


LOSSES: dict[str, Loss] = {
    "cross-entropy": cross_entropy,
    "logit difference": logit_difference,
    "DLR": dlr,
    "probability margin": probability_margin,
}


def flips(network: nn.Module, x: Tensor, y: Tensor, entry: Entry, loss: Loss, steps: int) -> int:
    """How many of these samples one run from a random start flips."""
    keys = randomness.sample_keys(0, torch.arange(len(x)), "first", entry.norm, torch.zeros(len(x), dtype=torch.long))
    found = 0
    for xs, ys, ks in zip(x.split(BATCH), y.split(BATCH), keys.split(BATCH), strict=True):
        moved = perturb(APGD(steps, climbs=loss), network, xs, ys, entry.eps, entry.norm, keys=ks, keep_flips=True)
        with torch.no_grad():
            found += int(flipped(network(moved), ys).sum())
    return found


def main() -> None:
    """Measure all, a row per network and loss as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    rows = []
    for entry in ENTRIES:
        network, x, y = prepared(entry, options.data)
        with crafting(network), torch.no_grad():
            right = network(x).argmax(1) == y
        x, y = x[right], y[right]
        for name, loss in LOSSES.items():
            with crafting(network):
                counts = {f"{steps} steps": flips(network, x, y, entry, loss, steps) for steps in (10, 20)}
            rows.append({"case": entry.name, "correct": len(x), "loss": name, **counts})
            print(rows[-1], flush=True)
        pd.DataFrame(rows).to_csv(HERE / "first_stage.csv", index=False)


if __name__ == "__main__":
    main()
