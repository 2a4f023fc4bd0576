"""Estimates with 95 % intervals that hold both kinds of doubt: few samples, and samples not settled.

Every interval here keeps its level at few samples and at shares next to 0 and 1, where a bootstrap and Wilson's score
fall below it, and none has zero width unless its outcome is certain. benchmarks/intervals measures their coverage.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import beta, binom, chi2, norm, t

from temper.core import notebook

LEVEL = 0.95
TAIL = (1 - LEVEL) / 2
Z = float(norm.ppf(1 - TAIL))
#: Numbers of samples, float64 [N], at least and at most.
Bracket = tuple[NDArray[np.float64], NDArray[np.float64]]
#: Numbers without a natural bound, such as margins, are reckoned to exceed the largest found by at most this factor.
BEYOND = 2.0


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

    def in_points(self, sign: Literal["", "+"] = "") -> str:
        """A difference of shares and its interval in percentage points; with ``sign`` "+" whichever way it goes."""
        return f"{100 * self.value:{sign}.1f} points [{100 * self.low:{sign}.1f}, {100 * self.high:{sign}.1f}]"

    def _repr_html_(self) -> str:
        row = f"{self.value:.4g}", f"{self.low:.4g}", f"{self.high:.4g}", self.n, f"{self.unknown:.1%}"
        return notebook.page("Estimate", [], ("value", "low", "high", "n", "unknown"), [row])

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


def exact(count: float, n: float) -> tuple[float, float]:
    """The exact interval for a proportion (Clopper and Pearson 1934, Biometrika 26).

    Neither number need be whole; ``n`` may be an effective sample size.
    """
    low = float(beta.ppf(TAIL, count, n - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - TAIL, count + 1, n - count)) if count < n else 1.0
    return low, high


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


def difference(one: Bracket, other: Bracket) -> Estimate:
    """How much higher the mean of ``other`` is than that of ``one`` on the same samples: in [-1, 1], negative if lower.

    The interval is that of :func:`mean` for the samples' own differences, so what makes a sample hard for both does not
    widen it; ``unknown`` is the width that the brackets alone give the difference.

    Args:
        one, other: numbers in [0, 1] of which only brackets are known: float64 [N] at least, float64 [N] at most, in
            the same order of samples.
    """
    between = mean(other[0] - one[1] + 1, other[1] - one[0] + 1, bound=2)
    value = float((other[0] - one[0]).mean())
    return replace(between, value=value, low=between.low - 1, high=between.high - 1)


def open_mean(lowest: NDArray[np.float64], highest: NDArray[np.float64]) -> Estimate:
    """The mean of numbers from 0 on that have no natural bound, of which only brackets are known.

    It is :func:`mean` with a bound of twice the largest number. The upper end is at least the largest number over
    -log(1 - .025^(1/N)), the exact bound for exponential numbers and a valid one for all that are spread less (of
    increasing failure rate: Barlow and Proschan 1966, Annals of Mathematical Statistics 37): of one to five numbers the
    largest says little of how far others go.

    Args:
        lowest: float64 [N]; highest: float64 [N], not below ``lowest``.
    """
    farthest = float(highest.max())
    interval = mean(lowest, highest, bound=BEYOND * farthest or 1.0)
    return replace(interval, high=max(interval.high, farthest / -math.log1p(-(TAIL ** (1 / len(highest))))))


def joined(value: float, parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Interval in [0, 1] of a statistic whose error is the sum of independent ones, from the interval of each.

    The distances of the ends from the value add as standard deviations do (Zou and Donner 2008, Statistics in Medicine
    27), so an end keeps the asymmetry of its parts.
    """
    below, above = (math.hypot(*(end - value for end in ends)) for ends in zip(*parts, strict=True))
    return max(value - below, 0.0), min(value + above, 1.0)


