"""What the results of many runs say: pure functions on a pandas frame with one row per run."""

from temper.benchmark.analysis.adaptation import delay_and_accuracy
from temper.benchmark.analysis.cells import whole
from temper.benchmark.analysis.factors import (
    FactorTest,
    one_way,
    proxy,
    spearman_matrix,
    tukey,
    two_way_cells,
    win_odds,
)
from temper.benchmark.analysis.paired import group_means, holm, paired_comparison, spread_over_seeds
from temper.benchmark.analysis.ranks import rank_correlation_interval, rank_intervals
from temper.benchmark.analysis.scores import borda, medals, perturbation_product, perturbation_sum
from temper.benchmark.columns import PERTURBATIONS
from temper.benchmark.configuration import CONFIGURATION

__all__ = [
    "CONFIGURATION",
    "PERTURBATIONS",
    "FactorTest",
    "borda",
    "delay_and_accuracy",
    "group_means",
    "holm",
    "medals",
    "one_way",
    "paired_comparison",
    "perturbation_product",
    "perturbation_sum",
    "proxy",
    "rank_correlation_interval",
    "rank_intervals",
    "spearman_matrix",
    "spread_over_seeds",
    "tukey",
    "two_way_cells",
    "whole",
    "win_odds",
]
