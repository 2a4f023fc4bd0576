"""Several norms at once: which one a batch is attacked in."""

from collections import Counter

import pytest

from temper.threat import Threat
from temper.training.norms import drawn, scaled

THREATS = [Threat("Linf", 4 / 255), Threat("L1", 12.0)]


def draws(attacked, count: int = 2000) -> dict[str, float]:
    """How often each norm is drawn, as a share."""
    return {norm: n / count for norm, n in Counter(drawn(THREATS, attacked, 0, k).norm for k in range(count)).items()}


def test_the_schedule_scales_all_radii_together():
    assert scaled(THREATS, 0.25) == [Threat("Linf", 1 / 255), Threat("L1", 3.0)]
    assert scaled(THREATS, 0.0) == []


def test_norms_are_drawn_by_their_running_robust_errors():
    shares = draws({"Linf": (1000, 600), "L1": (500, 100)})  # errors 0.6 and 0.2
    assert shares["Linf"] == pytest.approx(0.75, abs=0.03)  # 3 standard errors


@pytest.mark.parametrize("attacked", [{}, {"Linf": (30, 10)}, {"Linf": (30, 0), "L1": (30, 0)}])
def test_until_all_are_known_or_where_nothing_is_wrong_all_are_as_likely(attacked):
    assert draws(attacked)["Linf"] == pytest.approx(0.5, abs=0.035)


def test_a_norm_in_which_nothing_is_wrong_is_left_alone():
    assert draws({"Linf": (30, 3), "L1": (30, 0)}, 300) == {"Linf": 1.0}


def test_a_draw_belongs_to_seed_and_step():
    norms = [[drawn(THREATS, {}, seed, step).norm for step in range(40)] for seed in (0, 0, 1)]
    assert norms[0] == norms[1]
    assert norms[0] != norms[2]
