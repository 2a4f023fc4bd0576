"""Delay and severity on the paper's own numbers (arXiv:2509.23325, figures 1, 8 and 9)."""

from pathlib import Path

import pandas as pd
import pytest

from temper.benchmark.analysis import delay_and_accuracy
from temper.errors import ArgumentError, EvidenceError
from temper.margins.intervals import Estimate
from temper.training.transfer import Validation, delay, severity

FIGURES = Path(__file__).parent / "golden" / "epsilon_scheduling_figures_1_8.csv"
EPOCHS = 50
FIGURE_9 = {
    "SWIN": {"Cars": -0.96, "Caltech": -0.91, "Aircraft": -0.94, "Cub": -0.86, "Dogs": -0.95},
    "ViT": {"Cars": -0.92, "Caltech": -0.98, "Aircraft": -0.95, "Cub": -0.98, "Dogs": -0.96},
}
MISREAD = ("SWIN", "Caltech")  # -0.925 from the numbers of the figures, printed -0.91


@pytest.fixture(scope="module")
def figures() -> pd.DataFrame:
    rows = pd.read_csv(FIGURES, comment="#")
    assert len(rows) == 2 * 5 * 10
    return rows.rename(columns={"model": "backbone"})


def test_delays_correlate_with_clean_accuracy_as_printed(figures):
    """Within 0.01 in nine cells of ten; see below for the tenth."""
    found = delay_and_accuracy(figures).set_index(["backbone", "dataset"])
    printed = pd.DataFrame(FIGURE_9).unstack()
    assert len(found) == len(printed) == 10
    for cell, value in printed.items():
        assert found.loc[cell, "pearson"] == pytest.approx(value, abs=0.01 if cell != MISREAD else 0.016), cell
        assert found.loc[cell, "n"] == 10
        assert found.loc[cell, "pearson_low"] < value < found.loc[cell, "pearson_high"] < 0


def test_the_tenth_cell_is_a_delay_read_off_the_chart_one_epoch_wrong(figures):
    """Its delays are few epochs, so that one epoch in one of ten points is enough to give the printed value."""
    own = figures[(figures["backbone"] == MISREAD[0]) & (figures["dataset"] == MISREAD[1])]
    mended = []
    for place in own.index:
        moved = own.assign(delay=own["delay"].where(own.index != place, own["delay"] + 1))
        mended.append(delay_and_accuracy(moved)["pearson"].iloc[0])
    printed = FIGURE_9[MISREAD[0]][MISREAD[1]]
    assert min(abs(value - printed) for value in mended) < 0.005


def test_not_every_correlation_is_above_nine_tenths_as_the_text_says(figures):
    found = delay_and_accuracy(figures).set_index(["backbone", "dataset"])["pearson"]
    assert found.index[found > -0.9].tolist() == [("SWIN", "Cub")]


def test_the_mean_delay_of_the_hardest_task_is_the_papers_t2(figures):
    own = figures[(figures["backbone"] == "SWIN") & (figures["dataset"] == "Aircraft")]
    assert own["delay"].mean() == pytest.approx(37, abs=0.5)  # censored ones counted as 50


def test_severities_are_the_printed_drops(figures):
    """Column 0 is standard fine-tuning; drops are printed for Caltech and Aircraft."""
    printed = figures.dropna(subset=["printed_drop"])
    assert len(printed) == 2 * 2 * 9
    standard = figures[figures["eps_g_255"] == 0].set_index(["backbone", "dataset"])["clean"]
    for _, row in printed.iterrows():
        one, own = (Estimate(value / 100, value / 100, value / 100, 1000) for value in
                    (standard[row["backbone"], row["dataset"]], row["clean"]))  # fmt: skip
        assert 100 * severity(one, own).value == pytest.approx(row["printed_drop"], abs=0.051)


def test_delays_read_from_histories_are_those_of_the_figure(figures):
    """A run whose validation accuracy passes 5 % in that epoch; 50 in the figure may be a run that never does."""
    validation = Validation(1000, 0.01)
    for epochs in figures["delay"].unique():
        history = [0.05] * (epochs - 1) + [0.06] * (EPOCHS + 1 - epochs)
        assert delay(history, validation).epochs.value == epochs
    never = delay([0.05] * EPOCHS, validation)
    assert (never.epochs.value, never.censored) == (EPOCHS, True)


def test_what_a_correlation_needs(figures):
    with pytest.raises(EvidenceError, match="needs at least 4"):
        delay_and_accuracy(figures[figures["eps_g_255"] < 3])
    with pytest.raises(ArgumentError, match="delay"):
        delay_and_accuracy(figures.drop(columns="delay"))
