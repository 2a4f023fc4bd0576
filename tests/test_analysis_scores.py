"""Borda, medals and tests of factors on cases that can be worked out by hand."""

import inspect

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from temper.benchmark.analysis import (
    borda,
    medals,
    one_way,
    perturbation_product,
    perturbation_sum,
    proxy,
    spearman_matrix,
    tukey,
    two_way_cells,
    win_odds,
)
from temper.errors import ArgumentError, EvidenceError

METRICS = ["clean", "linf"]


def frame(cells, **columns):
    """Rows from {(backbone, data set): (clean, linf)}."""
    keys = pd.DataFrame([*cells], columns=["backbone", "dataset"])
    values = pd.DataFrame([*cells.values()], columns=METRICS)
    common = {"objective": "at", "schedule": "fixed", "protocol": "full", "seed": 0} | columns
    return pd.concat([keys, values], axis=1).assign(**common)


CELLS = {
    ("a", "x"): (0.9, 0.2),
    ("b", "x"): (0.9, 0.3),
    ("c", "x"): (0.5, 0.1),
    ("a", "y"): (0.4, 0.0),
    ("b", "y"): (0.4, 0.0),
    ("c", "y"): (0.4, 0.6),
}


def test_borda_by_hand():
    # x: clean 2 2 1, linf 2 3 1; y: clean 1 1 1, linf 1 1 3 (ties get the lowest place).
    table = borda(frame(CELLS), METRICS)
    assert table.backbone.tolist() == ["b", "a", "c"]
    assert table.borda.tolist() == [7, 6, 6]
    assert table["rank"].tolist() == [1, 2, 2]
    assert table.borda_x.tolist() == [5, 4, 2]
    assert table.borda_y.tolist() == [2, 2, 4]
    assert table["sum"].tolist() == pytest.approx([1.6, 1.5, 1.6])
    assert table.sum_rank.tolist() == [1, 3, 1]
    assert table["product"].tolist() == pytest.approx([0.27, 0.18, 0.29])
    assert table.clean.tolist() == pytest.approx([0.65, 0.65, 0.45])


def test_sum_and_product_per_row():
    rows = frame(CELLS)
    assert perturbation_sum(rows, METRICS).tolist() == pytest.approx([1.1, 1.2, 0.6, 0.4, 0.4, 1.0])
    assert perturbation_product(rows, METRICS).tolist() == pytest.approx([0.18, 0.27, 0.05, 0, 0, 0.24])
    with pytest.raises(ArgumentError, match="column = 'l2'"):
        perturbation_sum(rows)


def test_the_order_of_rows_does_not_matter():
    rows = pd.concat([frame(CELLS), frame(CELLS, protocol="a", objective="trades")], ignore_index=True)
    shuffled = rows.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(borda(rows, METRICS), borda(shuffled, METRICS))


def test_protocols_are_ranked_apart():
    both = pd.concat([frame(CELLS), frame({("c", "x"): (1, 1), ("a", "x"): (0, 0)}, protocol="linear")])
    table = borda(both, METRICS).set_index(["protocol", "backbone"])
    assert table.borda.to_dict() == {
        ("full", "b"): 7, ("full", "a"): 6, ("full", "c"): 6, ("linear", "c"): 4, ("linear", "a"): 2,
    }  # fmt: skip
    assert np.isnan(table.loc[("linear", "c"), "borda_y"])


def test_rounding_does_not_break_ties():
    table = borda(frame({("a", "x"): (0.1 + 0.2, 0), ("b", "x"): (0.3, 0)}), METRICS)
    assert table["rank"].tolist() == [1, 1]
    assert 0.1 + 0.2 != 0.3


def test_seeds_are_ballots_of_their_own():
    rows = pd.concat([frame(CELLS), frame(CELLS | {("c", "x"): (1.0, 1.0)}, seed=1)])
    table = borda(rows, METRICS, unit=("dataset", "seed")).set_index("backbone")
    # Seed 1 on x: clean 1 1 3, linf 1 2 3; the rest as by hand.
    assert table.borda.to_dict() == {"a": 6 + 4, "b": 7 + 5, "c": 6 + 10}
    assert table.loc["c", "borda_x"] == 2 + 6
    with pytest.raises(EvidenceError, match=r"2 rows for backbone a.*such as seed"):
        borda(rows, METRICS)


