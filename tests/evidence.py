"""Rows of evidence for tests."""

import numpy as np
import pandas as pd

from temper.margins.decisions import Brittleness, brittleness
from temper.margins.table import EvidenceTable, Provenance


def untouched(*, samples, labels, predictions, logit_margins, norm: str, suite: str) -> pd.DataFrame:
    """Rows of samples that no search has touched yet: nothing found, nothing survived, no passes."""
    return pd.DataFrame(
        {
            "sample": samples,
            "label": labels,
            "prediction": predictions,
            "logit_margin": logit_margins,
            "top_logit_1": logit_margins,
            "top_logit_2": 0.0,
            "top_logit_3": np.nan,
            "norm": norm,
            "suite": suite,
            "upper": np.inf,
            "survived": 0.0,
            "attack": "",
            "seed": 0,
            "forward": 0,
            "backward": 0,
        }
    )


def rows(upper, scores, survived=None, predictions=None, samples=None, norm="Linf", suite="margin"):
    upper = np.array(upper, float)
    ids = np.arange(len(upper)) if samples is None else np.array(samples)
    predictions = 0 if predictions is None else predictions
    blank = untouched(samples=ids, labels=0, predictions=predictions, logit_margins=scores, norm=norm, suite=suite)
    searched = np.where(np.isfinite(upper), upper, 0.0) if survived is None else survived
    return blank.assign(upper=upper, survived=searched)


def table(*args, **kwargs) -> EvidenceTable:
    return EvidenceTable(rows(*args, **kwargs), {"model": "m", "data": "d"}, Provenance({}, {}, [0], [], []))


def judged(margins, scores, eps) -> Brittleness:
    return brittleness(table(margins, scores), "Linf", eps)


def labelled(brittle, scores, unknown=None) -> Brittleness:
    """Decisions of which only it is known that they are brittle, or robust, or neither."""
    brittle, scores = np.array(brittle, bool), np.array(scores, float)
    unknown = np.zeros_like(brittle) if unknown is None else np.array(unknown, bool)
    ids = np.arange(len(brittle))
    margins = np.where(unknown, np.inf, np.where(brittle, 0.01, 0.1))
    return Brittleness(ids, 0 * ids, scores, margins, brittle & ~unknown, ~brittle & ~unknown, "margin")
