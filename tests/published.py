"""Where the published results and sheets lie that tests compare with; a user has none of them."""

from pathlib import Path

PAPERS = Path(__file__).parents[2] / "shared" / "papers"
RESULTS = PAPERS / "guide_results.csv"
SHEET = PAPERS / "guide_to_robust_generalization.md"