def test_a_missing_cell_is_an_error_that_lists_it():
    rows = frame(CELLS)
    with pytest.raises(EvidenceError, match=r"1 of 6 cells are missing: backbone b, .*dataset y: run"):
        borda(rows.drop(index=4), METRICS)
    wide = frame({(f"b{i}", d): (0.5, 0.5) for i in range(9) for d in "xy"})
    with pytest.raises(EvidenceError, match=r"8 of 18 cells are missing: backbone b1.*; backbone b3.*; and 5 more"):
        borda(wide[(wide.dataset == "x") | (wide.backbone == "b0")], METRICS)
    with pytest.raises(EvidenceError, match="'linf' is missing in 1 rows"):
        borda(rows.assign(linf=rows.linf.where(rows.index != 2)), METRICS)
    with pytest.raises(EvidenceError, match="no rows"):
        borda(rows.iloc[:0], METRICS)


def test_facts_come_along_and_must_agree():
    rows = frame(CELLS).assign(tier=[*"SSLSSL"])
    assert borda(rows, METRICS).set_index("backbone").tier.to_dict() == {"a": "S", "b": "S", "c": "L"}
    with pytest.raises(EvidenceError, match="backbone c has several values of 'tier', 'L' and 'S'"):
        borda(rows.assign(tier=[*"SSLSSS"]), METRICS)


def test_medals_are_shared_by_ties_and_kept_by_tier():
    cells = {(name, "x"): (value, 0.0) for name, value in zip("abcdefg", (7, 6, 6, 5, 4, 3, 2), strict=True)}
    rows = frame(cells).assign(tier=["S", "S", "S", "S", "L", None, "L"])
    table = medals(borda(rows, METRICS))
    assert table[["tier", "medal", "backbone", "rank"]].fillna("?").to_numpy().tolist() == [
        ["L", "gold", "e", 5],
        ["L", "silver", "g", 7],
        ["S", "gold", "a", 1],
        ["S", "silver", "b", 2],
        ["S", "silver", "c", 2],
        ["?", "gold", "f", 6],
    ]


@pytest.fixture
def scored():
    """18 configurations, whose scores depend on the tier and a little on the objective."""
    rng = np.random.default_rng(0)
    tiers = np.repeat(["small", "medium", "large"], 6)
    return pd.DataFrame(
        {
            "protocol": "full",
            "backbone": [f"b{i // 2}" for i in range(18)],
            "objective": ["at", "trades"] * 9,
            "schedule": "fixed",
            "tier": tiers,
            "borda": np.repeat([100.0, 130.0, 200.0], 6) + rng.normal(0, np.repeat([5, 10, 30], 6)),
            "sum": np.arange(18.0),
        }
    )


def test_f_and_welch(scored):
    groups = [part.borda.to_numpy() for _, part in scored.groupby("tier")]
    found = one_way(scored, "tier")
    assert (found.statistic, found.p) == pytest.approx(tuple(stats.f_oneway(*groups)))
    assert (found.df_between, found.df_within) == (2, 15)
    assert found.groups.index.tolist() == ["large", "medium", "small"]
    assert found.groups.n.tolist() == [6, 6, 6]
    assert found.groups.loc["small", "mean"] == pytest.approx(scored.borda[:6].mean())
    # With two groups, Welch's analysis of variance is his t-test.
    two = scored[scored.tier != "large"]
    welch = one_way(two, "tier", equal_variances=False)
    t = stats.ttest_ind(two.borda[:6], two.borda[6:], equal_var=False)
    assert welch.statistic == pytest.approx(t.statistic**2)
    assert welch.p == pytest.approx(t.pvalue)
    assert welch.df_within == pytest.approx(t.df)


@pytest.mark.skipif("equal_var" not in inspect.signature(stats.f_oneway).parameters, reason="SciPy before 1.16")
def test_welch_of_three_groups_is_that_of_scipy(scored):
    scored = scored.drop(index=[0, 7, 8])
    expected = stats.f_oneway(*(part.borda for _, part in scored.groupby("tier")), equal_var=False)
    found = one_way(scored, "tier", equal_variances=False)
    assert (found.statistic, found.p) == pytest.approx((expected.statistic, expected.pvalue))
    assert found.p != pytest.approx(one_way(scored, "tier").p)