def rank_correlation(value: float, spread: float, n: int) -> tuple[float, float]:
    """Interval of Kendall's tau of ``n`` samples with this standard error, on Fisher's scale.

    Student's t with as many outcomes as there are pairs without a common sample. Where every pair is ranked alike,
    which shows no spread, the interval is the exact one of that many independent outcomes. The standard error is at
    least that of a tau whose samples all agree alike with the others, sqrt(2 (1 - tau^2) / (n (n - 1))) (Hoeffding
    1948).
    """
    nearest = 1 - 2 / (n * (n - 1))  # to 1, without being there
    inside, pairs = min(max(value, -nearest), nearest), n // 2
    spread = max(spread, math.sqrt(2 * (1 - inside**2) / (n * (n - 1))))
    reach = t.ppf(1 - TAIL, max(pairs - 1, 1)) * spread / (1 - inside**2)
    low, high = np.tanh(np.arctanh(inside) + np.array([-reach, reach]))
    if abs(value) > nearest:
        doubt = 2 * exact(pairs, pairs)[0] - 1
        low, high = (min(low, doubt), high) if value > 0 else (low, max(high, -doubt))
    return min(float(low), value), max(float(high), value)


def area(brittle: NDArray[np.float64], robust: NDArray[np.float64]) -> tuple[float, float]:
    """Interval of an AUROC from placements: float64 of each brittle decision, the share of robust ones that score
    above it, and of each robust one, the share of brittle ones that score below; ties half.

    An AUROC's error is the sum of those of the two means (DeLong and others 1988, Biometrics 44), whose intervals
    (:func:`mean`, which is exact where all placements are 1) are joined. DeLong's own, on whatever scale, is too short
    where a group is small or the area near 1.
    """
    parts = [mean(placed, placed) for placed in (brittle, robust)]
    return joined(parts[0].value, [(part.low, part.high) for part in parts])


def average_precision(value: float, brittle: int, robust: int) -> tuple[float, float]:
    """Interval of an average precision, from the numbers of decisions that were to be found and of the others.

    Boyd, Eng and Page (2013, ECML) take the binomial interval of as many outcomes as there are to be found. That holds
    where they are few, and is too short where the others are: false alarms, 1 - value, then vary as their number does
    (exact for Poisson counts: Garwood 1936). The two are joined. Measured, not proven.
    """
    fewest, most = chi2.ppf(TAIL, 2 * robust) / 2, chi2.ppf(1 - TAIL, 2 * robust + 2) / 2
    alarms = (1 - (1 - value) * most / robust, 1 - (1 - value) * fewest / robust)
    return joined(value, [exact(value * brittle, brittle), alarms])


def false_alarms(brittle: NDArray[np.float64], robust: NDArray[np.float64], share: float) -> tuple[float, float]:
    """Interval of the share of robust decisions flagged by the threshold that flags ``share`` of all brittle ones.

    The threshold is a quantile of the brittle scores, which order statistics bracket whatever their distribution
    (Thompson 1936; for ROC curves Hilgers 1991, Methods of Information in Medicine 30), and the decisions that it
    flags are counted (:func:`exact`): two errors, joined. Of fewer than 72 brittle decisions none is sure to lie above
    the quantile of 95 %, so the upper end is 1.

    Args:
        brittle: float64 [B], scores; robust: float64 [R]. Those up to the threshold are flagged.
        share: of the brittle ones, in (0, 1).
    """
    brittle, n = np.sort(brittle), len(brittle)
    flagged = np.searchsorted(np.sort(robust), brittle, side="right")  # by a threshold at each brittle score
    rank = np.arange(1, n + 1)
    above = np.flatnonzero(binom.sf(rank - 1, n, share) <= TAIL)
    below = np.flatnonzero(binom.cdf(rank - 1, n, share) <= TAIL)
    count = int(flagged[math.ceil(n * share - 1e-9) - 1])
    quantile = (
        float(flagged[below[-1]]) / len(robust) if len(below) else 0.0,
        float(flagged[above[0]]) / len(robust) if len(above) else 1.0,
    )
    low, high = joined(count / len(robust), [exact(count, len(robust)), quantile])
    return low, high if len(above) else 1.0


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
