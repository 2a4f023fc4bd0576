"""What a model makes of the clean images."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from temper.attacks.crafting import crafting
from temper.attacks.suites import Suite
from temper.attacks.verification import filled
from temper.core.precision import check_precision, full_precision, lower_inside
from temper.evaluation import fitness
from temper.evaluation.samples import Samples, on_device
from temper.models.expectation import deciding

RIVALS = 10  # other classes that targeted attacks may go for


@dataclass(frozen=True)
class Clean:
    """What a model makes of the clean images, in the order of rising ids.

    Attributes:
        columns: those of an evidence table that do not depend on a search, [N] each.
        rivals: int64 [N, R], the likeliest classes other than the predicted one, likeliest first.
        gaps: float64 [N, R], by how much the predicted class's logit leads theirs.
        classes: K.
        inside: low precisions that the model computes in of its own accord.
    """

    columns: dict[str, NDArray[Any]]
    rivals: NDArray[np.int64]
    gaps: NDArray[np.float64]
    classes: int
    inside: list[str]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether the prediction is the label: bool [N]."""
        return np.asarray(self.columns["label"] == self.columns["prediction"], dtype=np.bool_)


def clean_batch(samples: Samples) -> int:
    """Images in a pass without gradients: a few dozen at ImageNet's size, more for smaller ones."""
    _, height, width = samples.shape
    return int(np.clip(256 * 64**2 // (height * width), 16, 256))


@torch.no_grad()
def clean_pass(model: nn.Module, samples: Samples, batch_size: int, suite: Suite | None) -> Clean:
    """One pass over all samples at full precision, and the checks that one batch allows: those of gradients, too, where
    a suite is to climb them."""
    check_precision(model)
    names = ("sample", "label", "prediction", "logit_margin", "top_logit_1", "top_logit_2", "top_logit_3")
    parts: list[list[NDArray[Any]]] = []
    classes, inside = 0, list[str]()
    for x, y, ids in on_device(model, samples.batches(batch_size)):
        with crafting(model), full_precision(x.device):
            logits = deciding(model)(filled(x))
            logits = logits[: len(x)] if isinstance(logits, Tensor) else logits
            fitness.check_logits(logits, y, ids)
            if not parts:
                if suite is None:
                    fitness.warn_if_inconstant(model, x)
                else:
                    fitness.warn_if_unfit(model, x, y, logits, suite)
                inside = lower_inside(model, x[:1])
                fitness.warn_if_lower(inside)
        classes = logits.shape[1]
        # Stable, so that of classes with one logit the first comes first, as in every prediction.
        top, ranked = (each[:, : RIVALS + 1] for each in logits.double().sort(dim=1, descending=True, stable=True))
        third = top[:, 2] if classes > 2 else torch.full_like(top[:, 0], torch.nan)
        gaps = top[:, :1] - top[:, 1:]
        columns = (ids, y, ranked[:, 0], gaps[:, 0], top[:, 0], top[:, 1], third, ranked[:, 1:], gaps)
        parts.append([column.cpu().numpy() for column in columns])
    *columns_, rivals, gaps = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(columns_[0])
    by_name = dict(zip(names, (c[order] for c in columns_), strict=True))
    return Clean(by_name, rivals[order], gaps[order], classes, inside)
