"""Advice from the published figures that come along: what it says of itself, and the runs that would settle it."""

import itertools
import json

import numpy as np
import pytest

from temper.benchmark.advice import advise
from temper.benchmark.analysis import perturbation_sum
from temper.benchmark.analysis.shrinkage import shrink
from temper.benchmark.grid import cells
from temper.benchmark.presets import UNTRAINED
from temper.benchmark.published import published_results
from temper.benchmark.settling import settling_spec
from temper.benchmark.spec import read_spec
from temper.cli import main as cli
from temper.errors import ArgumentError


@pytest.fixture(scope="module")
def found():
    return advise()


@pytest.fixture(scope="module")
def cheap():
    return advise(size="medium", budget=5)


def test_it_advises_as_the_authors_do(found, cheap):
    assert found.choices[0].configuration.backbone == "convnext_base.fb_in22k"
    assert found.choices[0].protocol == "full-50"
    assert cheap.choices[0].configuration.backbone.startswith("robust_")
    small = advise(size="small").choices[0]
    assert (small.configuration.backbone, small.configuration.objective) == ("coat_tiny.in1k", "trades-guide")


def test_it_says_what_it_is(found):
    assert found.published
    assert "arXiv:2508.14079" in found.source
    assert any("three quarters of the images" in line for line in found.basis)
    assert found.flattery.among == 3 * 2 * (40 - len(UNTRAINED))
    assert not any(each.configuration.backbone in UNTRAINED for each in (*found.choices, *found.rivals))


def test_the_best_of_many_is_not_taken_at_its_word(found, cheap):
    for each in (found, cheap):
        first, flattery = each.choices[0], each.flattery
        assert first.shrunk.low < first.shrunk.value < first.score.value
        assert flattery.expected < first.score.value
        assert flattery.further.high - flattery.further.low > first.shrunk.high - first.shrunk.low
        held = first.chance + sum(rival.chance for rival in each.rivals)
        assert held >= 0.8 > held - each.rivals[-1].chance


@pytest.mark.slow
def test_data_sets_like_ones_own_count_alone_only_where_that_chooses_better():
    whole, narrow = advise(images=1000, classes=100), advise(size="medium", images=300, classes=3)
    assert any("all data sets count: with each data set held out" in line for line in whole.basis)
    assert any("only these count: with each data set held out" in line for line in narrow.basis)
    assert "360 runs on caltech101, oxford-iiit-pet, uc-merced" in narrow.basis[0]  # half of 720


def test_intervals_for_one_more_data_set_hold_on_one_that_was_held_out():
    """72 hold-outs: 6 data sets, 3 protocols, by tier and over all."""
    rows = published_results()
    rows = rows.assign(total=perturbation_sum(rows))[~rows["backbone"].isin(UNTRAINED)]
    inside = []
    for (_, own), tier in itertools.product(rows.groupby("protocol"), ("small", "medium", "large", "")):
        kept = own[own["tier"] == tier] if tier else own
        table = kept.pivot_table(index=["backbone", "objective"], columns="dataset", values="total").to_numpy()
        for place in range(table.shape[1]):
            shrunk = shrink(np.delete(table, place, axis=1))
            best = shrunk.means.argmax()
            above = table[best, place] - table[:, place].mean()
            half = shrunk.width * np.hypot(shrunk.errors[best], shrunk.noise)
            inside.append(abs(above - (shrunk.means[best] - shrunk.centre)) <= half)
    assert len(inside) == 72
    assert np.mean(inside) > 0.85


def test_what_settles_it_is_a_grid_of_just_those_cells(cheap):
    grid = cells(read_spec(settling_spec(cheap, "digits")))
    wanted = {(each.configuration.objective, each.protocol) for each in (cheap.choices[0], *cheap.rivals)}
    assert len(grid) == 3 * (1 + len(cheap.rivals))
    assert {(cell.factors["objective"], cell.factors["protocol"]) for cell in grid} == wanted
    assert {cell.factors["dataset"] for cell in grid} == {"digits"}
    assert {cell.config.model.name.partition("@")[0] for cell in grid} == {
        each.configuration.backbone for each in (cheap.choices[0], *cheap.rivals)
    }


@pytest.mark.slow
def test_the_command_writes_picture_and_spec(tmp_path, capsys):
    out = tmp_path / "advice"
    call = ["bench", "advise", "--size", "small", "--data", "digits", "--out", str(out)]
    assert cli.main([*call, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["published"]
    assert said["choices"][0]["shrunk_low"] < said["choices"][0]["shrunk"] < said["choices"][0]["score"]
    assert "</svg>" in (out / "advice.svg").read_text()
    assert cli.main(["bench", "plan", said["spec"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == 3 * (1 + len(said["rivals"]))
    assert cli.main(call) == 2  # a SPEC that may have been edited is not written over
    assert "holds a spec.yaml already" in capsys.readouterr().err


def test_the_command_says_that_nothing_was_measured_here(capsys):
    assert cli.main(["bench", "advise", "--size", "small"]) == 0
    said = capsys.readouterr().out
    assert "published figures of arXiv:2508.14079, not on anything that Temper measured" in said
    assert "Expect a sum of" in said


def test_a_store_has_a_spec_already(found):
    own = type(found)(**{**vars(found), "published": False, "source": "runs/mine"})
    with pytest.raises(ArgumentError, match="runs/mine"):
        settling_spec(own, "digits")
