"""The commands evaluate and report, as a user and as another program call them."""

import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluate_command import call, refusal, usual, working_directory
from temper.cli import main as cli
from temper.cli import measuring
from temper.cli.main import main
from temper.errors import TemperWarning
from temper.evaluation import searching
from temper.margins import EvidenceTable
from temper.runs import evaluate

pytestmark = pytest.mark.usefixtures("undrawn")

KEYS = {"model", "data", "clean_accuracy", "threats", "passes", "precision", "seconds", "table"}
ESTIMATE = {"value", "low", "high", "n", "unknown"}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    return working_directory(tmp_path, monkeypatch)


def folder_of_images(root: Path, classes: int, per_class: int = 2) -> Path:
    rng = np.random.default_rng(1)
    for k in range(classes):
        (root / f"class{k}").mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"class{k}" / f"{i}.png")
    return root


# --- the main road --------------------------------------------------------------------------------


@pytest.mark.slow
def test_json_is_one_object_and_nothing_else(place, capsys):
    status = call(*usual("--threat", "L2:0.1", "--json", model="mine:Net"))
    out, err = capsys.readouterr()
    assert status == 0
    assert "loading a module that prints" in err
    assert out.count("\n") == 1
    summary = json.loads(out)
    assert set(summary) >= KEYS
    assert set(summary["model"]) == {"spec", "weights", "preprocessing"}
    assert summary["data"]["n"] == 12
    assert set(summary["clean_accuracy"]) == ESTIMATE
    assert set(summary["passes"]) == {"forward", "backward"}
    assert [(t["norm"], t["eps"]) for t in summary["threats"]] == [("Linf", 1 / 255), ("Linf", 4 / 255), ("L2", 0.1)]
    for threat in summary["threats"]:
        assert set(threat) >= {"norm", "eps", "robust_accuracy", "expected_robustness"}
        for name in ("robust_accuracy", "expected_robustness", "expected_robustness_trapezoid"):
            assert set(threat[name]) == ESTIMATE
            assert threat[name]["low"] <= threat[name]["value"] <= threat[name]["high"]
            assert threat[name]["n"] == 12
    table = EvidenceTable.load(place / summary["table"])
    assert table.robust_accuracy("L2", 0.1).to_json() == summary["threats"][2]["robust_accuracy"]
    clean, one, four = summary["clean_accuracy"], *(t["robust_accuracy"]["value"] for t in summary["threats"][:2])
    trapezoid = summary["threats"][1]["expected_robustness_trapezoid"]["value"]
    assert trapezoid == pytest.approx(clean["value"] / 8 + one / 2 + four * 3 / 8)
    assert json.loads(Path("out/evaluation.json").read_text()) == summary


def test_a_person_gets_a_table_and_a_report(place, capsys):
    assert call(*usual("--limit", 4)) == 0
    out, err = capsys.readouterr()
    assert "robust accuracy" in out
    assert "Linf 4/255" in out
    assert "n = 4 test images" in out
    assert err == ""
    page = Path("out/report.html").read_text()
    assert "expected robustness up to Linf:4/255" in page
    assert {path.name for path in Path("out").iterdir()} >= {"margins.parquet", "evaluation.json", "report.html"}


def test_running_again_searches_nothing_twice(place, capsys, monkeypatch):
    assert call(*usual("--json")) == 0
    first = json.loads(capsys.readouterr().out)
    before = Path("out/margins.parquet").read_bytes()
    monkeypatch.setattr(evaluate, "examples", lambda *_: [])
    monkeypatch.setattr(searching, "search", lambda *_, **__: pytest.fail("searched again"))
    assert call(*usual("--json")) == 0
    second = json.loads(capsys.readouterr().out)
    assert second | {"seconds": 0} == first | {"seconds": 0}
    assert Path("out/margins.parquet").read_bytes() == before


def test_another_suite_joins_the_table_and_the_report_names_both(place, capsys):
    assert call(*usual("--suite", "apgd")) == 0
    assert call(*usual("--suite", "pgd", "--json")) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["threats"][0]["robust_accuracy"]["unknown"] == 0
    page = Path("out/report.html").read_text()
    assert "robust accuracy at Linf:4/255 (apgd)" in page
    assert "robust accuracy at Linf:4/255 (pgd)" in page