def test_cells_of_two_factors(scored):
    found = two_way_cells(scored, ["tier", "objective"])
    cells = [part.borda.to_numpy() for _, part in scored.groupby(["tier", "objective"])]
    assert found.p == pytest.approx(stats.f_oneway(*cells).pvalue)
    assert found.df_between == 5
    assert found.groups.loc[("small", "at"), "mean"] == pytest.approx(scored.borda[[0, 2, 4]].mean())
    assert (found.groups.n == 3).all()
    assert found.groups.index.names == ["tier", "objective"]


def test_tukey_is_oriented_and_sorted(scored):
    table = tukey(scored, "tier")
    assert table[["higher", "lower"]].to_numpy().tolist() == [
        ["large", "small"],
        ["large", "medium"],
        ["medium", "small"],
    ]
    means = scored.groupby("tier").borda.mean()
    assert table.difference.tolist() == pytest.approx(means[table.higher].to_numpy() - means[table.lower].to_numpy())
    # A difference is significant exactly where its interval leaves out 0.
    for alpha in (0.5, 0.1, 0.001):
        table = tukey(scored, "tier", alpha=alpha)
        assert (table.significant == (table.low > 0)).all()


def test_tests_refuse_what_they_cannot_compare(scored):
    with pytest.raises(EvidenceError, match="several protocols, 'full', 'linear'"):
        one_way(pd.concat([scored, scored.assign(protocol="linear")]), "tier")
    with pytest.raises(ArgumentError, match="column = 'teir': did you mean tier"):
        one_way(scored, "teir")
    with pytest.raises(ArgumentError, match="column = 'bord': did you mean borda"):
        tukey(scored, "tier", "bord")
    with pytest.raises(EvidenceError, match="'tier' is missing in 1 rows"):
        one_way(scored.assign(tier=scored.tier.where(scored.index != 3)), "tier")
    with pytest.raises(EvidenceError, match="only one value of schedule"):
        one_way(scored, "schedule")
    with pytest.raises(EvidenceError, match="18 rows in 18 groups"):
        two_way_cells(scored, ["backbone", "objective"])
    with pytest.raises(EvidenceError, match="variance of every group"):
        one_way(scored.iloc[5:], "tier", equal_variances=False)
    with pytest.raises(ArgumentError, match="alpha = 5"):
        tukey(scored, "tier", alpha=5)


def test_wins_ties_and_both_tests(scored):
    score = [1, 2, 1, 2, 1, 2, 1, 2, 2, 1, 1, 1, 1, 2, 1, 2, 3, 3]  # of at, trades, backbone by backbone
    table = win_odds(scored.assign(sum=score), treatment="trades", baseline="at")
    assert table[["wins", "losses", "ties"]].to_numpy().tolist() == [[2, 0, 1], [1, 1, 1], [3, 0, 0], [6, 1, 2]]
    assert table.index.tolist() == ["large", "medium", "small", "all"]
    assert table.odds.tolist() == [np.inf, 1, np.inf, 6]
    assert table.loc["all", "doubled_odds_ratio"] == 36
    assert table.p.tolist() == pytest.approx([0.5, 1, 0.25, 2 * (1 + 7) / 2**7])
    assert table.loc["all", "doubled_p"] == pytest.approx(stats.fisher_exact([[6, 1], [1, 6]]).pvalue)
    with pytest.raises(ArgumentError, match=r"treatment = 'mart'.*'at', 'trades'"):
        win_odds(scored, treatment="mart", baseline="at")
    with pytest.raises(EvidenceError, match="1 of 18 cells are missing: objective trades, backbone b0"):
        win_odds(scored.drop(index=1), treatment="trades", baseline="at")


def test_all_ties_have_no_odds(scored):
    table = win_odds(scored.assign(sum=1.0), treatment="trades", baseline="at")
    assert np.isnan(table.loc["all", "odds"])
    assert table.loc["all", "p"] == 1


def test_the_sign_test_holds_its_level_where_the_doubled_table_does_not():
    # 18 fair pairs: chance of p <= 0.05 under no effect, exactly.
    chance = stats.binom(18, 0.5).pmf(np.arange(19))
    sign = [stats.binomtest(wins, 18).pvalue for wins in range(19)]
    doubled = [stats.fisher_exact([[wins, 18 - wins], [18 - wins, wins]]).pvalue for wins in range(19)]
    assert chance @ (np.array(sign) <= 0.05) <= 0.05 < chance @ (np.array(doubled) <= 0.05)


