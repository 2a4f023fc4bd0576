"""From a SPEC to a grid of runs: what is hashed, what contradicts, how long it takes."""

import pytest
import yaml

from bench_grid import TINY, tiny
from temper.benchmark.grid import cells
from temper.benchmark.spec import read_spec
from temper.errors import ArgumentError
from temper.threat import Threat
from temper.training.config import FinetuneConfig


def grid(**changes):
    return cells(read_spec(tiny(**changes)))


def test_the_grid_is_the_product_of_its_factors():
    found = grid(objectives=["at", "trades"], seeds=[0, 1, 2])
    assert len(found) == 2 * 2 * 3
    assert len({cell.run for cell in found}) == 12
    assert {tuple(cell.factors.values())[2:4] for cell in found} == {
        ("at", "fixed"),
        ("at", "hinge"),
        ("trades", "fixed"),
        ("trades", "hinge"),
    }
    assert all(cell.config.seed == cell.factors["seed"] for cell in found)


def test_a_file_and_a_mapping_give_the_same_runs(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(TINY))
    assert [cell.run for cell in cells(read_spec(path))] == [cell.run for cell in grid()]


def test_a_run_is_named_by_what_its_result_depends_on():
    base = grid()[0]
    trained = grid(finetune=TINY["finetune"] | {"batch_size": 48})[0]
    measured = grid(measure=TINY["measure"] | {"limit": 13})[0]
    elsewhere = grid(finetune=TINY["finetune"] | {"checkpoint_seconds": 5, "accelerator": "auto"})[0]
    batched = grid(measure=TINY["measure"] | {"batch_size": 3})[0]
    assert trained.training != base.training
    assert trained.run != base.run
    assert measured.training == base.training
    assert measured.run != base.run  # measured anew without training
    assert elsewhere.run == batched.run == base.run


def test_a_default_that_is_spelled_out_is_the_same_run():
    spelled = TINY["finetune"] | {"attack": {"name": "pgd", "steps": 1, "step_size": 2.5, "random_start": True}}
    assert grid(finetune=spelled)[0].run == grid()[0].run


def test_runs_keep_the_names_that_stores_know_them_by():
    """As they were before there were younger options; one of those that is used names another run."""
    guide = cells(read_spec({"preset": "guide", "backbones": ["bundled"], "datasets": ["digits"]}))[0]
    assert (grid()[0].training, grid()[0].run) == ("1382b9f38154fbd2", "4e18f4e01af6dd65")
    assert (guide.training, guide.run) == ("f2d548bc0da956e1", "0d34fd63a3e6b410")
    assert grid(finetune=TINY["finetune"] | {"validation": {"keep": "best"}})[0].training != grid()[0].training


def test_the_threats_given_are_all_there_are():
    assert list(grid()[0].measure.threats) == ["linf"]


def test_threats_are_searched_with_the_suites_of_their_metrics():
    two = {"linf": "Linf:8/255", "l2": "L2:0.5", "half": "Linf:4/255"}
    base = TINY["measure"] | {"threats": two, "suite": "fast", "points": 2}
    (plain, *_), (other, *_) = grid(measure=base), grid(measure=base | {"suites": {"l2": "apgd", "linf": "apgd"}})
    assert plain.measure.searched == {"fast": [Threat("Linf", 4 / 255), Threat("Linf", 8 / 255), Threat("L2", 0.5)]}
    assert other.measure.searched == {
        "fast": [Threat("Linf", 4 / 255), Threat("Linf", 8 / 255)],
        "apgd": [Threat("Linf", 8 / 255), Threat("L2", 0.5)],
    }
    assert other.training == plain.training
    assert other.run != plain.run
    assert grid(measure=base | {"suites": {}})[0].run == plain.run


def test_presets_fill_what_is_not_given():
    spec = read_spec({"preset": "guide", "backbones": ["bundled"], "datasets": ["digits"]})
    found = cells(spec)
    assert len(found) == 2 * 3
    assert spec.measure.suite == "standard"
    cell = next(each for each in found if each.factors["protocol"] == "full-5")
    assert (cell.config.epochs, cell.config.batch_size, cell.config.attack.steps) == (5, 1024, 10)
    assert cell.config.model.mean is None
    assert cell.config.data.augmentation == "paper"
    exact = cells(read_spec({"preset": "guide-exact", "backbones": ["bundled"], "datasets": ["digits"]}))
    trades = next(each for each in exact if each.factors["objective"] == "trades-guide")
    assert trades.config.batch_size == 2048
    assert trades.config.data.augmentation == "paper-twice"
    assert trades.config.model.mean == (0.485, 0.456, 0.406)


def test_guide_exact_normalises_by_name_and_leaves_two_networks_untrained():
    names = ["vit_base_patch16_clip_224.laion2b", "efficientnet-b0", "convnext_tiny.fb_in1k"]
    found = cells(read_spec({"preset": "guide-exact", "backbones": names, "datasets": ["digits"]}))
    model = {cell.factors["backbone"]: cell.config.model for cell in found}
    assert [model[name].mean[0] for name in names] == [0.48145466, 0.485, 0.485]
    assert [model[name].weights for name in names] == [None, "none", None]
    assert {cell.facts["type"] for cell in found} == {"attention", "convolution"}