@pytest.mark.slow
def test_time_that_is_up_is_status_3_and_the_same_call_finishes(place, capsys, monkeypatch):
    monkeypatch.setattr(measuring, "parse_duration", lambda text: 0.0)
    assert call(*usual("--time-budget", "1s", "--json", model="mine:Net")) == 3
    out, err = capsys.readouterr()
    threat = json.loads(out)["threats"][0]["robust_accuracy"]
    assert threat["value"] == 0
    assert threat["unknown"] == json.loads(out)["clean_accuracy"]["value"] > 0
    assert "stopped early; out keeps what was found, and the same command continues" in err
    assert call(*usual("--json", model="mine:Net")) == 0
    assert json.loads(capsys.readouterr().out)["threats"][0]["robust_accuracy"]["unknown"] == 0


# --- wrong calls ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "sone.npz"}, "data = 'sone.npz': no such file or folder, did you mean some.npz?"),
        ({"data": "mine.py"}, "not a kind of file that is read"),
        ({"model": "runs/none"}, "model = 'runs/none': must be a run folder that exists"),
        ({"model": "mine:Nett"}, "did you mean mine:Net?"),
        ({"model": "timm:resnet1"}, "has no model 'resnet1'; did you mean"),
        ({"out": "mine.py"}, "out = 'mine.py': cannot be made"),
        ({"out": "mine.py/below"}, "out = 'mine.py/below': cannot be made"),
    ],
)
def test_a_path_that_is_wrong(place, capsys, options, message):
    assert message in refusal(capsys, *usual(**options))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--threat", "Linf=4"], "threat = 'Linf=4': write NORM:EPS[,EPS...]"),
        (["--threat", "L8:4/255"], "threat = 'L8': choose one of Linf, L2, L1"),
        (["--threat", "Linf:4/25s"], "threat = '4/25s': write a number"),
        (["--threat", "Linf:0"], "eps must be above 0"),
        (["--suite", "strong"], "suite = 'strong': choose one of standard, fast, margin, apgd, pgd"),
        (["--limit", "0"], "limit = 0: give at least 1"),
        (["--batch-size", "0"], "batch-size = 0: give at least 1"),
        (["--time-budget", "soon"], "time-budget = 'soon': write a time above 0 such as 90s, 10m or 2h"),
        (["--time-budget", ""], "time-budget = ''"),
    ],
)
def test_an_option_that_is_wrong(place, capsys, words, message):
    assert message in refusal(capsys, *usual(*words))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tret", "x"], "there is no option --tret; did you mean --threat?"),
        (["--seed", "one"], "seed = 'one': write a whole number of at least 0"),
        (["--batch-size", "big"], "batch-size = 'big': write auto or a whole number of at least 1"),
    ],
)
def test_an_option_that_is_no_option(place, capsys, words, message):
    assert message in refusal(capsys, *usual(*words))


def test_without_threat_or_command(place, capsys):
    assert "threat" in refusal(capsys, "--model", "bundled", "--data", "some.npz")
    assert cli.main(["evalute"]) == 2
    assert "COMMAND = 'evalute': choose one of" in capsys.readouterr().err
    assert cli.main([]) == 2
    assert cli.main(["--help"]) == 0
    assert "exit status" in capsys.readouterr().out


def test_class_counts_that_do_not_fit(place, capsys):
    np.savez("many.npz", images=np.zeros((2, 32, 32, 3), np.uint8), labels=np.array([0, 10]))
    assert "has 11 classes, model bundled has 10; they must be the same" in refusal(capsys, *usual(data="many.npz"))
    folder_of_images(Path("three"), 3)
    assert "has 3 classes, model bundled has 10" in refusal(capsys, *usual(data="three"))


@pytest.mark.slow
def test_a_model_of_other_classes(place, capsys):
    from temper import models

    classifier = models.load("bundled", num_classes=2)
    folder_of_images(Path("two"), 2)
    models.save(classifier, "run", extra={"class_names": ["class0", "class2"]})
    message = "data = 'two': model run was trained on other classes: two: has class 'class1', which is none of class0,"
    assert message in refusal(capsys, *usual(data="two", model="run"))
    models.save(classifier, "run", extra={"class_names": ["class0", "class1"]})
    assert call(*usual(data="two", model="run")) == 0


@pytest.mark.parametrize("there", [["ant", "bee", "cow"], ["ant", "cow"], ["bee", "cow"]])
def test_classes_are_told_by_their_names(place, there):
    from temper import models

    trained = ["cow", "bee", "ant"]  # in no order that a folder would give, and some have no image in the data
    models.save(models.load("bundled", num_classes=3), "run", extra={"class_names": trained})
    for name in there:
        Path("some", name).mkdir(parents=True)
        for k in range(2):
            Image.new("RGB", (32, 32), (9 * trained.index(name), k, 0)).save(Path("some", name, f"{k}.png"))
    _, dataset = evaluate.load("run", "some", None, 0)
    assert dataset.class_names == tuple(trained)
    assert [int(dataset.images[k][0, 0, 0]) for k in range(len(dataset))] == (9 * dataset.labels).tolist()


