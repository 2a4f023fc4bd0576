"""Delay and severity of real runs: in their records and in the report that shows them side by side."""

import json
from pathlib import Path

import pytest

from temper.margins.intervals import Estimate
from temper.report import RunView, Training, write_report
from temper.runs.finetune import finetune
from temper.runs.run import Run
from temper.runs.views import compared, report, view
from temper.training.transfer import Validation, delay
from tiny_runs import config

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    ways = {"standard": {"objective": {"name": "standard"}}, "fixed": {"schedule": {"name": "fixed"}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        return {name: finetune(config(folder / name, **way)) for name, way in ways.items()}


@pytest.mark.slow
def test_a_run_notes_its_delay(runs: dict[str, Run]) -> None:
    run = runs["fixed"]
    accuracies = [row["validation_accuracy"] for row in run.history()]
    noted = run.delay
    assert noted is not None
    assert noted.epochs.n == 29
    assert noted == delay(accuracies, Validation(29, noted.chance))
    assert 0.1 <= noted.chance <= 0.2  # 29 images of ten classes


@pytest.mark.slow
def test_runs_side_by_side_have_a_severity(runs: dict[str, Run], tmp_path: Path) -> None:
    views = compared({run.folder: view(run.folder, name) for name, run in runs.items()})
    clean = {name: run.record["results"]["clean accuracy"]["value"] for name, run in runs.items()}
    lost = {each.name: each.training.severity for each in views}
    assert lost["standard"] is None
    assert lost["fixed"] is not None
    assert lost["fixed"].value == pytest.approx(clean["standard"] - clean["fixed"])
    page = report([run.folder for run in runs.values()], tmp_path / "both.html", "both").read_text()
    assert "severity" in page
    assert f"{100 * lost['fixed'].value:.1f} points" in page
    alone = report([runs["fixed"].folder], tmp_path / "one.html", "one").read_text()
    assert "severity" not in alone
    assert str(runs["fixed"].delay) in alone


@pytest.mark.slow
def test_a_run_of_an_earlier_version_has_no_delay_and_is_shown(runs: dict[str, Run], tmp_path: Path) -> None:
    record = runs["fixed"].folder / "run.json"
    before = record.read_text()
    try:
        record.write_text(json.dumps({key: value for key, value in json.loads(before).items() if key != "delay"}))
        assert runs["fixed"].delay is None
        assert "Transfer." not in report([runs["fixed"].folder], tmp_path / "one.html", "one").read_text()
    finally:
        record.write_text(before)


def test_a_negative_severity_is_shown(tmp_path: Path) -> None:
    better = Training(delay="epoch 2 above 5.0%", severity=Estimate(-0.05, -0.1, 0.01, 100))
    text = write_report([RunView("scheduled", training=better)], tmp_path / "r.html", title="r").read_text()
    assert "-5.0 points (-10.0 to 1.0)" in text
