"""Scores drawn again: what another test set, or another training run, would change of the metrics."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from temper.benchmark.analysis.cells import check_columns, grid
from temper.errors import EvidenceError

Values = NDArray[np.float64]
MOST = 10_000  # draws
_AGREE = 1e-6  # rows may have been written with fewer digits than the outcomes give


@dataclass(frozen=True)
class Draws:
    """How scores are drawn again.

    Attributes:
        metrics: columns that are scored.
        score: from values [..., configurations, data sets, metrics] to scores [..., configurations].
        count: draws.
        seed: of the draws.
        confidence: of the intervals.
    """

    metrics: Sequence[str]
    score: Callable[[Values], Values]
    count: int
    seed: int
    confidence: float

    def enough(self, comparisons: int) -> "Draws":
        """As many draws as it takes for an outcome that occurs in none of them to be sure, and as many again."""
        return replace(self, count=max(self.count, min(int(np.ceil(2 * comparisons / (1 - self.confidence))), MOST)))


@dataclass(frozen=True, eq=False)
class Drawn:
    """Metrics averaged over seeds: ``observed`` [*axes, metrics], ``drawn`` [resamples, *axes, metrics]; ``lowest`` and
    ``highest`` [resamples, *axes, metrics] for the ends of levels, which one sample more might lower or raise."""

    labels: list[pd.DataFrame]
    observed: Values
    drawn: Values
    lowest: Values
    highest: Values
    over: str


def drawn_again(
    rows: pd.DataFrame, outcomes: pd.DataFrame | None, axes: Sequence[Sequence[str]], draws: Draws
) -> Drawn:
    """Cells as they are and as drawn; the last of ``axes`` has the column ``dataset``."""
    labels, values = grid(rows, [*axes, ("seed",)], draws.metrics)
    seeds = len(labels[-1])
    if outcomes is None and seeds < 2:
        raise EvidenceError(
            "there is one seed and no outcomes, so nothing to draw from: run more seeds, or pass outcomes by sample"
        )
    observed = values.mean(axis=-2)
    drawn, lowest, highest = (
        (observed,) * 3 if outcomes is None else _drawn_samples(outcomes, axes, labels, values, draws)
    )
    noise = _drawn_seeds(values, draws.count, draws.seed) if seeds > 1 else 0.0
    over = " and ".join([*(["samples"] if outcomes is not None else []), *(["seeds"] if seeds > 1 else [])])
    drawn, lowest, highest = (np.round(each + noise, 12) for each in (drawn, lowest, highest))
    return Drawn(labels[:-1], observed, drawn, lowest, highest, over)


def _drawn_seeds(values: Values, resamples: int, seed: int) -> Values:
    """What other seeds might change of the means over seeds: ``values`` [*axes, units, seeds, metrics] to [resamples,
    *axes, units, metrics].

    Normal with the covariance of the seeds' mean, divided by the root of a chi-square over its degrees of freedom: one
    per configuration, with those of Welch and Satterthwaite (Satterthwaite 1946) for the sum over units and metrics.
    """
    seeds, stream = values.shape[-2], _stream(seed, "seeds")
    deviations = values - values.mean(axis=-2, keepdims=True)
    steps = stream.normal(size=(resamples, *values.shape[:-1])) / np.sqrt(seeds * (seeds - 1))
    variances = deviations.sum(axis=-1).var(axis=-1)
    squares = (variances**2).sum(axis=-1)
    freedom = (seeds - 1) * np.divide(
        variances.sum(axis=-1) ** 2, squares, out=np.ones_like(squares), where=squares > 0
    )
    scale = np.sqrt(freedom / stream.chisquare(freedom, size=(resamples, *freedom.shape)))
    return np.einsum("...s,...sm->...m", steps, deviations) * scale[..., None, None]


def _drawn_samples(
    outcomes: pd.DataFrame,
    axes: Sequence[Sequence[str]],
    labels: Sequence[pd.DataFrame],
    values: Values,
    draws: Draws,
) -> tuple[Values, Values, Values]:
    """Means over seeds and over samples drawn within each data set: [draws, *axes, metrics].

    Drawn with replacement; and for the ends of levels with weights that are uniform on the simplex, one sample more
    standing at 0 for the lowest, at 1 for the highest (Gaffke 2005).
    """
    check_columns(outcomes, (), ["dataset"])
    drawn, lowest, highest = (np.empty((draws.count, *values.shape[:-2], values.shape[-1])) for _ in range(3))
    units = labels[-2]
    extra = sorted(set(outcomes["dataset"]) - set(units["dataset"]))
    if extra:
        raise EvidenceError(f"the outcomes have data sets that the rows lack, the first is {extra[0]}: leave them out")
    for dataset, places in units.groupby("dataset", sort=True, observed=True).indices.items():
        part = outcomes[outcomes["dataset"] == dataset]
        expected = [*labels[:-2], units.iloc[places], labels[-1]]
        results = _results(part, str(dataset), axes, expected, draws.metrics)
        _check_means(results.mean(axis=-2), values[..., places, :, :], str(dataset), draws.metrics)
        samples = results.shape[-2]
        by_sample, stream = results.mean(axis=-3), _stream(draws.seed, "samples", str(dataset))
        counts = stream.multinomial(samples, [1 / samples] * samples, size=draws.count)
        weights = stream.dirichlet(np.ones(samples + 1), size=draws.count)
        for target, chances in ((drawn, counts / samples), (lowest, weights[:, :-1])):
            target[..., places, :] = np.tensordot(chances, by_sample, axes=(1, by_sample.ndim - 2))
        one_more = weights[:, -1].reshape(-1, *[1] * (lowest.ndim - 1))
        highest[..., places, :] = lowest[..., places, :] + one_more
    return drawn, lowest, highest


def _results(
    outcomes: pd.DataFrame,
    dataset: str,
    axes: Sequence[Sequence[str]],
    expected: Sequence[pd.DataFrame],
    metrics: Sequence[str],
) -> Values:
    """The outcomes on one data set: [*axes, seeds, samples, metrics], of exactly the runs that are ``expected``."""
    if outcomes.empty:
        raise EvidenceError(f"the outcomes lack data set {dataset}: pass them for all runs in the rows")
    labels, results = grid(outcomes, [*axes, ("seed",), ("sample",)], metrics)
    for have, want in zip(labels[:-1], expected, strict=True):
        if have.to_numpy().tolist() != want.to_numpy().tolist():
            raise EvidenceError(
                f"outcomes on data set {dataset} and the rows differ in {', '.join(have.columns)}: "
                f"{len(have)} and {len(want)} values; pass the outcomes of exactly the runs in the rows"
            )
    return results


def _check_means(means: Values, values: Values, dataset: str, metrics: Sequence[str]) -> None:
    """Outcomes belong to the rows if their means are the rows' metrics: both [..., metrics]."""
    gap = np.abs(means - values)
    if gap.max() > _AGREE:
        metric = metrics[int(np.argmax(gap.max(axis=tuple(range(gap.ndim - 1)))))]
        raise EvidenceError(
            f"outcomes on data set {dataset} average to something else than the rows, by up to {gap.max():.2g} "
            f"in {metric!r}: they are not of the same runs and samples"
        )


def _stream(seed: int, *words: str) -> np.random.Generator:
    return np.random.default_rng([seed, *(zlib.crc32(word.encode()) for word in words)])
