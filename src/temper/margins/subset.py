"""Robust accuracy of a whole test set from attacks on a few of its samples.

Logit margins and correctness of all N samples are free: one clean pass. Attacks are not, so n << N samples are
attacked. Two ways to go from there: a simple random sample (:func:`plain_estimate`), and a sample that is stratified on
the logit margin (:class:`SubsetPlan`), which needs the fewest attacks where logit margin and input margin rank alike,
and has valid intervals where they do not. The rule of arXiv:2406.18451 has none; it is compared with in
benchmarks/brittleness.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import hypergeom, norm

from temper.errors import ArgumentError, EvidenceError
from temper.margins.intervals import TAIL, Estimate, exact

# Measured by benchmarks/brittleness/estimator.py: finer strata and shorter rounds save attacks, coarser and longer ones
# keep the intervals at their level when outcomes steer the sampling and the stopping.
STRATA = 30
SMALLEST_STRATUM = 20
PILOT = 4  # attacks per stratum before any outcome steers
GROWTH = 0.1  # attacks of a round, as a share of those before it
SMALLEST_ROUND = 20
SURPRISE = 0.01  # variance to reckon with where the logistic curve is sure of the outcome
RIDGE, NEWTON_STEPS = 0.01, 15


@dataclass(frozen=True)
class SubsetEstimate:
    """Robust accuracy from a subset of attacked samples.

    Both estimates have ``n`` = N, the samples that they are a share of, attacked or not; how few were attacked is in
    their widths. ``unknown`` is the share of the N that an attack of all is expected to leave unsettled; samples that
    were not drawn are not unknown, for chance drew the others.

    Attributes:
        test_set: of these N samples; no width is left when all correct ones are attacked and settled.
        distribution: of the images that the N samples were drawn from; never narrower than N samples allow.
        attacked: n, samples attacked.
        correct: samples whose prediction is the label; attacking all of them is a full evaluation.
    """

    test_set: Estimate
    distribution: Estimate
    attacked: int
    correct: int

    @property
    def half_width(self) -> float:
        """Half the width of the interval of the test set, doubt about unknown samples included."""
        return (self.test_set.high - self.test_set.low) / 2


# --- a simple random sample -----------------------------------------------------------------------


def plain_estimate(robust: NDArray[np.bool_], unknown: NDArray[np.bool_], correct: int, samples: int) -> SubsetEstimate:
    """Robust accuracy from a simple random sample, without replacement, of the correct samples.

    The interval of the test set is the exact one for a finite population: of all counts of robust samples, those that
    do not make the observed count or a more extreme one rarer than 2.5 % (Clopper and Pearson 1934, for the
    hypergeometric distribution). It covers with at least 95 % at any n and any share, 0 and 1 included.

    Args:
        robust: bool [n], of the attacked samples: searched, and no flip found.
        unknown: bool [n], no search settled them; no sample is both.
        correct: M, samples of the test set whose prediction is the label.
        samples: N, samples of the test set; the wrong ones are not robust and need no attack.

    Raises:
        ArgumentError: n is 0 or exceeds M, M exceeds N, or a sample is both robust and unknown.
    """
    n = len(robust)
    if not 0 <= correct <= samples or samples < 1:
        raise ArgumentError("correct", correct, f"must lie between 0 and the {samples} samples of the test set")
    if not 0 < n <= correct:
        raise ArgumentError("robust", f"{n} samples", f"attack at least 1 and at most all {correct} correct samples")
    _check_outcomes(robust, unknown, n)
    least, most = int(robust.sum()), int((robust | unknown).sum())
    low, _ = _exact_counts(least, n, correct)
    _, high = _exact_counts(most, n, correct)
    scale = correct / samples
    value, highest = least / n * scale, most / n * scale
    return _both(value, highest, low / samples, high / samples, attacked=n, correct=correct, samples=samples)


def _exact_counts(count: int, n: int, population: int) -> tuple[int, int]:
    """Fewest and most successes in a population that fit ``count`` successes among ``n`` drawn; 95 %, equal tails."""
    # A population of fewer than `count` successes, or fewer than n - count failures, cannot give the sample.
    possible = range(count, population - n + count + 1)
    fewest = bisect_right(possible, TAIL, key=lambda k: float(hypergeom.sf(count - 1, population, k, n)))
    most = bisect_left(possible, -TAIL, key=lambda k: -float(hypergeom.cdf(count, population, k, n)))
    return possible[min(fewest, len(possible) - 1)], possible[max(most - 1, 0)]


# --- the rule of arXiv:2406.18451 -----------------------------------------------------------------


# --- stratified on the logit margin ---------------------------------------------------------------


class SubsetPlan:
    """Which samples to attack next, and what the attacks so far say about all.

    The correct samples are cut into strata of equal size along the logit margin; wrong ones count as not robust,
    without an attack. After a pilot of a few attacks in every stratum, each round attacks where a logistic curve
    through the outcomes is the least certain (Neyman's allocation), at random within a stratum. The estimate is the
    stratified mean: its value does not rest on the logit margin, only its width does.

    A driver goes on until it has the precision asked for, or no attacks left to spend; :meth:`estimate` holds at any
    time, also in the middle of a round::

        plan = SubsetPlan(ids, logit_margin, correct, seed=0)
        while not plan.done(precision=0.01):
            ids = plan.next(batch)
            robust, unknown = attack(ids)
            plan.observe(ids, robust, unknown)
        plan.estimate().test_set

    The same seed and outcomes give the same samples, whatever the sizes asked for. So an interrupted plan goes on by
    being replayed: evidence that is there already is observed when the plan asks for it, and only then, for samples
    that someone else chose are no random sample.

    Args:
        samples: int64 [N], ids.
        logit_margin: float64 [N].
        correct: bool [N], the prediction is the label.
        seed: of the drawing.

    Raises:
        ArgumentError: no samples, lengths that differ, ids that occur twice, or margins that are no finite numbers.
    """

    def __init__(
        self,
        samples: NDArray[np.int64],
        logit_margin: NDArray[np.float64],
        correct: NDArray[np.bool_],
        seed: int,
    ) -> None:
        check_margins(logit_margin, correct)
        twice = [sample for sample, times in Counter(samples.tolist()).items() if times > 1]
        if len(samples) != len(correct) or twice:
            fix = f"must be {len(correct)} different ids" + (f"; {twice[0]} occurs twice" if twice else "")
            raise ArgumentError("samples", f"{len(samples)} ids", fix)
        rng = np.random.default_rng(seed)
        shuffled = rng.permutation(np.flatnonzero(correct))  # equal margins are cut at random
        ranked = shuffled[np.argsort(logit_margin[shuffled], kind="stable")]
        count = min(STRATA, max(1, len(ranked) // SMALLEST_STRATUM))
        self._rng = rng
        self._strata = [rng.permutation(places) for places in np.array_split(ranked, count)]
        self._size = np.array([len(places) for places in self._strata])
        self._samples, self._place = samples, {int(sample): place for place, sample in enumerate(samples)}
        self._stratum = np.full(len(samples), -1)
        for index, places in enumerate(self._strata):
            self._stratum[places] = index
        self._observed, self._robust, self._unknown = np.zeros((3, len(samples)), dtype=np.bool_)
        self._planned = np.zeros(count, dtype=np.int64)
        self._round = self._draw(np.minimum(PILOT, self._size))
        self._handed = 0
        self._last_look: SubsetEstimate | None = None

    @property
    def begun(self) -> bool:
        """Whether there is an estimate: something is observed, or nothing needs to be."""
        return bool(self._observed.any()) or not self._size.sum()

    def next(self, k: int) -> NDArray[np.int64]:
        """Ids of the samples to attack next: int64, at most ``k``, of one round.

        Empty when the outcomes of the round are still out, or when all correct samples are attacked.

        Raises:
            ArgumentError: k is not above 0.
        """
        if k < 1:
            raise ArgumentError("k", k, "must be at least 1")
        if self._handed == len(self._round) and self._round_observed():
            count = max(SMALLEST_ROUND, math.ceil(GROWTH * int(self._planned.sum())))
            self._round, self._handed = self._draw(self._allocated(count)), 0
        given = self._round[self._handed : self._handed + k]
        self._handed += len(given)
        return self._samples[given]

    def observe(self, ids: NDArray[np.int64], robust: NDArray[np.bool_], unknown: NDArray[np.bool_]) -> None:
        """Take in what attacks have shown, in any order.

        Args:
            ids: int64 [k], handed out by :meth:`next`.
            robust: bool [k], searched, and no flip found.
            unknown: bool [k], no search settled them.

        Raises:
            ArgumentError: lengths that differ, a sample both robust and unknown, or one that was not asked for.
        """
        _check_outcomes(robust, unknown, len(ids))
        places = np.array([self._place.get(int(sample), -1) for sample in ids], dtype=np.int64)
        out = np.setdiff1d(self._round[: self._handed], np.flatnonzero(self._observed))
        stray = ids[~np.isin(places, out)]
        if len(stray):
            raise ArgumentError("ids", f"sample {stray[0]}", "is not waited for; observe what next() gave, once each")
        self._observed[places], self._robust[places], self._unknown[places] = True, robust, unknown
        if self._handed == len(self._round) and self._round_observed():
            self._last_look = self.estimate()

    def estimate(self) -> SubsetEstimate:
        """Robust accuracy from the attacks so far; at least one, unless no sample is correct.

        Raises:
            EvidenceError: nothing is observed yet.
        """
        correct, total = int(self._size.sum()), len(self._samples)
        if not correct:
            return _both(0.0, 0.0, 0.0, 0.0, attacked=0, correct=0, samples=total)
        if not self._observed.any():
            raise EvidenceError("no attack is observed yet; attack the samples that next() gives and observe them")
        n, size = self._counts(self._observed), self._size
        least, most = self._counts(self._robust), self._counts(self._robust | self._unknown)
        if (n < np.minimum(PILOT, size)).any():
            # The pilot, as far as it is, is spread evenly over the strata: as one it is a simple random sample.
            n, size, least, most = (counts.sum(keepdims=True) for counts in (n, size, least, most))
        value, low, _ = _stratified(least, n, size)
        highest, _, high = _stratified(most, n, size)
        scale = correct / total
        low = max(low * scale, int(least.sum()) / total)
        high = min(high * scale, (correct - int((n - most).sum())) / total)
        attacked = int(n.sum())
        return _both(value * scale, highest * scale, low, high, attacked=attacked, correct=correct, samples=total)

    def done(self, precision: float) -> bool:
        """Whether the interval of the test set is as narrow as +-``precision``, or no sample is left to attack.

        It is the interval at the end of the last whole round that counts: looking at more of them changes nothing, so
        the result does not depend on how often a driver asks.

        Raises:
            ArgumentError: precision is not above 0.
        """
        if not precision > 0:
            raise ArgumentError("precision", precision, "must be above 0, as 0.01 for +-1 point")
        if int(self._observed.sum()) == int(self._size.sum()):
            return True
        return self._last_look is not None and self._last_look.half_width <= precision

    def _counts(self, which: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(self._stratum[which], minlength=len(self._size))

    def _round_observed(self) -> bool:
        return bool(self._observed[self._round].all())

    def _draw(self, more: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of as many more samples of each stratum, in an order that favours none."""
        ahead = zip(self._strata, self._planned, more, strict=True)
        drawn = [places[done : done + count] for places, done, count in ahead]
        self._planned = self._planned + more
        return self._rng.permutation(np.concatenate(drawn))

    def _allocated(self, count: int) -> NDArray[np.int64]:
        """How many of ``count`` more attacks each stratum gets: int64 [H].

        One by one, each where it lowers the variance the most, which is Neyman's allocation in whole numbers
        (Wright 2012, The American Statistician 66).
        """
        n, size = self._planned.copy(), self._size
        shown = (self._robust, self._robust | self._unknown)
        weight = size * np.maximum(*[_expected_spreads(self._counts(which), n) for which in shown])
        for _ in range(min(count, int((size - n).sum()))):
            n[np.argmax(np.where(n < size, weight / np.sqrt(n * (n + 1)), -1))] += 1
        return n - self._planned


def _expected_spreads(count: NDArray[np.int64], n: NDArray[np.int64]) -> NDArray[np.float64]:
    """Standard deviations of outcomes that a logistic curve in the strata's ranks expects: float64 [H].

    A curve with two parameters, not the strata's own outcomes: were those to steer where attacks go, strata with a
    lucky start would get no more and keep their luck, which biases the estimate. The curve only steers. Where it is
    wrong, attacks are spent less well, and the estimate and its interval hold all the same.
    """
    strata = len(n)
    ranks = norm.ppf((np.arange(strata) + 0.5) / strata)
    inputs = np.stack([np.ones(strata), ranks], 1)
    # One observation of each kind, spread over all strata, keeps the curve finite where outcomes are perfectly apart.
    attacks, robust = n + 2 / strata, count + 1 / strata
    weights = np.zeros(2)
    for _ in range(NEWTON_STEPS):
        share = expit(inputs @ weights)
        slope = inputs.T @ (robust - attacks * share) - RIDGE * weights
        curvature = (inputs.T * (attacks * share * (1 - share))) @ inputs + RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, slope)
        weights += step * min(1.0, 2 / max(float(np.linalg.norm(step)), 1e-12))
    share = expit(inputs @ weights)
    spread: NDArray[np.float64] = np.sqrt(share * (1 - share) + SURPRISE)
    return spread


