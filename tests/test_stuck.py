"""A run that does not learn is warned of once, with what may help it, and no other run is."""

import logging
from pathlib import Path

import numpy as np
import pytest

from temper.core.interrupt import Stopped
from temper.runs.finetune import finetune
from temper.runs.run import Run
from temper.runs.views import report
from temper.runs.watch import watching
from temper.training import stuck
from temper.training.schedules import EpsilonSchedule
from temper.training.stuck import due, words
from temper.training.transfer import Validation
from tiny_runs import config

HUNDRED = Validation(500, 0.01)
STILL = {"optimiser": {"backbone_lr": 1e-12, "head_lr": 1e-12}}  # moves nothing


def warned(history: list[float], validation: Validation, epochs: int) -> list[int]:
    """The epochs after which a history is warned of."""
    return [last for last in range(1, len(history) + 1) if due(history[:last], validation, epochs)]


@pytest.mark.parametrize(
    ("validation", "guessing", "learning"),
    [
        (HUNDRED, 0.012, 0.06),
        (Validation(200, 0.5), 0.55, 0.80),  # two classes
        (Validation(200, 0.1), 0.12, 0.30),
        (Validation(200, 0.9), 0.92, 0.97),  # imbalanced: 92 % is no more than naming the common class
    ],
)
def test_a_run_at_chance_is_warned_of_once_after_a_quarter(validation, guessing, learning):
    assert validation.tells
    assert warned([guessing] * 20, validation, 20) == [5]
    assert warned([learning] * 20, validation, 20) == []
    assert warned([guessing] * 4 + [learning] * 16, validation, 20) == []  # late is no failure
    assert warned([learning] * 9 + [guessing] * 11, validation, 20) == [10]  # lost again


def test_it_is_said_no_second_time():
    assert warned([0.01] * 6 + [0.5] * 6 + [0.01] * 8, HUNDRED, 20) == [5]


@pytest.mark.parametrize(
    "validation", [Validation(2, 0.5), Validation(12, 0.1), Validation(8, 0.75), Validation(20, 1.0)]
)
def test_too_few_images_say_nothing(validation):
    assert not validation.tells
    assert warned([validation.chance] * 20, validation, 20) == []


def test_guessing_is_seldom_taken_for_learning_and_learning_never_for_guessing():
    """An accuracy that passes is never at chance; guessing is told from chance in at most 2.5 % of draws."""
    rng = np.random.default_rng(0)
    for validation in (HUNDRED, Validation(90, 0.1), Validation(100, 0.5)):
        lowest = (np.floor(validation.passing * validation.n) + 1) / validation.n
        assert not validation.at_chance(lowest)
        draws = rng.binomial(validation.n, validation.chance, 2000) / validation.n
        assert np.mean([not validation.at_chance(each) for each in draws]) <= 0.035


def said(accuracies: list[float], schedule: EpsilonSchedule | None, epochs: int = 20) -> str:
    shares = [schedule.fraction(e + 1, epochs, accuracies[:e]) if schedule else 0.0 for e in range(len(accuracies))]
    return words(accuracies, shares, HUNDRED, epochs)


@pytest.mark.parametrize(
    ("accuracies", "schedule", "advice"),
    [
        ([0.01] * 5, None, stuck.NOT_EPSILON),  # standard fine-tuning
        ([0.01] * 5, EpsilonSchedule.fixed(), stuck.FIXED),
        ([0.01] * 5, EpsilonSchedule.linear(), stuck.RISING),
        ([0.01] * 5, EpsilonSchedule.uniform(), stuck.RISING),
        ([0.01] * 5, EpsilonSchedule.hinge(), stuck.NOT_EPSILON),  # epsilon is 0 until the end of the fifth epoch
        ([0.01] * 6, EpsilonSchedule.hinge(0.1, 0.5), stuck.TOO_EARLY),
        ([0.5] * 5 + [0.4, 0.1, 0.01], EpsilonSchedule.hinge(), stuck.TOO_STEEP),
        ([0.5] * 5 + [0.01], EpsilonSchedule.abrupt(), stuck.TOO_STEEP),  # the collapse of table 7
        ([0.01] * 5, EpsilonSchedule.auto(), stuck.NOT_EPSILON),
    ],
)
def test_the_advice_fits_what_was_asked_for(accuracies, schedule, advice):
    text = said(accuracies, schedule)
    assert text.endswith(advice)
    assert "\n" not in text
    assert f"after epoch {len(accuracies)} of 20" in text
    assert ("back at chance" in text) is (accuracies[0] > 0.1)


def test_standard_fine_tuning_is_advised_no_schedule():
    assert "schedule" not in said([0.01] * 5, None).lower()


def test_no_schedule_is_asked_before_there_is_something_to_say(tmp_path):
    """One of a user's own may count how often it is asked."""

    class Noted(Run):
        config = type("config", (), {"epochs": 20, "objective": type("objective", (), {"name": "at"})})
        warnings = ()

    asked = []
    own = EpsilonSchedule.custom(lambda epoch, epochs: asked.append(epoch) or 1.0)
    watch = watching(Noted(tmp_path), own, HUNDRED)
    for last in range(1, 20):
        watch([0.5] * last)
    assert asked == []


@pytest.fixture(autouse=True)
def _tiny_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_stopped_run_is_warned_of_once_in_all(tmp_path, caplog):
    settings = config(tmp_path / "run", schedule={"name": "custom", "function": "tiny:interrupting"}, **STILL)
    settings["data"] |= {"validation_fraction": 0.06}
    with caplog.at_level(logging.WARNING, "temper"), pytest.raises(Stopped):
        finetune(settings)  # of 3 epochs the first is a quarter; in the second somebody presses Ctrl-C, twice
    run = Run(tmp_path / "run")
    (warning,) = run.warnings
    assert warning.endswith(stuck.FIXED)
    with caplog.at_level(logging.WARNING, "temper"):
        with pytest.raises(Stopped):
            finetune(settings, resume=True)
        finetune(settings, resume=True)
    assert run.warnings == [warning]
    assert sum("at chance" in record.getMessage() for record in caplog.records) == 1
    assert f"Warning, run. {warning}" in _text(report([run.folder], tmp_path / "r.html", "r"))


@pytest.mark.slow
@pytest.mark.usefixtures("warm_processes")
def test_two_processes_warn_once(tmp_path):
    settings = config(tmp_path / "run", schedule={"name": "fixed"}, devices=2, epochs=2, **STILL)
    settings["data"] |= {"validation_fraction": 0.06}
    (warning,) = finetune(settings).warnings
    assert warning.endswith(stuck.FIXED)


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_a_run_that_learns_is_not_warned_of(tmp_path):
    settings = config(tmp_path / "run", objective={"name": "standard"}, epochs=12)
    settings["optimiser"] = {"backbone_lr": 0.01, "head_lr": 0.01}
    run = finetune(settings)
    assert run.warnings == []
    assert run.history()[-1]["validation_accuracy"] > 0.5


def _text(page: Path) -> str:
    import re

    return " ".join(re.sub(r"<[^>]+>", "", page.read_text()).split())
