"""The scores that stand in for the input margin, as a model gives them, and the features behind them."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from temper.attacks.crafting import crafting
from temper.core.precision import full_precision
from temper.core.progress import progress_bar
from temper.detection.evasion import Scored
from temper.detection.pseudo import PseudoMargin
from temper.errors import ModelError
from temper.evaluation.samples import Samples, on_device
from temper.margins.scores import FeatureMargin, logit_margin, max_probability, probability_margin
from temper.models import Classifier
from temper.models.features import features_and_logits
from temper.models.heads import computes_linear
from temper.threat import Norm

LOGIT, FEATURE, PSEUDO = "logit_margin", "feature_margin", "pseudo_margin"
BATCH = 256


def head_weight(model: Classifier) -> Tensor:
    """The weights [K, M] that make logits of features; of averaged heads side by side, as their features are.

    Raises:
        ModelError: the network does not end in a linear layer.
    """
    assert model.head_name  # raises where there is none
    heads = [model.network.get_submodule(name) for name in model.head_names]
    for head in heads:
        if not computes_linear(head):
            raise ModelError(
                f"head {type(head).__name__}: computes something else than a linear layer, so distances between its"
                " features say nothing about its logits"
            )
    weights = [head.weight.flatten(1) for head in heads]  # type: ignore[operator]
    weight = torch.cat(weights, 1) / len(weights)
    return weight if model.form == "logits" else torch.cat([torch.zeros_like(weight), weight])


def scorers(
    model: Classifier, norm: Norm, pseudo: PseudoMargin | None = None, *, linear_head: bool = True
) -> dict[str, Scored]:
    """The scores that a detector may threshold, each differentiable: name to images -> (logits [N, K], scores [N]).

    A model that does not end in a linear layer has no feature margin.
    """

    def of_logits(score: Callable[[Tensor], Tensor]) -> Scored:
        def scored(images: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(images)
            return logits, score(logits)

        return scored

    by_name = {LOGIT: of_logits(logit_margin)}
    if linear_head:
        by_name[FEATURE] = of_logits(FeatureMargin(head_weight(model), norm))
    if pseudo is not None:

        def scored(images: Tensor) -> tuple[Tensor, Tensor]:
            features, logits = features_and_logits(model, images)
            return logits, pseudo(features, logits)

        by_name[PSEUDO] = scored
    return by_name


@torch.no_grad()
def score(model: Classifier, samples: Samples, scored: Mapping[str, Scored]) -> pd.DataFrame:
    """Every score of every sample: a row per sample, by rising id; probability scores too."""
    parts = []
    with crafting(model), progress_bar("scoring", len(samples)) as bar:
        for x, _, ids in on_device(model, samples.batches(BATCH)):
            with full_precision(x.device):
                given = {name: each(x) for name, each in scored.items()}
            logits = given[LOGIT][0]
            columns = {"sample": ids} | {name: values for name, (_, values) in given.items()}
            columns |= {"probability_margin": probability_margin(logits), "max_probability": max_probability(logits)}
            parts.append(pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()}))
            bar.advance(by=len(x))
    return pd.concat(parts).sort_values("sample", ignore_index=True).astype({"sample": np.int64})


@torch.no_grad()
def features(model: Classifier, samples: Samples) -> tuple[Tensor, Tensor]:
    """Features float32 [N, M] and logits float32 [N, K] of every sample, by rising id, on the CPU."""
    parts = []
    with progress_bar("features", len(samples)) as bar:
        for x, _, ids in on_device(model, samples.batches(BATCH)):
            parts.append([each.cpu() for each in (ids, *features_and_logits(model, x))])
            bar.advance(by=len(x))
    ids, features, logits = (torch.cat(column) for column in zip(*parts, strict=True))
    order = ids.argsort()
    return features[order], logits[order]
