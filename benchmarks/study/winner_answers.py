"""What the rows of winner.py say: is a schedule as good as fixed epsilon at the full epsilon, and as hinge below it?"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from committed_rows import Rows, from_hex, store_rows
from study_answers import complete, spreads
from study_cells import CURVE
from winner_cells import EPS, SCHEDULES, SEEDS, TITLES, planned

from temper.margins.intervals import Estimate, difference

METRICS = ("clean", "linf", "expected")
CANDIDATES = [name for name in SCHEDULES if name not in ("fixed", "hinge")]


def section(rows: Rows) -> Iterator[str]:
    """The part of docs/study.md that is about it, as Markdown."""
    plan = planned()
    frame = store_rows(rows, plan)
    own = frame if frame.empty else complete(frame, len(SCHEDULES))
    seeds = 0 if own.empty else own["seed"].nunique()
    yield f"{len(frame)} of {len(plan)} cells are measured, {seeds} of {len(SEEDS)} seeds with all schedules."
    if not seeds:
        return
    images = int(own["clean_n"].iloc[0])
    yield from [
        "",
        f"| schedule, {images} test images a seed | clean | at {EPS}/255 | expected |",
        "|---|---|---|---|",
    ]
    columns = [spreads(own, metric) for metric in METRICS]
    for name, title in TITLES.items():
        yield f"| {title} | {' | '.join(column[(*CURVE, 'at', name)] for column in columns)} |"
    yield ""
    outcomes = rows.read("outcomes")
    for name in CANDIDATES:
        yield f"- **{TITLES[name]}**: {_verdict(own, outcomes, name)}"


def _verdict(own: pd.DataFrame, outcomes: pd.DataFrame, name: str) -> str:
    at_eps, expected = _by_seed(own, "linf", name, "fixed"), _by_seed(own, "expected", name, "hinge")
    over_images = at_full_eps(outcomes[outcomes["seed"].isin(own["seed"])], name)
    both = "is as good as both" if at_eps.mean() >= 0 and expected.mean() >= 0 else "is not as good as both"
    low, high = over_images.low * 100, over_images.high * 100
    return (
        f"{both}: {at_eps.mean():+.1f} points at the full epsilon against fixed (seed by seed {_points(at_eps)}; "
        f"95 % over images, for these seeds, {low:+.1f} to {high:+.1f}), "
        f"{expected.mean():+.1f} of expected robustness against hinge ({_points(expected)})."
    )


def at_full_eps(outcomes: pd.DataFrame, name: str) -> Estimate:
    """How much higher robust accuracy at the full epsilon is than with fixed epsilon: an image's outcomes are averaged
    over seeds, as they repeat one another, and the interval is over images."""
    one, other = (_mean_outcome(outcomes[outcomes["schedule"] == schedule]) for schedule in ("fixed", name))
    return difference((one, one), (other, other))


def _mean_outcome(outcomes: pd.DataFrame) -> np.ndarray:
    bits = [from_hex(str(row["linf"]), int(row["n"])) for row in outcomes.to_dict("records")]
    return np.mean(bits, axis=0)


def _by_seed(own: pd.DataFrame, metric: str, one: str, other: str) -> np.ndarray:
    wide = own.pivot(index="seed", columns="schedule", values=metric).astype(float) * 100
    return (wide[one] - wide[other]).to_numpy()


def _points(values: np.ndarray) -> str:
    return ", ".join(f"{round(value, 1) + 0.0:+.1f}" for value in values)  # no -0.0
