"""What cannot work is named by the option that the user wrote, and what is called nearly so is suggested."""

import numpy as np
import pytest

from temper.cli import main as cli

pytestmark = pytest.mark.usefixtures("undrawn")

MEASURE = ["--threat", "Linf:8/255", "--out", "new"]
SPEC = """
backbones: [bundled]
datasets: {DATA}
objectives: [at]
schedules: [fixed]
protocols: {{p: {{epochs: 1}}}}
seeds: [0]
"""


@pytest.fixture(autouse=True)
def furnished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("robust", "runs/first", "runs/corruptions"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "note.txt").touch()
    np.savez("some.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4))


def told(capsys, words):
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert said.startswith("temper: error: "), said
    return said


@pytest.mark.parametrize(
    ("spec", "fix"),
    [
        ("sone.npz", "did you mean some.npz"),
        ("note.txt", "not a kind of file"),
        ("torchvision:CIFAR11", "CIFAR10"),
        ("parquet:gone", "no such file or folder"),
    ],
)
@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["finetune", "--out", "new", "--data.train", ""], "data.train"),
        (["finetune", "--out", "new", "--data.train", "digits", "--data.test", ""], "data.test"),
        (["finetune", "--out", "new", "--data.train", "digits", "--data.validation", ""], "data.validation"),
        (["evaluate", *MEASURE, "--model", "bundled", "--data", ""], "data"),
        (["corruptions", "--out", "new", "--model", "bundled", "--data", ""], "data"),
        (["margins", *MEASURE, "--model", "bundled", "--data", ""], "data"),
        (
            ["margins", *MEASURE, "--model", "bundled", "--data", "digits", "--pseudo-margin", "--train-data", ""],
            "train-data",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_data_that_are_not_there_are_named_by_their_option(capsys, words, name, spec, fix):
    said = told(capsys, [word or spec for word in words])
    assert f"error: {name} = '{spec}': " in said, said
    assert fix in said, said


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("[sone.npz]", "datasets.sone.npz.train = 'sone.npz'"),
        ("{mine: {train: sone.npz}}", "datasets.mine.train = 'sone.npz'"),
        ("{mine: {train: digits, test: sone.npz}}", "datasets.mine.test = 'sone.npz'"),
        ("{mine: {train: digits, classes: 11}}", "datasets.mine.classes = 11"),
    ],
)
def test_data_of_a_benchmark_are_named_by_their_key(capsys, tmp_path, written, name):
    (tmp_path / "spec.yaml").write_text(SPEC.format(DATA=written))
    assert f"error: {name}: " in told(capsys, ["bench", "plan", "spec.yaml", "--store", "store"])


@pytest.mark.slow
def test_too_many_classes_are_named_by_their_option(capsys):
    words = ["finetune", "--out", "new", "--data.train", "digits", "--data.classes", "11"]
    assert "error: data.classes = 11: " in told(capsys, words)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["finetune", "--out", "new", "--model.name", ""], "model.name"),
        (["evaluate", *MEASURE, "--data", "digits", "--model", ""], "model"),
        (["corruptions", "--out", "new", "--data", "digits", "--model", ""], "model"),
        (["margins", *MEASURE, "--data", "digits", "--model", ""], "model"),
        (["predict", "note.txt", "--run", ""], "run"),
        (["export", "--format", "torch", "--out", "new.pt2", "--run", ""], "run"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
@pytest.mark.parametrize(("spec", "near"), [("robsut", "robust"), ("runs/frist", "runs/first")])
def test_a_mistyped_run_folder_is_named_by_its_option_with_the_nearest(capsys, words, name, spec, near):
    said = told(capsys, [word or spec for word in words])
    assert f"error: {name} = '{spec}': " in said, said
    assert f"; did you mean {near}" in said, said


@pytest.mark.parametrize("command", ["report", "merge"])
@pytest.mark.parametrize(("spec", "near"), [("robsut", "robust"), ("runs/frist", "runs/first")])
def test_report_and_merge_suggest_the_nearest_folder(capsys, command, spec, near):
    said = told(capsys, [command, spec, "--out", "new.x"])
    assert f" = '{spec}': is not there; did you mean " in said, said
    assert said.endswith(f"{near}?\n"), said


@pytest.mark.slow
def test_a_report_leaves_out_what_it_cannot_read(capsys, tmp_path, caplog):
    words = ["evaluate", "--model", "bundled", "--data", "digits", "--limit", "10", "--suite", "pgd"]
    assert cli.main([*words, "--threat", "Linf:8/255", "--out", "runs/good"]) == 0
    (tmp_path / "runs/damaged").mkdir()
    (tmp_path / "runs/damaged/margins.parquet").write_bytes(b"PAR1")
    capsys.readouterr()
    matched = sorted(map(str, (tmp_path / "runs").iterdir()))
    assert cli.main(["report", *matched, "--out", "both.html"]) == 0
    said = [record.getMessage() for record in caplog.records if record.name == "temper.runs.views"]
    assert [line.partition(": ")[0] for line in said] == ["left out of the report"] * 3
    assert all(any(f"runs/{name}" in line for line in said) for name in ("first", "corruptions", "damaged"))
    assert "good" in (tmp_path / "both.html").read_text()
    assert "DIR = 'runs/corruptions': holds no margins.parquet" in told(
        capsys, ["report", "runs/corruptions", "runs/damaged", "--out", "none.html"]
    )
    assert not (tmp_path / "none.html").exists()
    assert "is not there" in told(capsys, ["report", "runs/good", "runs/gone", "--out", "none.html"])