def test_spearman_of_known_order():
    rows = pd.DataFrame({"clean": [1, 2, 3, 4.0], "linf": [1, 8, 27, 64.0], "l2": [4, 3, 2, 1.0], "l1": [5.0] * 4})
    rho, p = spearman_matrix(rows, ["clean", "linf", "l2", "l1"])
    assert rho.loc["clean"].tolist()[:3] == pytest.approx([1, 1, -1])
    assert np.isnan(rho.loc["clean", "l1"])
    assert rho.equals(rho.T)
    assert p.loc["clean", "linf"] == pytest.approx(0)
    with pytest.raises(ArgumentError, match="column = 'l_1'"):
        spearman_matrix(rows, ["clean", "l_1"])


def test_proxy_by_objective_and_over_all(scored):
    full = scored.assign(sum=np.random.default_rng(1).normal(scored["sum"], 3))
    both = pd.concat([full, scored.assign(protocol="cheap")])
    table = proxy(both, "cheap", "full")
    assert table.index.tolist() == ["at", "trades", "all"]
    assert table.n.tolist() == [9, 9, 18]
    expected = stats.pearsonr(scored["sum"], full["sum"])
    left_out = [stats.pearsonr(*np.delete([scored["sum"], full["sum"]], i, axis=1)).statistic for i in range(18)]
    jackknife = np.std(np.arctanh(left_out)) * np.sqrt(17)
    reach = stats.t.ppf(0.975, 16) * max(jackknife, 1 / np.sqrt(15))
    low, high = np.tanh(np.arctanh(expected.statistic) + np.array([-reach, reach]))
    found = table.loc["all", ["pearson", "pearson_low", "pearson_high", "pearson_p"]].tolist()
    assert found == pytest.approx([expected.statistic, low, high, expected.pvalue])
    assert table.loc["all", "spearman"] == pytest.approx(stats.spearmanr(scored["sum"], full["sum"]).statistic)
    pd.testing.assert_frame_equal(proxy(both.sample(frac=1, random_state=0), "cheap", "full"), table)
    same = proxy(pd.concat([scored, scored.assign(protocol="cheap")]), "cheap", "full").loc["all"]
    assert (same.pearson, same.spearman, same.spearman_high) == pytest.approx((1, 1, 1))
    with pytest.raises(ArgumentError, match=r"cheap = 'chaep'.*'cheap', 'full'"):
        proxy(both, "chaep", "full")
    with pytest.raises(EvidenceError, match="1 of 36 cells are missing: protocol full, backbone b0"):
        proxy(both.iloc[1:], "cheap", "full")


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("backbones", [4, 6, 20])
@pytest.mark.parametrize("kind", ["pearson", "spearman"])
def test_a_perfect_correlation_has_an_interval_that_narrows_with_the_backbones(kind, backbones, sign):
    def ends(count):
        rows = [
            {"backbone": f"b{place}", "objective": "all", "schedule": "all", "protocol": name, "sum": scale * place}
            for name, scale in (("cheap", 1.0), ("full", 2.0 * sign))
            for place in range(count)
        ]
        found = proxy(pd.DataFrame(rows), "cheap", "full").loc["all"]
        assert found[kind] == pytest.approx(sign)
        assert -1 <= found[f"{kind}_low"] < found[f"{kind}_high"] <= 1
        return sorted([found[f"{kind}_low"] * sign, found[f"{kind}_high"] * sign])

    (low, high), (later, last) = ends(backbones), ends(2 * backbones)
    assert (high, last) == pytest.approx((1, 1))
    assert low < later < 1


@pytest.mark.slow
@pytest.mark.parametrize("truth", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("backbones", [4, 16])
def test_spearmans_interval_covers_the_truth(backbones, truth):
    """Bonett and Wright's standard error alone covers .83 of the time at a true .99 and 16 backbones."""
    rng, rho, held = np.random.default_rng(7), 2 * np.sin(np.pi * truth / 6), 0
    for _ in range(60):
        first, noise = rng.normal(size=(2, backbones))
        rows = pd.DataFrame({"backbone": [f"b{place}" for place in range(backbones)], "objective": "all"})
        rows = rows.assign(schedule="all")
        both = [
            rows.assign(protocol="cheap", sum=first),
            rows.assign(protocol="full", sum=rho * first + np.sqrt(1 - rho**2) * noise),
        ]
        found = proxy(pd.concat(both), "cheap", "full").loc["all"]
        held += found.spearman_low <= truth <= found.spearman_high
    assert held / 60 > 0.88
