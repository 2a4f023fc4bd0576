"""Signs that a search was weaker than it looks."""

import warnings

import numpy as np
import pytest

from temper.attacks.search import Findings, Outcome
from temper.attacks.suites import SUITES
from temper.errors import TemperWarning
from temper.fitness import note_few_classes, warn_if_flat, warn_if_masked
from temper.threat import parse_threats


def findings(by_square: int, by_gradient: int, count: int = 100) -> Findings:
    found = Findings(SUITES["standard"].in_norm("Linf"), np.arange(count))
    for sample in range(count):
        if sample < by_gradient:
            found.add(Outcome(sample, "apgd-ce", 0.1, 0.1, 1, 1))
        elif sample < by_gradient + by_square:
            found.add(Outcome(sample, "square", 0.1, 0.1, 1, 0))
        else:
            found.add(Outcome(sample, "square", 0.1, np.inf, 1, 0))
    return found


def test_square_beating_the_gradients_is_a_sign_of_masking():
    with pytest.warns(TemperWarning, match="square, which sees no gradients, broke 3 samples in Linf"):
        warn_if_masked(findings(by_square=3, by_gradient=20), "Linf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_masked(findings(by_square=0, by_gradient=20), "Linf")


@pytest.mark.parametrize(
    ("threats", "curve", "flat"),
    [
        ("Linf:4/255,32/255", [0.6, 0.6], True),
        ("Linf:4/255,32/255", [0.6, 0.59], False),
        ("Linf:4/255,32/255", [0.0, 0.0], False),  # all is broken
        ("Linf:1/255,2/255", [0.6, 0.6], False),  # too small to tell
        ("Linf:32/255", [0.6], False),
        ("L2:0.5,4", [0.6, 0.6], True),
    ],
)
def test_accuracy_that_does_not_fall_is_a_sign(threats, curve, flat):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warn_if_flat(curve, parse_threats(threats))
    assert bool(told) is flat
    assert not flat or "accuracy does not fall from" in str(told[0].message)


def test_few_classes_are_noted(caplog):
    caplog.set_level("INFO")
    note_few_classes(SUITES["standard"], 2)
    assert "apgd-t: the model has 2 classes, too few for DLR; it takes the logit difference alone" in caplog.text
    assert "fab-t: the model has 2 classes; 1 targets, not 9" in caplog.text
    caplog.clear()
    note_few_classes(SUITES["standard"], 10)
    assert caplog.text == ""
