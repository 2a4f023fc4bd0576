"""Figures of margin consistency and detection: each draws, and says in words what it shows."""

from io import BytesIO

import numpy as np
import pytest

from temper.errors import ArgumentError
from temper.margins.intervals import Estimate
from temper.report.brittleness_figures import (
    equidistance_boxplot,
    flag_rate_against_alpha,
    margin_scatter,
    risk_curves,
    roc,
    tau_bars,
)

SHARES = np.array([0.0, 0.25, 1.0])


def texts(figure) -> list[str]:
    """Everything that a figure says, once it has been drawn."""
    figure.savefig(BytesIO(), format="svg")
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def scatter(**changes):
    margins = np.array([2, 6, 10, np.inf, np.inf]) / 255
    given = {
        "scores": np.array([0.1, 0.5, 1.0, 2.0, 3.0]),
        "brittle": np.array([True, True, False, False, False]),
        "robust": np.array([False, False, True, True, False]),
        "norm": "Linf",
        "eps": 8 / 255,
    }
    return margin_scatter(margins, **(given | changes))


def test_the_scatter_counts_every_decision_and_draws_those_with_a_margin():
    figure = scatter(threshold=0.75)
    said = texts(figure)
    for text in (
        "brittle: 2",
        "robust: 2 (1 not drawn)",
        "unknown: 1 (1 not drawn)",
        "ε = 8/255",
        "flagged up to 0.75",
    ):
        assert text in said
    assert {"input margin (Linf)", "logit margin"} <= {*said}
    assert any(text.endswith("/255") and not text.startswith("ε") for text in said)
    points = {each.get_label(): np.asarray(each.get_offsets()) for each in figure.axes[0].collections}
    np.testing.assert_allclose(points["brittle: 2"], [[2, 0.1], [6, 0.5]])
    np.testing.assert_allclose(points["robust: 2 (1 not drawn)"], [[10, 1.0]])


def test_the_scatter_leaves_out_what_there_is_not():
    said = texts(scatter(norm="L2", eps=0.5, score="feature margin", robust=np.array([False, False, True, True, True])))
    assert {"input margin (L2)", "feature margin", "ε = 0.5"} <= {*said}
    assert not any("unknown" in text or "flagged" in text or "/255" in text for text in said)


def test_the_scatter_refuses_what_it_cannot_draw():
    with pytest.raises(ArgumentError, match="one length"):
        scatter(scores=np.zeros(4))
    with pytest.raises(ArgumentError, match="none is finite"):
        margin_scatter(np.full(1, np.inf), np.zeros(1), np.zeros(1, bool), np.ones(1, bool), norm="L2", eps=0.5)


@pytest.mark.parametrize(
    ("draw", "labels"),
    [
        (roc, {"robust decisions flagged (FPR)", "brittle decisions flagged (TPR)", "95 %", "by chance"}),
        (risk_curves, {"decisions kept (the lowest scores are flagged first)", "brittle among those kept"}),
        (flag_rate_against_alpha, {"brittle decisions that may pass (α)", "decisions flagged"}),
    ],
)
def test_curves_bear_their_names_and_units(draw, labels):
    figure = draw({"logit margin": (SHARES, SHARES**2), "max $p$": (SHARES, SHARES)})
    assert {"logit margin", "max $p$", "20 %", *labels} <= {*texts(figure)}
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    np.testing.assert_array_equal(lines["logit margin"].get_ydata(), SHARES**2)
    assert lines["logit margin"].get_color() != lines["max $p$"].get_color()
    with pytest.raises(ArgumentError, match=r"curves = \{\}.*at least one"):
        draw({})


def test_more_curves_than_colours_are_told_apart_by_dashes():
    lines = roc({str(index): (SHARES, SHARES) for index in range(8)}).axes[0].get_lines()
    assert len({(line.get_color(), line.get_linestyle()) for line in lines[:8]}) == 8


def test_boxes_are_in_units_of_the_median():
    figure = equidistance_boxplot({"one": np.array([2.0, 4, 4, 4, 8]), "equal": np.full(3, 0.1)})
    assert {"one", "equal", "distance between two classes' weights / median"} <= {*texts(figure)}
    axes = figure.axes[0]
    assert [(box.get_x(), box.get_width()) for box in axes.patches] == [(1, 0), (1, 0)]  # all quartiles are 4, and 0.1
    whiskers = np.array(axes.collections[0].get_segments())
    np.testing.assert_allclose(whiskers[0, :, 0], [0.5, 2])
    for none in ({}, {"zero": np.zeros(3)}, {"no pairs": np.array([])}):
        with pytest.raises(ArgumentError):
            equidistance_boxplot(none)


def test_bars_of_tau_bear_number_and_interval():
    figure = tau_bars({"logit margin": Estimate(0.82, 0.8, 0.85, 100), "worse": Estimate(-0.4, -0.5, -0.2, 100)})
    assert {"logit margin", "worse", "0.82", "-0.40", "Kendall's τ-b of input margin and score"} <= {*texts(figure)}
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [0.82, -0.4]
    intervals = np.concatenate([each.get_segments() for each in axes.collections])
    np.testing.assert_allclose(intervals[:, :, 0], [[0.8, 0.85], [-0.5, -0.2]])
    assert axes.get_xlim()[0] < -0.5
    with pytest.raises(ArgumentError, match="estimates"):
        tau_bars({})
