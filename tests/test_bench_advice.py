"""Advice and findings on results whose truth is known."""

import json

import numpy as np
import pytest

from temper.benchmark.advice import advise
from temper.benchmark.store import Store
from temper.cli import main as cli
from temper.errors import ArgumentError, EvidenceError

METRICS = ("clean", "linf", "l2", "l1", "common")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two backbones, two losses, two schedules, two protocols, two data sets, three seeds: large beats small by 0.2,
    hinge beats fixed by 0.1, full beats linear by 0.3, trades is at's equal but for noise."""
    store = Store(tmp_path_factory.mktemp("results"), create=True)
    number = 0
    for backbone, tier, plus in (("tiny", "small", 0.0), ("huge", "large", 0.2)):
        for protocol, epochs, more in (("full-50", 50, 0.3), ("linear-5", 5, 0.0)):
            for schedule, bonus in (("fixed", 0.0), ("hinge", 0.1)):
                for objective in ("at", "trades"):
                    for dataset, n in (("few", 100), ("many", 10_000)):
                        for seed in range(3):
                            number += 1
                            value = 0.2 + plus + more + bonus + 0.001 * ((number * 7) % 5)
                            store.write_run(
                                {
                                    "run": f"{number:04d}", "status": "done", "backbone": backbone, "tier": tier,
                                    "type": "attention" if tier == "small" else "convolution",
                                    "dataset": dataset, "objective": objective, "schedule": schedule,
                                    "protocol": protocol, "seed": seed, "config": json.dumps({"epochs": epochs}),
                                    "train_n": n, "classes": 10, **dict.fromkeys(METRICS, value),
                                }
                            )  # fmt: skip
    return store


def test_the_best_is_advised_with_its_width(results):
    found = advise(results.place)
    best = found.choices[0]
    assert (best.configuration.backbone, best.configuration.schedule) == ("huge", "hinge")
    assert (best.protocol, best.epochs) == ("full-50", 50)
    assert best.score.value == pytest.approx(5 * 0.8, abs=0.03)
    assert best.score.low <= best.score.value <= best.score.high
    assert best.rank.low <= best.rank.value <= best.rank.high <= 2  # the two losses cannot be told apart
    assert [each.protocol for each in found.choices] == ["full-50", "linear-5"]
    assert any("hinge against fixed" in heading and "+10.0 points" in text for heading, text in found.evidence)


def store_of_equals(place, seeds: int, count: int = 40):
    """Configurations that are all worth 2.5, measured with noise."""
    rng, store = np.random.default_rng(0), Store(place, create=True)
    for number in range(count * seeds):
        row = {"run": f"{number:04d}", "status": "done", "backbone": f"b{number % count}", "dataset": "d"}
        row |= {"objective": "at", "schedule": "fixed", "protocol": "full-5", "seed": number // count}
        noise = dict(zip(METRICS, 0.5 + 0.05 * rng.normal(size=5), strict=True))
        store.write_run(row | noise | {"config": json.dumps({"epochs": 5})})
    return str(place)


@pytest.mark.slow
def test_the_best_of_many_equals_is_not_said_to_be_better(tmp_path):
    found = advise(store_of_equals(tmp_path, seeds=5))
    assert found.flattery.among == 40
    assert found.choices[0].score.value > 2.57  # the luck of the best of forty
    assert found.flattery.expected == pytest.approx(2.5, abs=0.1)
    assert found.flattery.expected < found.choices[0].score.value
    assert any(
        "best of 40 configurations" in line and f"scores {found.flattery.expected:.2f}" in line for line in found.basis
    )
    assert found.to_json()["expected"] == found.flattery.expected
    first = found.choices[0]
    assert first.shrunk.low < 2.5 < first.shrunk.high
    assert abs(first.shrunk.value - 2.5) < 0.3 * (first.score.value - 2.5)
    assert len(found.rivals) > 10  # none of forty equals is likely the best
    assert found.flattery.further.low < 0 < found.flattery.further.high


def test_one_seed_cannot_say_how_flattered_the_best_is(tmp_path):
    found = advise(store_of_equals(tmp_path, seeds=1, count=5))
    assert np.isnan(found.flattery.expected)
    assert found.to_json()["expected"] is None
    assert found.to_json()["choices"][0]["shrunk"] is None
    assert any("best of 5 configurations" in line and "cannot say by how much" in line for line in found.basis)


@pytest.mark.slow
def test_size_budget_and_data_narrow_the_choice(results):
    assert advise(results.place, size="small").choices[0].configuration.backbone == "tiny"
    assert [each.protocol for each in advise(results.place, budget=10).choices] == ["linear-5"]
    assert "12 runs on few" in advise(results.place, size="small", budget=5, data_spec="few").basis[0]
    near = advise(results.place, data_spec="digits").basis  # 180 images per class
    assert any("nearest in that among the results: many (1000, 10)" in line for line in near)
    assert advise(results.place, images=1800, classes=10).basis == near


def test_what_leaves_nothing_is_told(results, tmp_path):
    with pytest.raises(ArgumentError, match="budget = 2: the cheapest protocol of the results takes 5"):
        advise(results.place, budget=2)
    with pytest.raises(ArgumentError, match="data = 'fwe'"):
        advise(results.place, data_spec="fwe")
    with pytest.raises(ArgumentError, match=r"images, classes = \(5, None\): say both"):
        advise(results.place, images=5)
    with pytest.raises(ArgumentError, match="data = 'digits': says how many"):
        advise(results.place, data_spec="digits", images=5, classes=2)
    Store(tmp_path, create=True)
    with pytest.raises(EvidenceError, match="no finished run"):
        advise(str(tmp_path))


def test_a_constant_predictor_is_not_advised(tmp_path):
    """Attacks cannot lower it, so Borda alone would put it first."""
    store = Store(tmp_path, create=True)
    values = {
        "constant": (0.1, 0.1, 0.1, 0.1, 0.1),
        "useful": (0.8, 0.05, 0.05, 0.05, 0.7),
        "worse": (0.7, 0, 0, 0, 0.6),
    }
    for number, (name, numbers) in enumerate(values.items()):
        row = {"run": str(number), "status": "done", "backbone": name, "dataset": "d", "objective": "at"}
        row |= {"schedule": "fixed", "protocol": "linear-50", "seed": 0, "config": json.dumps({"epochs": 50})}
        store.write_run(row | dict(zip(METRICS, numbers, strict=True)))
    found = advise(str(tmp_path))
    assert [each.configuration.backbone for each in (found.choices[0], *found.rivals)] == [
        "useful",
        "worse",
        "constant",
    ]


def test_the_command_prints_json(results, capsys):
    assert cli.main(["bench", "advise", "--results", results.place, "--size", "large", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["choices"][0]["backbone"] == "huge"
    assert found["basis"]
    assert cli.main(["bench", "advise", "--results", results.place]) == 0
    assert "Take huge with" in capsys.readouterr().out