def test_exceptions_change_or_drop_cells():
    rule = {"where": {"schedule": "hi*", "seed": [1]}, "finetune": {"epochs": 3}}
    found = grid(seeds=[0, 1], exceptions=[rule, {"where": {"schedule": "fixed", "seed": 0}, "skip": True}])
    epochs = {(cell.factors["schedule"], cell.factors["seed"]): cell.config.epochs for cell in found}
    assert epochs == {("fixed", 1): 2, ("hinge", 0): 2, ("hinge", 1): 3}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": ["bundled"]}, r"SPEC = 'backbone': is no key; did you mean backbones"),
        ({"preset": "gide"}, r"preset = 'gide': did you mean guide"),
        ({"seeds": []}, r"SPEC: seeds = \[\]: is empty: the grid would hold no run$"),
        ({"seeds": [1, 1]}, r"1 is there twice"),
        ({"objectives": ["att"]}, r"bundled / digits / att / fixed / linear / 0.*cannot be trained: objective.name"),
        ({"finetune": {"seed": 3}}, r"finetune sets seed, which the grid decides"),
        ({"finetune": {"model": {"name": "timm:x"}}}, r"finetune sets model.name, which the grid decides"),
        ({"finetune": {"epoch": 3}}, r"cannot be trained: epoch = 3: unknown key; did you mean epochs"),
        ({"exceptions": [{"where": {"seed": 9}, "skip": True}]}, r"applies to no cell"),
        ({"exceptions": [{"where": {"seed": 0}}]}, r"needs either finetune settings or skip"),
        ({"exceptions": [{"where": {"seed": 0}, "skip": True}]}, r"leaves no cell"),
        ({"measure": {"threats": {"linf": "Linf:1/255,2/255"}}}, r"must be one threat"),
        ({"measure": {"suite": "fsat"}}, r"suite.*fsat.*fast"),
        ({"measure": {"suites": {"linf": "fsat"}}}, r"suite.*fsat.*fast"),
        ({"measure": {"suites": {"l3": "apgd"}}}, r"'l3' is none of the threats' names: linf, l2, l1"),
        ({"measure": {"suites": {"l2": "margin"}, "tau": 5}}, r"tau: is taken of the suite margin on 5 samples; set"),
        ({"schedules": {"hinge": {"start": 0.25}, "late": {"name": "hinge", "start": 0.25}}}, r"is the same run as"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(changes, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        grid(**changes)
    assert "\n" not in str(caught.value)


def test_two_exceptions_that_contradict_each_other_are_refused():
    rules = [{"where": {"seed": 0}, "finetune": {"epochs": n}} for n in (2, 3)]
    with pytest.raises(ArgumentError, match="two exceptions set epochs, to 2 and to 3"):
        grid(exceptions=rules)
    assert grid(exceptions=[rules[0], rules[0]])[0].config.epochs == 2


def test_a_missing_spec_or_one_that_is_no_yaml_is_told(tmp_path):
    with pytest.raises(ArgumentError, match=r"SPEC = .*cannot be read"):
        read_spec(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ArgumentError, match="is not YAML"):
        read_spec(tmp_path / "bad.yaml")


def test_hyperparameters_come_from_a_table_and_missing_rows_are_named(tmp_path):
    header = (
        "backbone,dataset,objective,protocol,backbone_lr,head_lr,backbone_weight_decay,head_weight_decay,lr_schedule"
    )
    table = tmp_path / "table.csv"
    table.write_text(f"{header}\nbundled,digits,at,linear,0.5,0.25,0,0.125,constant\n")
    optimiser = grid(hyperparameters=str(table))[0].config.optimiser
    assert (optimiser.backbone_lr, optimiser.head_lr, optimiser.lr_schedule) == (0.5, 0.25, "constant")
    with pytest.raises(ArgumentError, match=r"no row for 2 cells: bundled / digits / trades / fixed / linear / 0; "):
        grid(hyperparameters=str(table), objectives=["trades"])


def test_thousands_of_runs_are_planned():
    from temper.benchmark.planning import plan

    spec = read_spec(tiny(objectives=["at", "trades"], seeds=list(range(500))))
    found = plan(cells(spec))
    assert len(found) == 2_000
    assert found["run"].is_unique


def test_runs_that_differ_in_their_seed_are_checked_once_and_named_as_alone(monkeypatch):
    validate, calls = FinetuneConfig.model_validate, []
    monkeypatch.setattr(FinetuneConfig, "model_validate", lambda settings: calls.append(1) or validate(settings))
    own = {"where": {"seed": [3, 4]}, "finetune": {"batch_size": 16}}
    together = grid(seeds=list(range(6)), exceptions=[own])
    assert len(calls) == 2 * 2  # schedules, and the exception or not
    assert {cell.factors["seed"] for cell in together if cell.config.batch_size == 16} == {3, 4}
    alone = [each for seed in range(6) for each in grid(seeds=[seed], exceptions=[own] if seed in (3, 4) else [])]
    assert {cell.run: cell.config for cell in together} == {cell.run: cell.config for cell in alone}


@pytest.mark.parametrize("seed", [-1, 2**70, "x"])
def test_a_seed_that_cannot_be_is_refused(seed):
    with pytest.raises(ArgumentError, match="seeds"):
        grid(seeds=[0, seed])


def test_a_run_is_the_same_run_on_any_number_of_threads():
    (one, *_), (four, *_) = grid(), grid(finetune=tiny()["finetune"] | {"threads": 4})
    assert (one.config.threads, four.config.threads, one.with_threads(2).config.threads) == (1, 4, 2)
    assert one.run == four.run == one.with_threads(2).run
