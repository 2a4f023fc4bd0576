"""A measurement that is stopped anywhere, as often as one likes, ends where the uninterrupted one does."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attack_cases import shorter
from measured import Net, pictures, predictions
from temper.attacks.suites import SUITES, Stage, Suite
from temper.evaluation import measurement, searching
from temper.evaluation.measurement import Evaluation, measure
from temper.evaluation.samples import from_arrays
from temper.margins import EvidenceTable
from temper.threat import NORMS, parse_threats

RADII = {"Linf": "0.03,0.2", "L2": "0.3,1.2", "L1": "1,6"}
STEPS = 3
pytestmark = [
    pytest.mark.slow,
    pytest.mark.numerical,
    pytest.mark.filterwarnings("ignore:accuracy does not fall", "ignore:.*gradients are masked"),
]


def shortened(suite: Suite) -> Suite:
    """The suite with the same stages, and runs of a few steps."""

    def short(stage: Stage) -> Stage:
        attack = stage.attack
        return replace(stage, attack=shorter(attack, STEPS, runs=2))

    closer = suite.closer and short(suite.closer)
    return replace(suite, stages=tuple(map(short, suite.stages)), closer=closer)


def run(suite: str, norm: str, **options) -> Evaluation:
    model, images = Net(), pictures(3)
    labels = predictions(model, images)
    labels[1] = (labels[1] + 1) % 4  # a wrong decision, too
    threats = parse_threats(f"{norm}:{RADII[norm]}")
    return measure(model, from_arrays(images, labels), threats, shortened(SUITES[suite]), 2, batch_size=2, **options)


@cache
def uninterrupted(suite: str, norm: str) -> tuple[EvidenceTable, int]:
    """The table, and how many outcomes it took."""
    with stopped(after=10**9, by="budget") as outcomes:
        done = run(suite, norm)
    assert done.complete
    return done.table, outcomes[0]


@contextmanager
def stopped(after: int, by: str) -> Iterator[list[int]]:
    """A measurement inside is stopped when so many outcomes have come, by Ctrl-C or by the end of its time."""
    outcomes, search = [0], searching.search

    def watched(*args):
        for outcome in search(*args):
            outcomes[0] += 1
            if by == "Ctrl-C" and outcomes[0] == after:
                signal.raise_signal(signal.SIGINT)
            yield outcome

    def clock() -> float:
        return 10.0 if by == "budget" and outcomes[0] >= after else 0.0

    with (
        mock.patch.object(searching, "search", watched),
        mock.patch.object(measurement, "time", SimpleNamespace(monotonic=clock)),
    ):
        yield outcomes


def continued(suite: str, norm: str, stops: list[int], by: str, journal: Path | None, *, table: bool) -> EvidenceTable:
    """Stopped after so many outcomes each time, then left alone."""
    known = None
    for after in stops:
        with stopped(after, by):
            done = run(suite, norm, known=known, journal=journal, time_budget=5.0)
        known = done.table if table else None
    done = run(suite, norm, known=known, journal=journal)
    assert done.complete
    return done.table


def assert_same(got: EvidenceTable, suite: str, norm: str) -> None:
    whole = uninterrupted(suite, norm)[0]
    pd.testing.assert_frame_equal(got.frame, whole.frame, rtol=0, atol=0)
    assert got.provenance == whole.provenance


@pytest.mark.parametrize(("suite", "norm"), [*(("margin", norm) for norm in NORMS), ("standard", "Linf")])
def test_stopped_after_any_outcome_it_ends_where_an_uninterrupted_measurement_does(suite, norm):
    """Every place where it can be stopped, with nothing but the table to go on from."""
    count = uninterrupted(suite, norm)[1]
    assert count >= 3
    for after in range(1, count + 1):
        assert_same(continued(suite, norm, [after], "budget", None, table=True), suite, norm)


@settings(max_examples=20, deadline=None)
@given(
    suite=st.sampled_from(sorted(SUITES)),
    norm=st.sampled_from([*NORMS]),
    stops=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    by=st.sampled_from(["budget", "Ctrl-C"]),
    keeps=st.sampled_from(["journal", "table", "both"]),
)
def test_stopped_as_often_as_one_likes_it_ends_there(suite, norm, stops, by, keeps):
    with tempfile.TemporaryDirectory() as folder:
        journal = None if keeps == "table" else Path(folder)
        assert_same(continued(suite, norm, stops, by, journal, table=keeps != "journal"), suite, norm)
