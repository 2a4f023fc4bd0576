"""Rows of evidence for tests."""

import numpy as np
import pandas as pd


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
