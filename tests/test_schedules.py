"""Epsilon schedules against the paper's numbers (arXiv:2509.23325)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.errors import ArgumentError
from temper.training.schedules import EpsilonSchedule, converged, ramp_lost

examples = settings(max_examples=60, deadline=None)


def shares(schedule: EpsilonSchedule, epochs: int = 50, **options) -> list[float]:
    """The share in force in epochs 1, 2, ..., epochs."""
    return [schedule.fraction(epoch, epochs, **options) for epoch in range(1, epochs + 1)]


@pytest.mark.parametrize("hinges", [(12, 37), (0.25, 0.75), (0.24, 0.75)])
def test_the_papers_default(hinges):
    """T1 = 12 and T2 = 37 of 50 epochs; a quarter and three quarters, rounded down, are the same."""
    values = shares(EpsilonSchedule.hinge(*hinges))
    golden = {1: 0, 11: 0, 12: 0, 13: 0.04, 25: 0.52, 36: 0.96, 37: 1, 50: 1}
    assert {epoch: values[epoch - 1] for epoch in golden} == pytest.approx(golden)
    assert values.count(0) == 12
    assert values.count(1) == 14
    assert EpsilonSchedule.hinge().fraction(25, 50) == pytest.approx(0.52)


def test_within_an_epoch_it_moves_on():
    schedule = EpsilonSchedule.hinge(12, 37)
    assert schedule.fraction(12.5, 50) == pytest.approx(0.02)
    assert schedule.fraction(0.001, 50) == 0


def test_no_hinges_is_the_fixed_schedule():
    assert shares(EpsilonSchedule.hinge(0, 0)) == shares(EpsilonSchedule.fixed()) == [1] * 50
    assert EpsilonSchedule.fixed().fraction(0.01, 1) == 1


@pytest.mark.parametrize("at", [1, 2, 12, 49])
def test_hinges_that_coincide_switch_at_once(at):
    expected = [0] * (at - 1) + [1] * (51 - at)
    if at > 1:  # 1 is the end of the training, as a share
        assert shares(EpsilonSchedule.hinge(at, at)) == expected
        assert shares(EpsilonSchedule.abrupt(at)) == expected
    assert shares(EpsilonSchedule.abrupt(at / 50)) == expected


@pytest.mark.parametrize(
    ("hinges", "epochs", "least"),
    [((0.0, 0.1), 8, "0.125"), ((0.25, 0.75), 1, "1"), ((0.25, 0.3), 12, "0.334"), ((0.0, 0.04), 24, "0.042")],
)
def test_a_ramp_that_whole_epochs_leave_no_room_for_is_told(hinges, epochs, least):
    told = ramp_lost(*hinges, epochs)
    assert told is not None
    assert f"give an end of {least} or more" in told
    assert ramp_lost(hinges[0], float(least), epochs) is None


@pytest.mark.parametrize(
    ("hinges", "epochs"), [((0, 0), 8), ((0.5, 0.5), 3), ((12, 37), 50), ((0, 0.125), 8), ((0, 1), 1)]
)
def test_a_ramp_that_is_there_or_was_not_wanted_is_not(hinges, epochs):
    assert ramp_lost(*hinges, epochs) is None


def test_linear_warms_up_from_the_first_step():
    assert shares(EpsilonSchedule.linear(1.0)) == pytest.approx([epoch / 50 for epoch in range(1, 51)])
    assert shares(EpsilonSchedule.linear(25)) == pytest.approx([min(epoch / 25, 1) for epoch in range(1, 51)])
    assert shares(EpsilonSchedule.linear()) == shares(EpsilonSchedule.hinge(0, 0.75))


@pytest.mark.parametrize(("share", "epochs"), [(0.29, 100), (0.58, 50), (0.07, 100), (0.6, 5)])
def test_whole_epochs_are_not_lost_to_floating_point(share, epochs):
    at = round(share * epochs)
    schedule = EpsilonSchedule.abrupt(share)
    assert (schedule.fraction(at - 0.01, epochs), schedule.fraction(at, epochs)) == (0, 1)


@examples
@given(
    hinges=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    epochs=st.integers(1, 200),
    moments=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted),
)
def test_a_hinge_never_goes_down_nor_leaves_its_range(hinges, epochs, moments):
    schedule = EpsilonSchedule.hinge(*hinges)
    early, late = (schedule.fraction(moment * epochs, epochs) for moment in moments)
    assert 0 <= early <= late <= 1
    assert schedule.fraction(epochs, epochs) == 1  # the target is reached in the end


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: EpsilonSchedule.hinge(-0.1, 0.5), "schedule.start = -0.1"),
        (lambda: EpsilonSchedule.hinge(0.8, 0.5), "schedule.start = 0.8: must not be later than schedule.end = 0.5"),
        (lambda: EpsilonSchedule.hinge(0.25, 37), "schedule.start = 0.25: is a fraction but end = 37 is in epochs"),
        (lambda: EpsilonSchedule.linear(-1), "schedule.end = -1: must be at least 0"),
        (lambda: EpsilonSchedule.auto(patience=0), "schedule.patience = 0"),
        (lambda: EpsilonSchedule.auto(tolerance=-0.1), "schedule.tolerance = -0.1"),
        (lambda: EpsilonSchedule.fixed().fraction(0, 50), "epoch = 0: must be above 0 and at most epochs = 50"),
        (lambda: EpsilonSchedule.fixed().fraction(50.1, 50), "epoch = 50.1"),
        (lambda: EpsilonSchedule.hinge(float("nan"), 1), "schedule.start = nan: must be at least 0"),
    ],
)
def test_what_cannot_work_is_refused(make, argument):
    with pytest.raises(ArgumentError) as error:
        make()
    assert str(error.value).startswith(argument)


# --- uniform --------------------------------------------------------------------------------------


def test_uniform_draws_once_per_epoch():
    schedule = EpsilonSchedule.uniform(seed=3)
    first = [schedule.fraction(epoch / 10, 50) for epoch in range(1, 11)]
    assert len(set(first)) == 1
    assert schedule.fraction(1.1, 50) == schedule.fraction(2, 50) != first[0]
    # Whatever the length of the training, and in every process.
    assert shares(EpsilonSchedule.uniform(seed=3), 30) == shares(schedule, 50)[:30]
    assert shares(EpsilonSchedule.uniform(seed=4)) != shares(schedule)


def test_uniform_is_uniform():
    values = sorted(value for seed in range(20) for value in shares(EpsilonSchedule.uniform(seed)))
    assert max(abs(value - i / 1000) for i, value in enumerate(values)) < 0.05  # Kolmogorov-Smirnov at 1.4 %
    assert len(set(values)) == 1000


# --- auto -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("history", "epoch"),
    [
        ([], None),
        ([0.5] * 5, None),
        ([0.5] * 6, 6),  # five epochs after the best one
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], None),
        ([0.1, 0.5, 0.51, 0.52, 0.51, 0.5, 0.5], 7),  # 0.52 is not more than 0.02 above 0.5
        ([0.5, 0.51, 0.52, 0.53, 0.53, 0.53, 0.53], None),  # slow progress is progress: 0.53 > 0.5 + 0.02
        ([0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.9], 6),  # once converged, converged
        ([0.9, 0.1, 0.2, 0.3, 0.4, 0.5], 6),  # the best so far counts, not the last
    ],
)
def test_convergence(history, epoch):
    assert converged(history, patience=5, tolerance=0.02) == epoch


def test_auto_waits_and_then_rises_to_the_end():
    schedule = EpsilonSchedule.auto()
    assert schedule.fraction(1, 50) == 0
    history = [0.3, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8]
    assert schedule.fraction(8, 50, history) == 0
    history.append(0.8)  # T1 = 8
    assert schedule.fraction(8.5, 50, history) == pytest.approx(0.5 / 42)
    assert schedule.fraction(29, 50, history) == pytest.approx(0.5)
    assert schedule.fraction(50, 50, history) == 1
    # Later epochs cannot move T1.
    assert schedule.fraction(29, 50, [*history, 0.95, 0.1, 0.99]) == pytest.approx(0.5)


def test_auto_reads_its_options():
    history = [0.5, 0.55, 0.6]
    assert EpsilonSchedule.auto(patience=2, tolerance=0.2).fraction(4, 50, history) == pytest.approx(1 / 47)
    assert EpsilonSchedule.auto(patience=2, tolerance=0.01).fraction(4, 50, history) == 0


@examples
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60), st.integers(1, 9), st.floats(0, 0.2))
def test_auto_attacks_whatever_validation_says(history, patience, tolerance):
    schedule, epochs = EpsilonSchedule.auto(patience, tolerance), len(history)
    shares = [schedule.fraction(epoch, epochs, history[: epoch - 1]) for epoch in range(1, epochs + 1)]
    assert shares[-1] == 1
    assert all(share > 0 for share in shares[epochs // 2 :])
    assert shares == sorted(shares)


# --- custom ---------------------------------------------------------------------------------------


def test_any_callable_is_a_schedule():
    schedule = EpsilonSchedule.custom(lambda epoch, epochs: (epoch / epochs) ** 2)
    assert schedule.fraction(25, 50) == 0.25
    assert schedule.name == "custom"


@pytest.mark.parametrize("value", [1.01, -0.01, float("nan")])
def test_a_custom_share_outside_its_range_is_refused(value):
    with pytest.raises(ArgumentError, match=r"custom schedule at epoch 2.5 = .*: must return a share in \[0, 1\]"):
        EpsilonSchedule.custom(lambda epoch, epochs: value).fraction(2.5, 50)
