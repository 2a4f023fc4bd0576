"""Estimates with 95 % intervals that hold both kinds of doubt: few samples, and samples not settled."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1], or a mean, measured on samples.

    Attributes:
        value: what has been shown; what was not searched does not count as robust.
        low: lower end of the 95 % interval, everything unknown counted as not robust.
        high: upper end of the 95 % interval, everything unknown counted as robust.
        n: number of samples.
        unknown: share that no search has settled.
    """

    value: float
    low: float
    high: float
    n: int
    unknown: float = 0.0

    def to_json(self) -> dict[str, float | int]:
        """The five numbers under their names."""
        return asdict(self)

    def __str__(self) -> str:
        doubt = f", {self.unknown:.1%} unknown" if self.unknown else ""
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}] (n = {self.n}{doubt})"


def share(shown: NDArray[np.bool_], unknown: NDArray[np.bool_] | None = None) -> Estimate:
    """The share of samples for which something is shown, with Wilson's score interval.

    Args:
        shown: bool [N], what counts.
        unknown: bool [N], what might; no sample is both. None where everything is settled.
    """
    n, count, doubtful = len(shown), int(shown.sum()), 0 if unknown is None else int(unknown.sum())
    return Estimate(
        value=count / n,
        low=_wilson(count, n)[0],
        high=_wilson(count + doubtful, n)[1],
        n=n,
        unknown=doubtful / n,
    )


def share_among(hit: NDArray[np.bool_], among: NDArray[np.bool_]) -> Estimate | None:
    """The share of hits (bool [N]) among some (bool [N]); None where there are none."""
    return share(hit[among]) if among.any() else None


def _wilson(count: int, n: int) -> tuple[float, float]:
    """Wilson's score interval for a proportion (Wilson 1927)."""
    interval = binomtest(count, n).proportion_ci(LEVEL, method="wilson")
    # Rounding can leave an end a hair on the wrong side of a share of exactly 0 or 1.
    return min(float(interval.low), count / n), max(float(interval.high), count / n)


def mean(lowest: NDArray[np.float64], highest: NDArray[np.float64], seed: int = 0) -> Estimate:
    """The mean of numbers of which only brackets are known, with a percentile bootstrap interval.

    Where all samples have one value the interval has no width, however few they are.

    Args:
        lowest: float64 [N]; highest: float64 [N], not below ``lowest``.
        seed: of the resampling.
    """
    n = len(lowest)
    rng = np.random.default_rng(seed)
    means = np.empty((RESAMPLES, 2))
    for row in means:  # one resample at a time: all at once would take gigabytes for a large data set
        drawn = rng.integers(0, n, n)
        row[:] = lowest[drawn].mean(), highest[drawn].mean()
    tail = (1 - LEVEL) / 2
    return Estimate(
        value=float(lowest.mean()),
        low=float(np.quantile(means[:, 0], tail)),
        high=float(np.quantile(means[:, 1], 1 - tail)),
        n=n,
        unknown=float((highest - lowest).mean()),
    )