def test_data_that_cannot_be_read(place, capsys):
    root = folder_of_images(Path("images"), 10, 1)
    (root / "class3" / "0.png").unlink()
    assert "class3" in refusal(capsys, *usual(data="images"))
    (root / "class3" / "bad.png").write_bytes(b"no image")
    assert str(root / "class3" / "bad.png") in refusal(capsys, *usual(data="images"))
    whole = (root / "class2" / "0.png").read_bytes()
    (root / "class3" / "bad.png").write_bytes(whole[: len(whole) // 2])
    assert str(root / "class3" / "bad.png") in refusal(capsys, *usual(data="images"))
    Path("empty").mkdir()
    assert "empty" in refusal(capsys, *usual(data="empty"))
    Path("bad.npz").write_bytes(b"PK no zip")
    assert "bad.npz" in refusal(capsys, *usual(data="bad.npz"))
    with zipfile.ZipFile("bad.zip", "w"):
        pass
    assert "bad.zip" in refusal(capsys, *usual(data="bad.zip"))


def test_evidence_of_another_measurement_in_the_folder(place, capsys):
    assert call(*usual("--limit", 3)) == 0
    capsys.readouterr()
    before = Path("out/margins.parquet").read_bytes()
    said = refusal(capsys, *usual("--limit", 4))
    assert "out = 'out': the evidence is on another data" in said
    assert "--out" in said
    assert "on another model" in refusal(capsys, *usual("--limit", 3, model="mine:Net"))
    assert "found with seed 0, not 1" in refusal(capsys, *usual("--seed", 1))
    assert Path("out/margins.parquet").read_bytes() == before


@pytest.mark.slow
def test_a_warning_is_one_line(place, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always", TemperWarning)
        assert call(*usual(model="mine:Soft")) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "mine" not in line and "loading" not in line]
    assert lines[0].startswith("temper: warning: the model's outputs are probabilities")
    assert all(line.startswith("temper: warning: ") for line in lines)


# --- report ---------------------------------------------------------------------------------------


def test_a_report_of_several_folders(place, capsys):
    assert call(*usual("--limit", 3, out="a/one")) == 0
    assert call(*usual("--limit", 4, out="b/one")) == 0
    capsys.readouterr()
    assert cli.main(["report", "a/one", "b/one", "a/one/", "--out", "new/both.html"]) == 0
    assert capsys.readouterr().out == "new/both.html\n"
    page = Path("new/both.html").read_text()
    assert "a/one" in page
    assert "b/one" in page
    assert cli.main(["report", "a/one"]) == 0
    assert Path("report.html").exists()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["empty"], 2, "DIR = 'empty': holds no margins.parquet; name the folder of a finished run or evaluation"),
        ([], 2, "DIR = (): name at least one folder"),
        (["damaged"], 2, "margins.parquet: cannot be read as Parquet"),
    ],
)
def test_a_report_of_nothing(place, capsys, words, status, message):
    Path("empty").mkdir()
    Path("damaged").mkdir()
    Path("damaged/margins.parquet").write_bytes(b"x")
    assert cli.main(["report", *words]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("temper: error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_precision_is_reported_with_how_many_attacks_it_took(tmp_path, capsys):
    out = tmp_path / "out"
    call = ["evaluate", "--model", "bundled", "--data", "digits", "--threat", "Linf:2/255", "--suite", "apgd"]
    assert main([*call, "--precision", "0.1", "--limit", "300", "--out", str(out), "--json"]) == 0
    (threat,) = json.loads(capsys.readouterr().out)["threats"]
    subset, found = threat["subset"], threat["robust_accuracy"]
    assert found["n"] == 300
    assert found["high"] - found["low"] <= 0.2
    assert subset["attacked"] <= subset["correct"]
    assert (
        f"from attacks on {subset['attacked']} of {subset['correct']} correct samples"
        in (out / "report.html").read_text()
    )
    assert main([*call, "--precision", "0.1", "--limit", "300", "--out", str(out)]) == 0
    assert "expected robustness" not in capsys.readouterr().out


@pytest.mark.parametrize("written", [["--model", "empty"], ["--model=empty"]])
def test_what_is_wrong_with_a_folder_is_said_of_the_option_that_named_it(place, capsys, written):
    Path("empty").mkdir(exist_ok=True)
    said = refusal(capsys, *written, "--data", "digits", "--threat", "Linf:1/255")
    assert "error: model = 'empty': no model.json in it" in said
