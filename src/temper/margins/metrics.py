"""Figures from an evidence table: pure functions, no model, no device, no files."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from temper.errors import ArgumentError, EvidenceError
from temper.margins import intervals
from temper.margins.intervals import Bracket, Estimate
from temper.threat import ROUNDING, Threat


class Table(Protocol):
    """What figures need of an evidence table (:class:`temper.margins.table.EvidenceTable`)."""

    @property
    def frame(self) -> pd.DataFrame:
        """A row per sample, norm and suite."""

    @property
    def norms(self) -> list[str]:
        """Norms that were searched in."""

    def is_given(self, suite: str) -> bool:
        """Whether rows of this name are of images that another tool gave, which survived no search."""


@dataclass(frozen=True)
class Evidence:
    """The two sides of the evidence on every sample in one norm, in the order of the sample ids.

    Attributes:
        correct: bool [N], the prediction is the label.
        upper: float64 [N], smallest distance of a verified flip by any suite; inf where none was found.
        survived: float64 [N], largest eps at which the suite searched and found nothing, at most ``upper``.
    """

    correct: NDArray[np.bool_]
    upper: NDArray[np.float64]
    survived: NDArray[np.float64]

    def robust(self, eps: float) -> NDArray[np.bool_]:
        """Samples that are correct, survived a search at ``eps`` or beyond, and have no flip within it."""
        return self.correct & ~self._broken(eps) & self._searched(eps)

    def unknown(self, eps: float) -> NDArray[np.bool_]:
        """Samples that are correct and neither broken at ``eps`` nor shown to survive it."""
        return self.correct & ~self._broken(eps) & ~self._searched(eps)

    def lasting(self, eps: float) -> Bracket:
        """Share of the radii from 0 to ``eps`` over which a sample stays correct, float64 [N]: at least, at most."""
        return self.correct * np.minimum(self.survived, eps) / eps, self.correct * np.minimum(self.upper, eps) / eps

    def _broken(self, eps: float) -> NDArray[np.bool_]:
        return self.upper <= eps * (1 + ROUNDING)

    def _searched(self, eps: float) -> NDArray[np.bool_]:
        return self.survived >= eps * (1 - ROUNDING)


def evidence(table: Table, norm: str, suite: str | None = None) -> Evidence:
    """The evidence in one norm; a flip found by any suite counts, survival only what ``suite`` survived.

    Raises:
        EvidenceError: no such norm or suite, several suites and none named, or samples that the suite has no row of.
    """
    chosen, frame = chosen_suite(table, norm, suite), table.frame
    rows = frame[frame["norm"] == norm]
    own = rows[rows["suite"] == chosen].set_index("sample").sort_index()
    missing = sorted(set(frame["sample"]) - set(own.index))
    if missing:
        raise EvidenceError(f"suite {chosen} has no row in {norm} of {len(missing)} samples, first {missing[0]}")
    upper = rows.groupby("sample")["upper"].min().reindex(own.index).to_numpy(np.float64)
    return Evidence(
        correct=(own["label"] == own["prediction"]).to_numpy(np.bool_),
        upper=upper,
        survived=np.minimum(own["survived"].to_numpy(np.float64), upper),
    )


def chosen_suite(table: Table, norm: str, suite: str | None = None) -> str:
    """The suite of that name, or the only one that searched in this norm; raises EvidenceError as :func:`evidence`.

    Where none searched, and there are images that other tools gave alone, one of those: nothing survived anything.
    """
    suites = sorted(table.frame.loc[table.frame["norm"] == norm, "suite"].unique())
    if not suites:
        raise EvidenceError(f"no evidence in norm {norm}; the table has {', '.join(table.norms) or 'none'}")
    searched = [each for each in suites if not table.is_given(each)] or suites[:1]
    if suite is None and len(searched) > 1:
        raise EvidenceError(
            f"several suites searched in {norm} ({', '.join(searched)}): say which one's survival counts"
        )
    if suite is not None and suite not in suites:
        raise EvidenceError(f"suite {suite} has no evidence in {norm}; there is that of {', '.join(suites)}")
    return suite or str(searched[0])


def clean_accuracy(table: Table) -> Estimate:
    """Share of samples whose prediction is the label."""
    samples = table.frame.drop_duplicates("sample")
    correct = (samples["label"] == samples["prediction"]).to_numpy(np.bool_)
    return intervals.share(correct)


def robust_accuracy(table: Table, norm: str, eps: float, suite: str | None = None) -> Estimate:
    """Share of samples that are correct and that the suite's search at ``eps`` (pixel units of [0, 1]) left so.

    Raises:
        ArgumentError: eps is negative. EvidenceError: see :func:`evidence`.
    """
    return accuracy_curve(table, norm, [eps], suite)[0]


def accuracy_curve(table: Table, norm: str, radii: Sequence[float], suite: str | None = None) -> list[Estimate]:
    """Robust accuracy at each radius; 0 gives clean accuracy. Raises as :func:`robust_accuracy`."""
    for eps in radii:
        if not eps >= 0:
            raise ArgumentError("eps", eps, "must be at least 0")
    searched = evidence(table, norm, suite)
    return [
        intervals.share(searched.robust(eps), searched.unknown(eps)) if eps else intervals.share(searched.correct)
        for eps in radii
    ]


def expected_robustness(
    table: Table,
    norm: str,
    eps: float,
    suite: str | None = None,
    *,
    grid: Sequence[float] | None = None,
) -> Estimate:
    """Robust accuracy averaged over all radii from 0 to ``eps`` (arXiv:2509.23325, section 5).

    Args:
        table: the evidence.
        norm: Linf, L2 or L1.
        eps: eps_g, the largest radius, in pixel units of [0, 1].
        suite: whose survival counts; may be left out where there is one.
        grid: None integrates exactly, as the mean of correct * min(margin, eps) / eps; rising radii that end in
            ``eps`` give the paper's estimator (appendix A), the trapezoid over 0 and them.

    Raises:
        ArgumentError: eps is not above 0, or the grid does not rise from above 0 to eps.
        EvidenceError: see :func:`evidence`.
    """
    if not eps > 0:
        raise ArgumentError("eps", eps, "must be above 0")
    searched = evidence(table, norm, suite)
    if grid is None:
        return intervals.mean(*searched.lasting(eps))
    if not grid or not np.isclose(grid[-1], eps, rtol=ROUNDING, atol=0):
        raise ArgumentError("grid", list(grid), f"must end in eps = {eps}")
    weights = trapezoid_weights(grid)
    robust = np.stack([searched.correct, *[searched.robust(radius) for radius in grid]])
    unknown = np.stack([np.zeros_like(searched.correct), *[searched.unknown(radius) for radius in grid]])
    return intervals.mean(weights @ robust, weights @ (robust | unknown))


def mean_margin(table: Table, norm: str, suite: str | None = None) -> Estimate:
    """Mean distance from a sample to the nearest image that the model decides otherwise, right or wrong decisions.

    ``value`` and ``high`` take a margin as the nearest flip found, ``low`` as what was survived: attacks give upper
    bounds. Samples without any flip found have no margin; they are left out of the mean and are its ``unknown`` share.
    The interval (:func:`temper.margins.intervals.open_mean`) supposes that no margin is more than twice the largest
    found, and where five or fewer are known, that margins are spread no more than exponential ones.

    Args:
        table: the evidence, of a suite that looks for the nearest flip, or of another as far as it went.
        norm: Linf, L2 or L1.
        suite: whose survival counts; may be left out where there is one.

    Raises:
        EvidenceError: no flip at all, or see :func:`evidence`.
    """
    searched = evidence(table, norm, suite)
    known = np.isfinite(searched.upper)
    if not known.any():
        raise EvidenceError(f"no flip was found in {norm} on any of {len(known)} samples, so there is no mean margin")
    below = intervals.open_mean(searched.survived[known], searched.upper[known])
    return Estimate(
        value=float(searched.upper[known].mean()),
        low=below.low,
        high=below.high,
        n=len(known),
        unknown=float((~known).mean()),
    )


def union_robust_accuracy(table: Table, threats: Sequence[Threat], suite: str | None = None) -> Estimate:
    """Share of samples that are correct and robust to every threat at once, over norms (arXiv:1904.13000).

    A sample that one threat breaks is broken; one that none breaks and some search has not settled is unknown.

    Raises:
        ArgumentError: no threats. EvidenceError: see :func:`evidence`.
    """
    if not threats:
        raise ArgumentError("threats", list(threats), "name at least one")
    searched = [(evidence(table, threat.norm, suite), threat.eps) for threat in threats]
    robust = np.logical_and.reduce([each.robust(eps) for each, eps in searched])
    possible = np.logical_and.reduce([each.robust(eps) | each.unknown(eps) for each, eps in searched])
    return intervals.share(robust, possible & ~robust)


def trapezoid_weights(grid: Sequence[float]) -> NDArray[np.float64]:
    """Weights of accuracy at 0 and at the radii of a grid in expected robustness up to its end.

    In k equal steps they are 1/2k at the ends and 1/k inside (arXiv:2509.23325, appendix A).

    >>> trapezoid_weights([1, 2, 3, 4]).tolist()
    [0.125, 0.25, 0.25, 0.25, 0.125]

    Raises:
        ArgumentError: the grid does not rise, or not from above 0.
    """
    widths = np.diff([0, *grid])
    if not len(widths) or (widths <= 0).any():
        raise ArgumentError("grid", list(grid), "must be radii that rise from above 0")
    weights = np.zeros(len(widths) + 1)
    weights[:-1] += widths / 2
    weights[1:] += widths / 2
    return weights / grid[-1]
