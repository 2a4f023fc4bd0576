"""Intervals of ranks: cases whose distribution is known exactly, and where the truth is known."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from temper.benchmark.analysis import PERTURBATIONS, borda, rank_correlation_interval, rank_intervals
from temper.errors import ArgumentError, EvidenceError
from temper.margins import intervals

KEYS = ["backbone", "objective", "schedule", "protocol", "dataset", "seed"]


def outcomes_of(*runs, metrics=("clean",)):
    """Outcomes by sample of runs (factors, array [samples] or [samples, metrics])."""
    parts = []
    for factors, values in runs:
        values = np.asarray(values, float).reshape(len(values), -1)
        defaults = {"objective": "at", "schedule": "fixed", "protocol": "full", "dataset": "x", "seed": 0}
        part = pd.DataFrame(values, columns=[*metrics]).assign(sample=np.arange(len(values)), **(defaults | factors))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def rows_of(outcomes, metrics=("clean",)):
    return outcomes.groupby(KEYS, as_index=False)[[*metrics]].mean()


clean_sum = partial(rank_intervals, metrics=["clean"], score="sum")


def test_samples_drawn_again_follow_the_binomial():
    # a is first when its one success of three is drawn at least twice: P = 3 (1/3)^2 (2/3) + (1/3)^3 = 7/27.
    told = outcomes_of(({"backbone": "a"}, [1, 0, 0]), ({"backbone": "b"}, [0.5, 0.5, 0.5]))
    table = clean_sum(rows_of(told), outcomes=told, resamples=20000).set_index("backbone")
    assert table["rank"].to_dict() == {"a": 2, "b": 1}
    assert set(table.over) == {"samples"}
    assert table["first"].to_dict() == pytest.approx({"a": 7 / 27, "b": 20 / 27}, abs=0.012)
    # One data set and metric: the scores' ends are those of a mean, which for outcomes of 0 and 1 are exact.
    assert table.loc["a", ["score_low", "score_high"]].tolist() == pytest.approx(intervals.exact(1, 3), abs=0.01)
    half = intervals.mean(np.full(3, 0.5), np.full(3, 0.5))
    assert table.loc["b", ["score_low", "score_high"]].tolist() == pytest.approx([half.low, half.high], abs=0.01)
    assert table.score.to_dict() == pytest.approx({"a": 1 / 3, "b": 0.5})
    assert table[["low", "high"]].to_numpy().tolist() == [[1, 2], [1, 2]]


def test_seeds_follow_students_t():
    # The mean of a over its two seeds is 1/2 with a standard error of 1/2 and one degree of freedom; b does not vary.
    rows = pd.DataFrame(
        {"backbone": [*"aabb"], "seed": [0, 1, 0, 1], "clean": [0, 1, 0.5, 0.5], "objective": "at",
         "schedule": "fixed", "protocol": "full", "dataset": "x"}
    )  # fmt: skip
    table = clean_sum(rows, resamples=20000).set_index("backbone")
    assert table["first"].to_dict() == pytest.approx({"a": 0.5, "b": 0.5}, abs=0.012)
    assert table.score.tolist() == [0.5, 0.5]
    assert table["rank"].tolist() == [1, 1]
    assert set(table.over) == {"seeds"}
    shifted = clean_sum(rows.assign(clean=[0, 1, 0.25, 0.25]), resamples=20000).set_index("backbone")
    ahead = stats.t(1).cdf(0.25 / 0.5)
    assert shifted["first"].to_dict() == pytest.approx({"a": ahead, "b": 1 - ahead}, abs=0.012)
    half = clean_sum(rows, resamples=20000, confidence=0.5).set_index("backbone")
    assert half.loc["a", ["score_low", "score_high"]].tolist() == pytest.approx(
        stats.t.interval(0.5, 1, 0.5, 0.5), abs=0.03
    )


def test_samples_and_seeds_add_their_variances():
    rng = np.random.default_rng(0)
    runs = [({"backbone": "a", "seed": s}, rng.random(200) < p) for s, p in enumerate((0.2, 0.5, 0.8))]
    told = outcomes_of(*runs)
    table = clean_sum(rows_of(told), outcomes=told, resamples=4000, confidence=0.6827)
    values = told.pivot(index="sample", columns="seed", values="clean").to_numpy()
    # Of the seeds Student's t with two degrees of freedom, of the samples of their mean a normal error.
    seeds = values.mean(axis=0).std(ddof=1) / np.sqrt(3) * stats.t(2).rvs(size=100_000, random_state=rng)
    errors = seeds + values.mean(axis=1).std() / np.sqrt(200) * rng.normal(size=100_000)
    assert set(table.over) == {"samples and seeds"}
    half = (table.score_high - table.score_low).iloc[0] / 2
    assert half == pytest.approx(np.quantile(errors, 0.84135), rel=0.08)


def test_identical_configurations_always_tie():
    rng = np.random.default_rng(1)
    one = rng.random((60, 5)) < 0.5
    other = rng.random((60, 5)) < 0.5
    runs = [
        ({"backbone": name, "dataset": dataset}, values)
        for dataset in "xy"
        for name, values in (("a", one), ("twin", one), ("other", other))
    ]
    told = outcomes_of(*runs, metrics=PERTURBATIONS)
    columns = ["score", "score_low", "score_high", "rank", "low", "high", "first"]
    for score, bounded in (("borda", False), ("sum", True)):
        table = rank_intervals(rows_of(told, PERTURBATIONS), outcomes=told, score=score).set_index("backbone")
        np.testing.assert_array_equal(table.loc["a", columns].to_list(), table.loc["twin", columns].to_list())
        assert table["first"].sum() == pytest.approx(1)
        assert 0 < table.loc["other", "first"] < 1
        assert (table[["score_low", "score_high"]].notna() == bounded).all(axis=None)


def test_draws_are_paired_so_a_better_network_is_never_overtaken():
    rng = np.random.default_rng(2)
    a = (rng.random(300) < 0.5).astype(float)
    b = np.where(
        np.arange(300) < 20, 1.0, a
    )  # as a, and right on the first 20: better by less than the error of either
    told = outcomes_of(({"backbone": "a"}, a), ({"backbone": "b"}, b))
    table = clean_sum(rows_of(told), outcomes=told).set_index("backbone")
    assert table.loc["b", ["low", "high"]].tolist() == [1, 1]
    assert table.loc["b", "first"] > 0.99
    assert table.loc["a", "score_high"] > table.loc["b", "score_low"]


@pytest.mark.slow
@pytest.mark.parametrize("gap", [0.0, 0.005, 0.02])
@pytest.mark.parametrize("score", ["sum", "borda"])
def test_ranks_over_few_seeds_cover_the_truth(score, gap):
    """Four configurations on two data sets; a bootstrap of three seeds covered .67 of near equals."""
    rng, repeats, truth = np.random.default_rng(6), 40, 0.5 + gap * np.arange(4)[::-1]
    places, datasets, seeds = (each.ravel() for each in np.indices((4, 2, 3)))
    rows = pd.DataFrame(
        {"backbone": np.array([*"abcd"])[places], "dataset": datasets, "seed": seeds, "objective": "at",
         "schedule": "fixed", "protocol": "full"}
    )  # fmt: skip
    right = np.arange(1, 5) if gap else np.ones(4)
    held, scores = np.empty((repeats, 4)), np.empty((repeats, 4))
    for repeat in range(repeats):
        told = rows.assign(clean=truth[places] + rng.normal(scale=0.01, size=len(rows)))
        table = rank_intervals(told, metrics=["clean"], score=score).set_index("backbone").loc[[*"abcd"]]
        held[repeat] = (table.low <= right) & (right <= table.high)
        scores[repeat] = (table.score_low <= 2 * truth) & (2 * truth <= table.score_high)
    assert held.mean(axis=0).min() > 0.87  # of 40 repeats; three standard errors below .95
    assert score == "borda" or scores.mean() > 0.88


@pytest.mark.slow
def test_intervals_cover_the_truth():
    rng = np.random.default_rng(3)
    truth, covered, ranked, firsts = np.array([0.7, 0.7]), [], [], []
    for _ in range(100):
        told = outcomes_of(*(({"backbone": n}, rng.random(100) < p) for n, p in zip("ab", truth, strict=True)))
        table = clean_sum(rows_of(told), outcomes=told, resamples=300).set_index("backbone").loc[["a", "b"]]
        covered += ((table.score_low <= truth) & (truth <= table.score_high)).tolist()
        ranked += (table.low == 1).tolist()
        firsts.append(table.loc["a", "first"])
    assert 0.91 < np.mean(covered) < 0.99
    assert np.mean(ranked) > 0.93
    assert np.mean(firsts) == pytest.approx(0.5, abs=0.07)


@pytest.fixture(scope="module")
def told():
    """6 backbones, 2 objectives, 2 schedules, 2 protocols, 2 data sets, 2 seeds; later letters are better."""
    rng = np.random.default_rng(4)
    runs = []
    for place, backbone in enumerate("abcdef"):
        for objective in ("at", "trades"):
            for schedule in ("fixed", "hinge"):
                for protocol in ("full", "linear"):
                    for dataset in "xy":
                        for seed in (0, 1):
                            p = 0.2 + 0.1 * (place if schedule == "fixed" else 5 - place)
                            factors = {"backbone": backbone, "objective": objective, "schedule": schedule}
                            factors |= {"protocol": protocol, "dataset": dataset, "seed": seed}
                            runs.append((factors, rng.random((80, 2)) < p))
    return outcomes_of(*runs, metrics=("clean", "linf"))


METRICS = ("clean", "linf")


def test_the_order_of_rows_does_not_matter_and_the_seed_does(told):
    rows = rows_of(told, METRICS)
    call = partial(rank_intervals, metrics=METRICS, resamples=200)
    table = call(rows, outcomes=told)
    shuffled = call(rows.sample(frac=1, random_state=0), outcomes=told.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(table, shuffled)
    assert not table.equals(call(rows, outcomes=told, seed=1))
    assert table.groupby("protocol").size().to_dict() == {"full": 24, "linear": 24}
    assert table.groupby("protocol")["first"].sum().tolist() == pytest.approx([1, 1])
    assert (table.low <= table.high).all()


def test_scores_are_those_of_borda_over_seeds(told):
    rows = rows_of(told, METRICS)
    means = rows.groupby(KEYS[:-1], as_index=False)[[*METRICS]].mean()
    key = ["protocol", "backbone", "objective", "schedule"]
    expected = borda(means, METRICS).set_index(key)
    for score in ("borda", "sum", "product"):
        found = rank_intervals(rows, metrics=METRICS, score=score, resamples=5).set_index(key)
        assert found.score.to_dict() == pytest.approx(expected[score].to_dict())
    by_function = rank_intervals(rows, metrics=METRICS, score=lambda values: values[..., 0].mean(axis=-1), resamples=5)
    assert by_function.set_index(key).score.to_dict() == pytest.approx(expected.clean.to_dict())


def test_a_reversed_ranking(told):
    rows = rows_of(told, METRICS)
    call = partial(rank_correlation_interval, rows, outcomes=told, metrics=METRICS, resamples=300)
    schedule = call("schedule", ("fixed", "hinge"), pair=("a", "f"))
    assert schedule.protocol.tolist() == ["full", "linear"]
    assert (schedule.tau < -0.8).all()
    assert (schedule.high < 0.4).all()
    assert (schedule.n == 6).all()
    assert (schedule.low <= schedule.tau).all()
    assert (schedule.tau <= schedule.high).all()
    assert schedule.swapped.all()
    assert (schedule.swap == 1).all()
    assert set(schedule.over) == {"samples and seeds"}
    protocol = call("protocol", ("linear", "full"))
    assert len(protocol) == 1
    assert [*protocol.columns] == ["tau", "low", "high", "n", "over"]
    # Within one schedule the objective changes nothing.
    fixed, own = rows[rows.schedule == "fixed"], told[told.schedule == "fixed"]
    call = partial(rank_correlation_interval, metrics=METRICS, resamples=300)
    alike = call(fixed, "objective", ("at", "trades"), pair=("a", "f"), outcomes=own)
    assert (alike.tau > 0.8).all()
    assert (alike.high == 1).all()
    assert not alike.swapped.any()
    assert (alike.swap < 0.01).all()
    # Two seeds say next to nothing of how far others go; without that doubt, of one seed, most orders are sure.
    one, first = told[told.seed == 0], own[own.seed == 0]
    sharper = call(rows_of(one, METRICS), "schedule", ("fixed", "hinge"), outcomes=one)
    assert (sharper.low == -1).all()
    assert (sharper.high < schedule.high).all()
    assert (sharper.high < -0.3).all()
    sharper = call(rows_of(first, METRICS), "objective", ("at", "trades"), pair=("a", "f"), outcomes=first)
    assert (sharper.low > alike.low).all(), sharper
    assert (sharper.swap == 0).all(), sharper


def test_the_probability_of_a_swap_is_that_of_the_binomial():
    # Under hinge a leads for sure; under fixed b leads unless a's one success of three is drawn twice or more.
    told = outcomes_of(
        ({"backbone": "a"}, [1, 0, 0]),
        ({"backbone": "b"}, [0.5, 0.5, 0.5]),
        ({"backbone": "a", "schedule": "hinge"}, [0.75, 0.75, 0.75]),
        ({"backbone": "b", "schedule": "hinge"}, [0.5, 0.5, 0.5]),
    )
    found = rank_correlation_interval(
        rows_of(told),
        "schedule",
        ("fixed", "hinge"),
        pair=("a", "b"),
        outcomes=told,
        metrics=["clean"],
        resamples=20000,
    ).iloc[0]
    assert found.swapped
    assert found.swap == pytest.approx(20 / 27, abs=0.012)
    assert (found.tau, found.low, found.high) == (-1, -1, 1)


def test_tau_is_that_of_scipy_with_ties():
    rng = np.random.default_rng(5)
    values = rng.integers(0, 5, size=(2, 12)) / 4
    rows = pd.DataFrame(
        [
            {"backbone": f"b{i}", "objective": "at", "schedule": s, "protocol": "full", "dataset": "x", "seed": seed}
            | {"clean": values[level, i]}
            for level, s in enumerate(("fixed", "hinge"))
            for i in range(12)
            for seed in (0, 1)
        ]
    )
    found = rank_correlation_interval(rows, "schedule", ("fixed", "hinge"), metrics=["clean"], resamples=3).iloc[0]
    assert found.tau == pytest.approx(stats.kendalltau(*values).statistic)
    # Equal seeds: nothing varies, so every pair's order is sure but those of backbones that tie.
    one, other = np.triu_indices(12, k=1)
    orders = np.sign(values[:, one] - values[:, other]).prod(axis=0)
    expected = orders.mean() - (orders == 0).mean(), orders.mean() + (orders == 0).mean()
    assert (found.low, found.high) == pytest.approx(expected)
    assert (orders == 0).any()
    untied = rows.assign(clean=rows["clean"] + rows["backbone"].str[1:].astype(int) / 1000)
    sure = rank_correlation_interval(untied, "schedule", ("fixed", "hinge"), metrics=["clean"], resamples=3).iloc[0]
    assert sure.low == pytest.approx(sure.tau)
    assert sure.high == pytest.approx(sure.tau)
    tied = rank_correlation_interval(
        rows.assign(clean=0.5), "schedule", ("fixed", "hinge"), metrics=["clean"], resamples=3
    )
    assert tied.tau.tolist() == [0]


def test_what_cannot_be_drawn_or_does_not_belong_is_refused(told):
    rows = rows_of(told, METRICS)
    call = partial(rank_intervals, metrics=METRICS, resamples=3)
    with pytest.raises(EvidenceError, match="one seed and no outcomes"):
        call(rows[rows.seed == 0])
    with pytest.raises(EvidenceError, match=r"1 of 96 cells are missing: backbone a, .*seed 1"):
        call(rows.drop(index=rows.index[(rows.protocol == "full") & (rows.seed == 1)][0]))
    with pytest.raises(EvidenceError, match=r"1 of 3840 cells are missing: .*sample 0"):
        call(rows, outcomes=told.iloc[1:])
    with pytest.raises(EvidenceError, match="on data set x and the rows differ in seed: 1 and 2"):
        call(rows, outcomes=told[told.seed == 0])
    with pytest.raises(EvidenceError, match="the outcomes lack data set y"):
        call(rows, outcomes=told[told.dataset == "x"])
    with pytest.raises(EvidenceError, match="data sets that the rows lack, the first is y"):
        call(rows[rows.dataset == "x"], outcomes=told)
    with pytest.raises(EvidenceError, match=r"average to something else than the rows, by up to 0.1 in 'linf'"):
        call(rows.assign(linf=rows.linf + 0.1), outcomes=told)
    with pytest.raises(EvidenceError, match="no rows"):
        call(rows.iloc[:0])


def test_wrong_names_and_numbers_are_named(told):
    rows = rows_of(told, METRICS)
    with pytest.raises(ArgumentError, match="column = 'seed': did you mean seeds"):
        rank_intervals(rows.rename(columns={"seed": "seeds"}), metrics=METRICS)
    with pytest.raises(ArgumentError, match="column = 'lnf': did you mean linf"):
        rank_intervals(rows, metrics=["lnf"])
    with pytest.raises(ArgumentError, match="score = 'brda': did you mean borda"):
        rank_intervals(rows, metrics=METRICS, score="brda")
    for wrong in ({"resamples": 0}, {"seed": -1}, {"confidence": 95}):
        with pytest.raises(ArgumentError, match=next(iter(wrong))):
            rank_intervals(rows, metrics=METRICS, **wrong)
    correlate = partial(rank_correlation_interval, rows, metrics=METRICS)
    with pytest.raises(ArgumentError, match="factor = 'scedule': did you mean schedule"):
        correlate("scedule", ("fixed", "hinge"))
    with pytest.raises(ArgumentError, match="levels = 'hing': did you mean hinge"):
        correlate("schedule", ("fixed", "hing"))
    with pytest.raises(ArgumentError, match="two different"):
        correlate("schedule", ("fixed", "fixed"))
    with pytest.raises(ArgumentError, match="pair = 'z'"):
        correlate("schedule", ("fixed", "hinge"), pair=("a", "z"))
    with pytest.raises(EvidenceError, match="protocol linear has only one of 'fixed' and 'hinge'"):
        rank_correlation_interval(
            rows[(rows.protocol == "full") | (rows.schedule == "fixed")],
            "schedule",
            ("fixed", "hinge"),
            metrics=METRICS,
        )
    with pytest.raises(EvidenceError, match="at least 2 backbones, there is only a"):
        rank_correlation_interval(rows[rows.backbone == "a"], "schedule", ("fixed", "hinge"), metrics=METRICS)
