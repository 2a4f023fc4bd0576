"""The published figures that come along, as their authors file them, and where the facts on them lie, which a user does
not have."""

from pathlib import Path

import pandas as pd

from temper.benchmark.published import published_results
from temper.models.catalogue import CATALOGUE

PAPERS = Path(__file__).parents[2] / "shared" / "papers"
RESULTS = PAPERS / "guide_results.csv"
SHEET = PAPERS / "guide_to_robust_generalization.md"


def rows_as_published() -> pd.DataFrame:
    """With the study's own tiers: one backbone is in another by its size."""
    rows = published_results()
    return rows.assign(tier=[CATALOGUE[name].size.tier_published for name in rows["backbone"]])
