"""How good the best of many is: what its luck added is taken off again.

The highest of many noisy means is high partly by luck (the winner's curse). Stein's estimator moves every mean towards
the mean of all, by as much as the noise explains of how they differ; in Bayesian terms the moved means hold whichever
of them is looked at, the highest included.

- W. James and C. Stein, "Estimation with quadratic loss", 4th Berkeley Symposium (1961).
- B. Efron and C. Morris, "Data analysis using Stein's estimator and its generalizations", JASA 70 (1975).
- C. Morris, "Parametric empirical Bayes inference: theory and applications", JASA 78 (1983): the intervals.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

FEWEST = 4  # configurations: of three means, Stein's estimator knows nothing
_LEVEL = 0.95
_DRAWS = 4_000


@dataclass(frozen=True)
class Shrunk:
    """The means of configurations without what luck added.

    Attributes:
        means: float64 [configurations].
        errors: their standard errors, float64 [configurations].
        centre: the mean of all, which they were moved towards.
        share: how far they were moved, from 0 (none is noise) to 1 (all is).
        noise: standard deviation of one score around what configuration and column explain.
        width: errors in half a 95 % interval.
    """

    means: NDArray[np.float64]
    errors: NDArray[np.float64]
    centre: float
    share: float
    noise: float
    width: float


def shrink(scores: NDArray[np.float64]) -> Shrunk | None:
    """Positive-part Stein shrinkage of the rows' means, with the noise taken from the scores themselves.

    Args:
        scores: float64 [configurations, columns]: a column is a data set or a seed. A configuration's mean is that of
            such columns; its scores are spread around it and the column's level with one variance.

    Returns:
        None for fewer than 4 configurations or 2 columns, of which it cannot be told.
    """
    configurations, columns = scores.shape
    if configurations < FEWEST or columns < 2:
        return None
    means, centre = scores.mean(axis=1), float(scores.mean())
    left = scores - means[:, None] - scores.mean(axis=0) + centre
    freedom = (configurations - 1) * (columns - 1)
    noise = float(np.sum(left**2)) / freedom
    variance, spread = noise / columns, float(np.var(means, ddof=1))
    # Stein's factor for an estimated variance, and Morris's limit of it.
    explained = min(1.0, freedom / (freedom + 2) * variance / spread) if spread > 0 else 1.0
    share = (configurations - 3) / (configurations - 1) * explained
    moved = centre + (1 - share) * (means - centre)
    doubt = 2 / (configurations - 3) * share**2 * (means - centre) ** 2  # of the share itself
    errors = np.sqrt(variance * (1 - share * (configurations - 1) / configurations) + doubt)
    width = float(student.ppf((1 + _LEVEL) / 2, freedom))
    return Shrunk(moved, errors, centre, share, noise**0.5, width)


def chance_of_best(means: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often each would be the highest, were they drawn with these means and errors, float64 [configurations]."""
    draws = np.random.default_rng(0).normal(means, errors, size=(_DRAWS, len(means)))
    return np.bincount(draws.argmax(axis=1), minlength=len(means)) / _DRAWS


def held_out(scores: NDArray[np.float64]) -> float:
    """Score, on a column, of the row that is best by all other columns; the mean over the columns (2 or more)."""
    others = [np.delete(scores, place, axis=1).mean(axis=1).argmax() for place in range(scores.shape[1])]
    return float(scores[others, np.arange(scores.shape[1])].mean())
