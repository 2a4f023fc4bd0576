"""Images and their nearest adversarial ones, to be looked at."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from temper.attacks.crafting import crafting, foldable
from temper.attacks.engine import AttackEngine
from temper.attacks.losses import predicted
from temper.attacks.suites import CLOSER
from temper.attacks.work import Work
from temper.evaluation.samples import Samples, on_device
from temper.margins.table import EvidenceTable
from temper.models.expectation import deciding
from temper.threat import Norm


@dataclass(frozen=True)
class Example:
    """A sample beside its nearest flip found: pictures for a report.

    Attributes:
        image, adversarial: float32 [C, H, W] in [0, 1].
        label, prediction, adversarial_prediction: class indices.
        distance: between the two, in ``norm``.
    """

    image: Tensor
    adversarial: Tensor
    label: int
    prediction: int
    adversarial_prediction: int
    distance: float
    norm: Norm


def examples(
    model: nn.Module,
    samples: Samples,
    table: EvidenceTable,
    norm: Norm,
    suite: str,
    seed: int,
    count: int = 6,
    *,
    ends: bool = False,
) -> list[Example]:
    """Samples spread evenly over the margins found, or those of both ``ends``, each with the nearest flip that a short
    search finds, nearest first. Evidence keeps distances, not images; so the picture may be a little further than the
    table's ``upper``."""
    own = table.frame[(table.frame["norm"] == norm) & (table.frame["suite"] == suite)]
    flips = own[np.isfinite(own["upper"]) & (own["label"] == own["prediction"])].sort_values(["upper", "sample"])
    if flips.empty:
        return []
    places = np.unique(np.linspace(0, len(flips) - 1, count).round().astype(int))
    if ends:
        places = np.unique(np.r_[0 : count // 2, len(flips) - count // 2 : len(flips)].clip(0, len(flips) - 1))
    chosen = samples.take(flips["sample"].iloc[places].tolist())
    picked: list[Example] = []
    for x, y, ids in on_device(model, chosen.batches(len(chosen))):
        engine = AttackEngine(model, foldable(model, x[:2]), len(chosen))
        with torch.no_grad(), crafting(model):
            rivals = model(x).topk(2, 1).indices[:, 1:]
        unlimited = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        for done in engine.flow(CLOSER, Work(x, y, ids, rivals), norm, unlimited, seed):
            if done.flip is None:
                continue
            label, image = int(y[done.place]), x[done.place]
            with torch.no_grad(), crafting(model):  # alone, as the flip was, and as whoever looks at the pictures would
                if int(predicted(deciding(model)(image[None].contiguous()))) != label:
                    continue
            flip = done.flip
            picked.append(Example(image.cpu(), flip.image.cpu(), label, label, flip.becomes, flip.distance, norm))
    return sorted(picked, key=lambda example: example.distance)
