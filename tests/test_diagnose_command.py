"""``temper diagnose`` as a person and as a program call it: short real runs on 8x8 digits."""

import json
from pathlib import Path

import pytest
import yaml

from temper.cli.main import main
from temper.core.interrupt import Stopped
from temper.runs import diagnose
from temper.runs.run import Run

pytestmark = pytest.mark.usefixtures("undrawn")

CALL = ["diagnose", "--model", "tiny:network", "--data", "digits", "--eps", "48/255", "--image-size", "8"]
SHORT = ["--epochs", "3", "--images", "200", "--out", "d"]
RUNS = ["fixed", "fixed-half", "scheduled", "standard"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(diagnose, "TEST", 40)


@pytest.fixture
def quick(tmp_path: Path) -> list[str]:
    """Learning rates with which the network learns in three epochs."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"optimiser": {"backbone_lr": 0.01, "head_lr": 0.01}}))
    return [*CALL, *SHORT, "--config", "run.yaml"]


@pytest.mark.slow
def test_it_answers_in_words_and_json_and_goes_on_where_it_was(quick, tmp_path, capsys, monkeypatch):
    real, asked = diagnose.finetune, []

    def stopping(config, **how):
        asked.append(config.out.name)
        if len(asked) == 2:
            raise Stopped("a signal")
        return real(config, **how)

    monkeypatch.setattr(diagnose, "finetune", stopping)
    assert main(quick) == 3
    assert "d: stopped, everything is saved; the same command continues" in capsys.readouterr().err
    stamp = (tmp_path / "d/standard/weights.safetensors").stat().st_mtime_ns

    assert main([*quick, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (tmp_path / "d/standard/weights.safetensors").stat().st_mtime_ns == stamp
    assert sorted(told["runs"]) == RUNS
    assert told["eps"] == pytest.approx(48 / 255)
    assert told["scale"] == {
        "train": 200, "validation": 360, "test": 40, "classes": 10, "epochs": 3, "pixels": 8, "steps": 3,
    }  # fmt: skip
    assert told["verdict"] in ("fails", "suffers", "holds")
    assert json.loads((tmp_path / "d/diagnosis.json").read_text()) == told
    configs = {name: Run(tmp_path / "d" / name).config for name in RUNS}
    assert configs["fixed-half"].eps == pytest.approx(24 / 255)
    assert configs["standard"].objective.name == "standard"
    assert configs["scheduled"].schedule.start == told["hinges"]["start"]
    assert {config.optimiser.head_lr for config in configs.values()} == {0.01}
    clean = {name: run["clean"]["value"] for name, run in told["runs"].items()}
    assert told["severity"]["fixed"]["value"] == pytest.approx(clean["standard"] - clean["fixed"])
    assert told["gain"]["clean"]["value"] == pytest.approx(clean["scheduled"] - clean["fixed"])

    assert main(quick) == 0  # all is there: said again, in words
    printed = capsys.readouterr().out
    assert " ".join(told["words"]).split() == " ".join(printed.splitlines()[: len(told["words"])]).split()
    assert "severity" in (tmp_path / "d/report.html").read_text()
    assert main(["report", "d/fixed", "--out", "one.html"]) == 0
    capsys.readouterr()

    other = [*quick, "--eps", "8/255"]
    other.remove("48/255")
    other.remove("--eps")
    assert main(other) == 2
    assert "was started with eps = " in capsys.readouterr().err


@pytest.mark.slow
def test_what_does_not_learn_is_said_to_foretell_nothing(tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"optimiser": {"backbone_lr": 1e-12, "head_lr": 1e-12}}))
    assert main([*CALL, *SHORT, "--config", "run.yaml"]) == 0
    assert "Nothing can be told" in capsys.readouterr().out
    assert not (tmp_path / "d/scheduled").exists()


@pytest.mark.parametrize("missing", ["--model", "--data", "--eps"])
def test_what_is_planned_has_to_be_named(missing, capsys):
    place = CALL.index(missing)
    assert main([*CALL[:place], *CALL[place + 2 :]]) == 2
    assert f"{missing[2:]} = None: is missing" in capsys.readouterr().err


def test_epsilon_zero_is_refused(capsys):
    assert main([*CALL[:6], "0", "--out", "d"]) == 2
    assert "eps" in capsys.readouterr().err
