"""Estimates with 95 % intervals that hold both kinds of doubt: few samples, and samples not settled.

Every interval here keeps its level at few samples and at shares next to 0 and 1, where a bootstrap and Wilson's score
fall below it, and none has zero width unless its outcome is certain. benchmarks/intervals measures their coverage.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import beta, norm, t

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
Z = float(norm.ppf(1 - TAIL))


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
    """The share of samples for which something is shown, with the exact interval (Clopper and Pearson 1934).

    It covers with at least 95 % at any number of samples and any share.

    Args:
        shown: bool [N], what counts.
        unknown: bool [N], what might; no sample is both. None where everything is settled.
    """
    n, count, doubtful = len(shown), int(shown.sum()), 0 if unknown is None else int(unknown.sum())
    return Estimate(
        value=count / n,
        low=exact(count, n)[0],
        high=exact(count + doubtful, n)[1],
        n=n,
        unknown=doubtful / n,
    )


def share_among(hit: NDArray[np.bool_], among: NDArray[np.bool_]) -> Estimate | None:
    """The share of hits (bool [N]) among some (bool [N]); None where there are none."""
    return share(hit[among]) if among.any() else None


def exact(count: float, n: int) -> tuple[float, float]:
    """The exact interval for a proportion (Clopper and Pearson 1934, Biometrika 26); ``count`` need not be whole."""
    low = float(beta.ppf(TAIL, count, n - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - TAIL, count + 1, n - count)) if count < n else 1.0
    return low, high


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's score interval (Wilson 1927) for an ``n`` that need not be whole, such as an effective sample size."""
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    reach = Z * np.sqrt(max(share * (1 - share), 0.0) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    return max(min(float(centre - reach), share), 0.0), min(max(float(centre + reach), share), 1.0)


def mean(lowest: NDArray[np.float64], highest: NDArray[np.float64], bound: float = 1.0) -> Estimate:
    """The mean of numbers in [0, bound] of which only brackets are known, with Gaffke's interval.

    The upper end is the 97.5 % point of the samples' weighted mean under random weights (uniform on the simplex) when
    one sample more stands at ``bound``; the lower end the same with one more at 0 (Gaffke 2005; Learned-Miller and
    Thomas 2019, arXiv:1905.06208). For numbers that are all 0 or ``bound`` that is Clopper and Pearson's exact
    interval; for others no case is known in which it covers with less than 95 %, though there is no proof. With many
    samples it is nearly as narrow as a bootstrap's.

    Args:
        lowest: float64 [N]; highest: float64 [N], not below ``lowest``; both in [0, bound].
        bound: the largest that a number can be.
    """
    n = len(lowest)
    return Estimate(
        value=float(lowest.mean()),
        low=bound * (1 - _upper_end(1 - np.clip(lowest / bound, 0, 1))),
        high=bound * _upper_end(np.clip(highest / bound, 0, 1)),
        n=n,
        unknown=float((highest - lowest).mean()),
    )


def bootstrapped(value: float, draws: NDArray[np.float64], independent: int, step: float) -> tuple[float, float]:
    """Interval of a statistic in [0, 1] that is no mean, such as an AUROC, from resamples.

    Student's t with the spread of the resamples on the logit scale, which is Fisher's z for correlations: a bootstrap's
    percentiles are too short near 0 and 1. At 0 or 1 itself, where resamples have no spread, the interval is the
    exact one of as many independent outcomes as the statistic compares.

    Args:
        value: the statistic.
        draws: float64 [R], of resamples; nan where a resample lacks what it takes.
        independent: outcomes that it compares independently: pairs, or members of the smaller of two groups.
        step: how near to 0 or 1 it can be without being there.
    """
    scale = logit(np.clip(draws[~np.isnan(draws)], step, 1 - step))
    reach = t.ppf(1 - TAIL, max(independent - 1, 1)) * scale.std(ddof=1)
    low, high = expit(logit(np.clip(value, step, 1 - step)) + np.array([-reach, reach]))
    if value > 1 - step / 2:  # 1, up to rounding
        low = min(low, exact(independent, independent)[0])
    if value < step / 2:
        high = max(high, exact(0, independent)[1])
    return min(float(low), value), max(float(high), value)


def _upper_end(values: NDArray[np.float64]) -> float:
    """Gaffke's upper end for the mean of ``values`` in [0, 1], by the saddlepoint approximation of its distribution.

    With standard exponential E the weighted mean is at most m just where S = sum E (x - m) <= 0. The saddlepoint t of S
    at 0 is written as c = m + 1 / t, because m follows from c, so only c is looked for: the one for which the
    probability (Lugannani and Rice 1980) is 97.5 %. It is within 0.3 % of the exact end, and not below it where the
    exact end is known.
    """
    below = np.append(1 - values, 0.0)  # the last is the sample more
    if not below.any():
        return 1.0

    def at(log_gap: float) -> tuple[float, float]:
        far = below + np.exp(log_gap)  # c - x
        m = float((below / far).sum() / (1 / far).sum())  # from 1 downwards
        w = np.sqrt(2 * np.log(far / (m + np.exp(log_gap))).sum())
        u = np.linalg.norm((m - below) / far)
        return 1 - m, float(norm.cdf(w) + norm.pdf(w) * (1 / w - 1 / u))

    # From next to the largest, where the probability is 1, to where S is half a standard deviation below 0.
    start, centre = np.log(below.max()) - 30, below.mean()
    end = np.log(2 * np.linalg.norm(below - centre) - centre)
    root = brentq(lambda log_gap: at(log_gap)[1] - (1 - TAIL), start, end)
    return min(max(at(root)[0], float(values.mean())), 1.0)
