"""Golden data: Tables 1 and 2 of arXiv:2509.23325 in, its Tables 9, 10 and 11 out."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from temper.benchmark.analysis import group_means, paired_comparison, spread_over_seeds
from temper.errors import ArgumentError, EvidenceError

METRICS = ["clean", "adversarial", "expected"]
TABLES = Path(__file__).parent / "golden" / "epsilon_scheduling_tables_1_2.csv"


@pytest.fixture(scope="module")
def rows():
    return pd.read_csv(TABLES, comment="#")


def compare(rows, **changes):
    call = {"treatment": "sched", "baseline": "fix", "pair_by": ["model", "dataset"]} | changes
    return paired_comparison(rows, METRICS, **call)


def test_the_tables_are_whole(rows):
    assert len(rows) == 2 * 6 * 2 * 5
    assert (rows.groupby(["eps_g_255", "model", "schedule"]).size() == 5).all()
    first = rows.iloc[0]
    assert (first.model, first.schedule, first.dataset, *first[METRICS]) == (
        "ViT",
        "fix",
        "Aircraft",
        6.4,
        2.8,
        4.48,
    )


# Table 9, to every digit it prints.
TABLE_9 = [
    (4, "clean", "7.823294", "1.255470e-08"),
    (4, "adversarial", "4.348780", "1.540867e-04"),
    (4, "expected", "6.595568", "3.153155e-07"),
    (8, "clean", "12.387491", "4.170254e-13"),
    (8, "adversarial", "5.447550", "7.317049e-06"),
    (8, "expected", "9.270810", "3.572919e-10"),
]


@pytest.mark.parametrize(("eps", "metric", "t", "p"), TABLE_9)
def test_table_9_paired_t_tests(rows, eps, metric, t, p):
    result = compare(rows[rows.eps_g_255 == eps]).loc[metric]
    assert (f"{result.t:.6f}", f"{result.p:.6e}", result.n, result.df) == (t, p, 30, 29)


# The paper's text says 28 of 30 for the adversarial accuracy at 8/255; its own Table 2 has 27.
@pytest.mark.parametrize(("eps", "wins"), [(4, [30, 21, 30]), (8, [30, 27, 30])])
def test_wins_and_losses(rows, eps, wins):
    result = compare(rows[rows.eps_g_255 == eps])
    assert result.wins.tolist() == wins
    assert (result.wins + result.losses == 30).all()


def test_both_budgets_together_make_60_pairs(rows):
    result = compare(rows, pair_by=["eps_g_255", "model", "dataset"])
    assert result.n.tolist() == [60, 60, 60]
    grand = group_means(rows, METRICS, ["schedule"])[METRICS]
    np.testing.assert_allclose(result.mean_difference, grand.loc["sched"] - grand.loc["fix"])


TABLE_10 = """
ViT     37.29/16.89/26.49 70.96/22.66/46.42 15.59/5.84/10.12  63.91/11.63/34.38
SWIN    56.40/32.08/44.35 79.78/39.50/60.90 35.64/14.21/24.16 72.55/22.87/47.49
CNX     61.14/37.59/49.93 84.05/45.69/66.59 19.82/9.61/14.33  79.04/28.12/54.09
R50     37.26/16.99/26.62 67.76/20.13/42.65 22.88/8.82/15.09  55.57/10.48/29.84
ClipViT 12.73/5.74/8.85   73.77/39.14/57.08 8.59/3.13/5.56    68.62/24.94/46.11
ClipCNX 24.09/14.38/18.93 80.74/49.09/65.91 13.95/7.41/10.47  76.40/32.20/54.93
"""
TABLE_11 = """
Aircraft 6.37/3.47/4.66    69.23/29.82/49.69 2.58/1.77/2.14    64.83/20.52/41.34
Caltech  65.42/43.00/54.27 81.02/48.93/65.73 50.37/25.67/37.51 75.48/33.55/54.50
Cars     25.73/14.22/19.99 82.43/45.33/65.29 4.65/2.50/3.45    77.25/28.45/54.16
Cub      47.24/23.56/35.07 77.39/34.60/56.64 19.45/5.26/11.38  70.16/17.44/42.31
Dogs     46.00/18.82/31.99 70.82/21.50/45.61 19.95/5.66/11.95  59.02/8.59/30.06
"""
COLUMNS = [(4, "fix"), (4, "sched"), (8, "fix"), (8, "sched")]


def printed_means(table):
    for line in table.split("\n")[1:-1]:
        name, *cells = line.split()
        for (eps, schedule), cell in zip(COLUMNS, cells, strict=True):
            for metric, printed in zip(METRICS, cell.split("/"), strict=True):
                yield name, eps, schedule, metric, float(printed)


def test_table_10_means_per_model(rows):
    means = group_means(rows, METRICS, ["model", "eps_g_255", "schedule"])
    assert (means.n == 5).all()
    misprint = ("ViT", 8, "fix", "clean")
    for *where, printed in printed_means(TABLE_10):
        computed = means.loc[tuple(where[:3]), where[3]]
        if tuple(where) == misprint:
            assert (f"{computed:.2f}", printed) == ("15.52", 15.59)  # Table 10 disagrees with Table 2 here
        else:
            assert computed == pytest.approx(printed, abs=0.01)


def test_table_11_means_per_data_set(rows):
    means = group_means(rows, METRICS, ["dataset", "eps_g_255", "schedule"])
    assert (means.n == 6).all()
    for *where, printed in printed_means(TABLE_11):
        assert means.loc[tuple(where[:3]), where[3]] == pytest.approx(printed, abs=0.0051)


def test_grand_means(rows):
    means = group_means(rows, METRICS, ["eps_g_255", "schedule"])
    assert means.round(2)[METRICS].to_numpy().tolist() == [
        [38.15, 20.61, 29.20],
        [76.18, 36.04, 56.59],
        [19.40, 8.17, 13.29],
        [69.35, 21.71, 44.47],
    ]
    assert means.index.tolist() == COLUMNS
    assert (means.n == 30).all()


def test_the_order_of_rows_does_not_matter(rows):
    part = rows[rows.eps_g_255 == 8]
    pd.testing.assert_frame_equal(compare(part), compare(part.sample(frac=1, random_state=0)))


def test_treatment_and_baseline_swapped_change_signs_only(rows):
    part = rows[rows.eps_g_255 == 4]
    there, back = compare(part), compare(part, treatment="fix", baseline="sched")
    np.testing.assert_allclose(there[["mean_difference", "t"]], -back[["mean_difference", "t"]])
    np.testing.assert_allclose(there.p, back.p)
    assert there.wins.tolist() == back.losses.tolist()


def test_equal_differences_cannot_be_tested():
    frame = pd.DataFrame({"schedule": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "robust": [0.0, 0.0, 0.5, 0.5]})
    result = paired_comparison(frame, ["robust"], treatment="b", baseline="a", pair_by=["seed"]).loc["robust"]
    assert np.isnan(result.t)
    assert np.isnan(result.p)
    assert result.mean_difference == 0.5
    assert result.wins == 2


def test_pairs_must_be_whole_and_unique(rows):
    part = rows[rows.eps_g_255 == 4]
    with pytest.raises(EvidenceError, match=r"1 configurations have only one of 'sched' and 'fix'.*ViT"):
        compare(part.iloc[1:])
    with pytest.raises(EvidenceError, match="'sched' has several rows for model ViT, dataset Aircraft"):
        compare(rows)
    with pytest.raises(EvidenceError, match="at least 2 pairs"):
        compare(part[(part.model == "ViT") & (part.dataset == "Cars")])


def test_wrong_names_are_named(rows):
    with pytest.raises(ArgumentError, match=r"treatment = 'hinge'.*'fix', 'sched'"):
        compare(rows, treatment="hinge")
    with pytest.raises(ArgumentError, match="column = 'cleen': did you mean clean"):
        group_means(rows, ["cleen"], ["model"])
    with pytest.raises(ArgumentError, match="column = 'seed'"):
        spread_over_seeds(rows, METRICS, ["model"])


def test_a_missing_metric_is_an_error(rows):
    holed = rows.assign(clean=rows.clean.where(rows.index != 7))
    for call in (lambda: group_means(holed, METRICS, ["model"]), lambda: compare(holed)):
        with pytest.raises(EvidenceError, match="'clean' is missing in 1 rows, the first is row 7"):
            call()


def test_spread_over_seeds_is_that_of_the_experiment_repeated():
    frame = pd.DataFrame(
        {
            "schedule": ["fixed"] * 4 + ["hinge"] * 2,
            "dataset": ["x", "y", "x", "y", "x", "y"],
            "seed": [0, 0, 1, 1, 0, 0],
            "clean": [0.0, 1.0, 0.4, 1.0, 0.3, 0.5],
        }
    )
    spread = spread_over_seeds(frame, ["clean"], ["schedule"])
    fixed = spread.loc["fixed", "clean"]
    assert fixed[["mean", "min", "max"]].tolist() == pytest.approx([0.6, 0.5, 0.7])
    assert fixed.n == 2
    assert fixed["std"] == pytest.approx(np.std([0.5, 0.7], ddof=1))
    one = spread.loc["hinge", "clean"]
    assert one.n == 1
    assert one["mean"] == pytest.approx(0.4)
    assert np.isnan(one["std"])
    with pytest.raises(EvidenceError, match="seeds of schedule fixed have 1 to 2 rows"):
        spread_over_seeds(frame.iloc[1:], ["clean"], ["schedule"])
