"""What short runs foretell, on paper: verdicts, T1 and T2, and what is said of them."""

import json
from pathlib import Path

import pandas as pd
import pytest

from temper.margins import Estimate
from temper.margins.comparison import Changes
from temper.runs.diagnosis import FIXED, HALF, SCHEDULED, STANDARD, Diagnosis, Foretold, Scale, ShortRun, in_words
from temper.threat import Threat
from temper.training.diagnosis import LATEST_END, SHORTEST_RAMP, hinges, verdict
from temper.training.schedules import EpsilonSchedule
from temper.training.transfer import Validation, delay

MEASURED = ("clean", "robust", "expected")
MANY = Validation(100_000, 0.01)
FIGURES = Path(__file__).parent / "golden" / "epsilon_scheduling_figures_1_8.csv"


def history(adapts: int, epochs: int, best: float = 0.8) -> list[float]:
    """Chance before an epoch, then at once the best."""
    return [0.01] * (adapts - 1) + [best] * (epochs - adapts + 1)


def delays(*epochs: int, of: int = 50):
    """Delays of runs that adapt in these epochs; beyond the last: never."""
    return [delay(history(min(each, of + 1), of), MANY) for each in epochs]


def test_the_papers_hinges_come_out_of_the_papers_worst_case():
    """SWIN on Aircraft (section 6): standard fine-tuning has 90 % after epoch 11, the mean delay is about 37."""
    figure = pd.read_csv(FIGURES, comment="#").query("model == 'SWIN' and dataset == 'Aircraft'")
    never = figure["delay"].where(figure["delay"] < 50, 51)  # counted as the number of epochs
    found = hinges(history(11, 50), delays(*never), MANY)
    assert found.settled.value == 11
    assert found.delays.value == pytest.approx(36.8)
    assert (found.start, found.end) == (0.22, 0.736)
    assert not found.bounded


def test_settled_is_ninety_percent_of_the_final_accuracy():
    found = hinges([0.1, 0.5, 0.71, 0.75, 0.78, 0.79, 0.8, 0.8, 0.8, 0.8], delays(1, 5, 7, of=10), MANY)
    assert found.settled.value == 4  # 0.72 of 0.8
    assert found.start == 0.4


@pytest.mark.parametrize(
    ("settles", "adapts", "start", "end"),
    [
        (1, (1, 1, 1), 0.1, 0.35),  # as good as no delay: still a ramp
        (9, (9, 11, 11), 0.5, 0.75),  # standard fine-tuning itself is late
        (2, (1, 11, 11), 0.2, 0.7),
        (2, (10, 11, 11), 0.2, 0.75),
    ],
)
def test_the_ramp_keeps_room(settles, adapts, start, end):
    found = hinges(history(settles, 10), delays(*adapts, of=10), MANY)
    assert (found.start, found.end) == pytest.approx((start, end))
    assert found.end - found.start >= SHORTEST_RAMP - 1e-9
    assert found.end <= LATEST_END


@pytest.mark.parametrize("epochs", [3, 7, 12, 23, 50])
def test_the_schedule_means_the_epochs_that_were_found(epochs):
    """Shares are rounded so that a training of the same length has T1 and T2 in the very same epochs."""
    for settles in range(1, epochs // 2 + 1):
        found = hinges(history(settles, epochs), delays(epochs, of=epochs), MANY)
        schedule = EpsilonSchedule.hinge(found.start, found.end)
        assert schedule.fraction(settles, epochs) == 0
        assert schedule.fraction(settles + 1, epochs) > 0


def test_verdicts():
    some, none = Estimate(0.3, 0.2, 0.4, 300), Estimate(0.03, -0.05, 0.1, 300)
    (early, late, never) = delays(1, 30, 51)
    assert verdict(early, never, some) == "fails"
    assert verdict(early, late, some) == "suffers"
    assert verdict(early, late, none) == "holds"
    assert verdict(never, never, none) == "untold"  # nothing is the fault of epsilon where nothing learns


def accuracy(value: float) -> Estimate:
    return Estimate(value, value - 0.04, value + 0.04, 300)


def short(clean: float, adapts: int, robust: float = 0.1) -> ShortRun:
    found = delay(history(adapts, 12), Validation(400, 0.01))
    return ShortRun(Path("out"), found, accuracy(clean), accuracy(robust), accuracy((clean + robust) / 2), 60.0)


def difference(one: Estimate, other: Estimate) -> Estimate:
    value = other.value - one.value
    return Estimate(value, value - 0.05, value + 0.05, 300)


def diagnosis(fixed: ShortRun, scheduled: ShortRun | None = None, standard: float = 0.8) -> Diagnosis:
    runs = {STANDARD: short(standard, 1 if standard > 0.1 else 13), HALF: short(0.7, 2), FIXED: fixed}
    lost = {name: difference(runs[name].clean, runs[STANDARD].clean) for name in (HALF, FIXED)}
    told, gained = Foretold(verdict(runs[STANDARD].delay, fixed.delay, lost[FIXED])), None
    if scheduled:
        found = hinges(history(2, 12), [run.delay for run in runs.values()], Validation(400, 0.01))
        told = Foretold(told.verdict, found, 0.8)
        gained = Changes(*(difference(getattr(fixed, each), getattr(scheduled, each)) for each in MEASURED))
        runs[SCHEDULED] = scheduled
    return Diagnosis(Threat("Linf", 4 / 255), Scale(1000, 400, 300, 100, 12, 64, 3), runs, lost, gained, told)


def test_a_failure_is_told_with_its_cure():
    found = diagnosis(short(0.02, 13), short(0.6, 1))
    assert found.foretold.verdict == "fails"
    assert found.schedule is not None
    assert found.schedule["name"] == "hinge"
    text = " ".join(in_words(found))
    assert "Fixed epsilon fails here at Linf 4/255: it did not adapt to the task (none of 12 epochs above 5.0%)" in text
    assert "78.0 points [73.0, 83.0] below that of standard fine-tuning" in text
    assert f"--schedule.start {found.schedule['start']:g}" in text
    assert "clean accuracy +58.0 points" in text
    assert "80% of the passes" in text
    assert "one run each of 12 epochs (PGD with 3 steps) on 1,000 images of 100 classes at 64 pixels" in text


def test_where_nothing_is_lost_no_schedule_is_sold():
    found = diagnosis(short(0.79, 1), short(0.8, 1))
    assert found.foretold.verdict == "holds"
    assert found.schedule == {"name": "fixed"}
    assert "--schedule.name fixed" in " ".join(in_words(found))


def test_a_schedule_that_surely_gains_is_named_though_fixed_epsilon_learns():
    found = diagnosis(short(0.76, 1), short(0.9, 1))
    assert found.foretold.verdict == "holds"
    assert found.schedule is not None
    assert found.schedule["name"] == "hinge"


def test_what_does_not_learn_at_all_foretells_nothing():
    found = diagnosis(short(0.01, 13), standard=0.02)
    assert found.foretold.verdict == "untold"
    assert found.schedule is None
    first, last = in_words(found)
    assert "Nothing can be told: standard fine-tuning itself did not learn" in first
    assert "rests on" in last
    assert "T1" not in last


def test_a_program_gets_the_same():
    found = diagnosis(short(0.02, 13), short(0.6, 1))
    told = json.loads(json.dumps(found.to_json()))
    assert told["verdict"] == "fails"
    assert told["severity"]["fixed"]["value"] == pytest.approx(0.78)
    assert told["schedule"] == found.schedule
    assert told["cost"]["seconds"] == 240
    assert told["runs"]["fixed"]["delay"]["censored"] is True
    assert told["words"] == in_words(found)