def _stratified(count: NDArray[np.int64], n: NDArray[np.int64], size: NDArray[np.int64]) -> tuple[float, float, float]:
    """Share of a stratified population, and its 95 % interval: ``count`` of ``n`` drawn from ``size``, int64 [H] each.

    The variance is the textbook one with finite-population correction, sum of W^2 (1 - n / N) s^2 / n (Cochran 1977,
    section 5.3), with s^2 of :func:`_variances`. The interval is the exact one (Clopper and Pearson) for the sample
    size that would give a simple random sample that variance (Korn and Graubard 1998, Survey Methodology 24), so it is
    sound near 0 and 1, too; Wilson's is not.
    """
    weight = size / size.sum()
    share = float(weight @ (count / n))
    smoothed, spread = _variances(count, n)
    variance = float((weight**2 * (1 - n / size) * spread / n).sum())
    if variance == 0:
        return share, share, share
    level = float(weight @ smoothed)
    effective = level * (1 - level) / variance
    return share, *exact(share * effective, effective)


def _variances(count: NDArray[np.int64], n: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smoothed shares of the strata and the variances of their outcomes: float64 [H] each.

    A few attacks say little about the spread of a stratum, least of all when they all end alike. So neighbours share
    theirs: isotonic regression, for the share of robust samples rises with the logit margin, pools strata into blocks.
    Where it does not rise, the blocks are wide, and their variance holds that between their strata, too, which errs
    on the safe side. Half an observation of each kind is added (Jeffreys' prior): where all ended alike, the next may
    not.
    """
    count, n = _pooled(count, n)
    share = (count + 0.5) / (n + 1)
    return share, share * (1 - share) * n / np.maximum(n - 1, 1)


def _pooled(count: NDArray[np.int64], n: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counts of the block that each stratum falls in when adjacent ones whose shares do not rise are pooled: int64 [H]
    each (the pool-adjacent-violators algorithm: Ayer and others 1955)."""
    blocks: list[tuple[int, int, int]] = []
    for shown, drawn in zip(count.tolist(), n.tolist(), strict=True):
        strata = 1
        while blocks and blocks[-1][0] * drawn >= shown * blocks[-1][1]:
            above, among, width = blocks.pop()
            shown, drawn, strata = shown + above, drawn + among, strata + width
        blocks.append((shown, drawn, strata))
    counts, sizes, widths = np.array(blocks).T
    return np.repeat(counts, widths), np.repeat(sizes, widths)


# --- common parts ---------------------------------------------------------------------------------


def _both(
    value: float, highest: float, low: float, high: float, *, attacked: int, correct: int, samples: int
) -> SubsetEstimate:
    """Estimates for test set and distribution from the shares with everything unknown not robust (``value``, ``low``)
    and robust (``highest``, ``high``)."""
    low, high, unknown = min(low, value), max(high, highest), highest - value
    # The errors of the subset and of the test set are uncorrelated, so the variances add, recovered from the ends of
    # the two intervals (Zou and Donner 2008, Statistics in Medicine 27).
    wide_low = value - math.hypot(value - low, value - exact(value * samples, samples)[0])
    wide_high = highest + math.hypot(high - highest, exact(min(highest, 1) * samples, samples)[1] - highest)
    return SubsetEstimate(
        test_set=Estimate(value, low, high, samples, unknown),
        distribution=Estimate(value, max(wide_low, 0.0), min(wide_high, 1.0), samples, unknown),
        attacked=attacked,
        correct=correct,
    )


def check_margins(logit_margin: NDArray[np.float64], correct: NDArray[np.bool_]) -> None:
    """Raise ArgumentError unless there is a finite logit margin for each sample."""
    if not len(logit_margin) or len(logit_margin) != len(correct):
        fix = f"must be as many as there are samples ({len(correct)}), at least 1"
        raise ArgumentError("logit_margin", f"{len(logit_margin)} values", fix)
    if not np.isfinite(logit_margin).all():
        place = int(np.flatnonzero(~np.isfinite(logit_margin))[0])
        raise ArgumentError("logit_margin", float(logit_margin[place]), f"place {place} needs a finite number")


def _check_outcomes(robust: NDArray[np.bool_], unknown: NDArray[np.bool_], n: int) -> None:
    if len(robust) != n or len(unknown) != n:
        raise ArgumentError("unknown", f"{len(unknown)} values", f"robust and unknown need one for each of {n} samples")
    if (robust & unknown).any():
        place = int(np.flatnonzero(robust & unknown)[0])
        raise ArgumentError("unknown", f"place {place}", "is robust, too; a sample is one or the other, or broken")
