"""What stands in best for the input margin: logit margin, feature margin or a pseudo-margin, by each recipe.

    python benchmarks/brittleness/pseudo.py --data ../shared/data --tables FOLDER [--only NETWORK ...]

Input margins (Linf, suite ``margin``) of training and of test images are kept in FOLDER as NETWORK-train.parquet and
NETWORK-test.parquet, the pseudo-margins that are learned from the former beside them; whatever is missing is made, and
what is stopped goes on from there the next time. Writes pseudo.csv beside this file: rank correlation with the input
margins of the test images, and detection of brittle decisions at three radii. Nothing was chosen by these test images.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from temper.detection.pseudo import PseudoMargin
from temper.detection.recipes import RECIPES
from temper.errors import EvidenceError
from temper.evaluation.measurement import measure
from temper.evaluation.samples import from_arrays
from temper.margins.consistency import margin_consistency
from temper.margins.decisions import brittleness
from temper.margins.detection import detection
from temper.margins.intervals import Estimate
from temper.margins.scores import FeatureMargin, logit_margin
from temper.margins.table import EvidenceTable
from temper.models.features import features_and_logits
from temper.models.heads import find_head
from temper.threat import Threat

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
from cases import named_network, pixels

HERE = Path(__file__).parent
TRAINING, TEST = 3000, 1000  # images of each network
BATCH = 250


@dataclass(frozen=True)
class Case:
    """A network, its images, and radii at which some of its decisions are brittle and some are not."""

    network: str
    train: str
    test: str
    radii: tuple[float, float, float]


CIFAR, MNIST = ("cifar10_train20k", "cifar10_test"), ("mnist_train10k", "mnist_test")
CASES = (
    Case("resnet20", *CIFAR, (0.25 / 255, 0.5 / 255, 1 / 255)),
    Case("cifar_resnet4b", *CIFAR, (2 / 255, 4 / 255, 8 / 255)),
    Case("cifar_cnn_a_adv", *CIFAR, (2 / 255, 4 / 255, 8 / 255)),
    Case("cifar_vit_pgd_2_3_16", *CIFAR, (2 / 255, 4 / 255, 8 / 255)),
    Case("mnist_smallcnn_trades", *MNIST, (0.3, 0.33, 0.36)),
)


@dataclass(frozen=True)
class Part:
    """Images float [N, C, H, W] with their evidence: features [N, M], logits [N, K], in the order of rising ids."""

    images: Tensor
    table: EvidenceTable
    features: Tensor
    logits: Tensor

    @property
    def margins(self) -> Tensor:
        return torch.from_numpy(self.table.frame["upper"].to_numpy().copy())


def part(case: Case, network: nn.Module, images: str, count: int, data: Path, path: Path) -> Part:
    """The first so many images of a file, with the evidence that is kept in ``path``, or is searched for now."""
    with np.load(data / "images" / f"{images}.npz") as arrays:
        x, y = arrays["images"][:count], arrays["labels"][:count].astype(np.int64)
    samples = from_arrays(x, y)
    if not path.exists():
        journal = path.parent / "journals" / path.stem
        threat = Threat("Linf", case.radii[-1])
        done = measure(network, samples, [threat], "margin", 0, journal=journal)
        if not done.complete:
            raise SystemExit("stopped; the same command goes on")
        done.table.save(path)
    table = EvidenceTable.load(path)
    if table.identity["data"] != samples.fingerprint:
        raise EvidenceError(f"{path}: is about other images than the first {count} of {images}; remove it")
    with torch.no_grad():
        passes = [features_and_logits(network, batch) for batch in pixels(x).split(BATCH)]
    features, logits = (torch.cat(each) for each in zip(*passes, strict=True))
    return Part(pixels(x), table, features, logits)


def learned(path: Path, train: Part, recipe: str) -> PseudoMargin:
    """The pseudo-margin that is kept in ``path``, or is learned now."""
    if path.exists():
        return PseudoMargin.load(path)
    began = time.monotonic()
    pseudo = PseudoMargin.fit(train.features, train.logits, train.margins, recipe)
    print(
        f"{path.stem}: {time.monotonic() - began:.0f} s, tau on validation samples {pseudo.validation.tau:.3f}",
        flush=True,
    )
    pseudo.save(path)
    return pseudo


def scores(case: Case, data: Path, tables: Path) -> tuple[Part, dict[str, NDArray[np.float64]]]:
    """The test images, and what stands in for their margins, float64 [N] each."""
    network = named_network(case.network, data)
    train = part(case, network, case.train, TRAINING, data, tables / f"{case.network}-train.parquet")
    test = part(case, network, case.test, TEST, data, tables / f"{case.network}-test.parquet")
    head = network.get_submodule(find_head(network, test.images[:1])[0])
    assert isinstance(head, nn.Linear)
    found = {
        "logit margin": logit_margin(test.logits),
        "feature margin": FeatureMargin(head.weight, "Linf")(test.logits),
    }
    for recipe in RECIPES:
        pseudo = learned(tables / f"{case.network}-{recipe}.safetensors", train, recipe)
        found[f"pseudo-margin, {recipe}"] = pseudo(test.features, test.logits)
    return test, {name: values.double().numpy() for name, values in found.items()}


def rows(case: Case, data: Path, tables: Path) -> Iterator[dict[str, Any]]:
    """A row per radius and score."""
    test, found = scores(case, data, tables)
    for name, values in found.items():
        tau = margin_consistency(test.table, "Linf", scores=values).tau
        for eps in case.radii:
            quality = detection(brittleness(test.table, "Linf", eps), values)
            yield {
                "network": case.network,
                "score": name,
                **spread("tau", tau),
                "eps": eps,
                "brittle": quality.counts.brittle / TEST,
                **spread("auroc", quality.auroc),
                **spread("aupr", quality.aupr),
                **spread("fpr95", quality.fpr_at_95_tpr),
                "fpr95_in_sample": round(quality.fpr_at_95_tpr_in_sample.value, 4),
            }


def spread(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """An estimate with its interval, as columns."""
    ends = (None,) * 3 if estimate is None else (estimate.value, estimate.low, estimate.high)
    names = (name, f"{name}_low", f"{name}_high")
    return {column: end if end is None else round(end, 4) for column, end in zip(names, ends, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tables", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=[case.network for case in CASES], help="these networks alone")
    arguments = parser.parse_args()
    path = HERE / "pseudo.csv"
    for case in CASES:
        if arguments.only and case.network not in arguments.only:
            continue
        measured = pd.DataFrame(rows(case, arguments.data, arguments.tables))
        known = pd.read_csv(path) if path.exists() else measured.head(0)
        pd.concat([known[known["network"] != case.network], measured]).to_csv(path, index=False)
        columns = ["network", "score", "tau", "eps", "brittle", "auroc", "aupr", "fpr95", "fpr95_in_sample"]
        print(measured[columns].to_string(index=False, float_format="{:.3f}".format), flush=True)


if __name__ == "__main__":
    main()
