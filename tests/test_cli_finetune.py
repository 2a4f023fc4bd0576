"""``temper finetune``, ``temper demo`` and the command line itself, as a person calls them."""

import errno
import html
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

import temper
from temper.cli import demo
from temper.cli.main import main
from temper.cli.measuring import parse_duration
from temper.errors import ArgumentError
from temper.runs.run import Run
from temper.training import loop
from temper.training.config import read_config

pytestmark = pytest.mark.usefixtures("undrawn")

FAST = [
    "--data.train", "digits", "--data.train-limit", "60", "--data.test-limit", "20", "--epochs", "1",
    "--batch-size", "30", "--attack.steps", "1", "--evaluation.points", "2", "--accelerator", "cpu",
]  # fmt: skip
TINY = ["--model.name", "tiny:network", "--model.image-size", "8"]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call the command line wrongly; the one line that it says."""

    def call(*words: str, status: int = 2) -> str:
        assert main(["finetune", *words]) == status
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("temper: ")]
        assert len(lines) == 1, lines
        return lines[0]

    return call


@pytest.mark.slow
def test_flags_override_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"eps": "8/255", "seed": 3, "schedule": {"name": "fixed"}}))
    words = ["finetune", "--config", "run.yaml", "--eps", "16/255", "--out", "mine", *TINY, *FAST]
    assert main(words) == 0
    config = Run(tmp_path / "mine").config
    assert (config.eps, config.seed, config.schedule.name) == (16 / 255, 3, "fixed")
    printed = capsys.readouterr().out
    assert "robust accuracy at" in printed
    assert "mine/report.html" in printed


@pytest.mark.slow
def test_run_feeds_evaluate_and_report(tmp_path: Path) -> None:
    assert main(["finetune", "--out", "a", *TINY, *FAST]) == 0
    assert main(["finetune", "--out", "b", "--schedule.name", "fixed", *TINY, *FAST]) == 0
    assert main(["report", "a", "b", "--out", "both.html"]) == 0
    assert "Epsilon" in (tmp_path / "both.html").read_text() or "epsilon" in (tmp_path / "both.html").read_text()
    assert main(["evaluate", "--model", "a", "--data", "digits", "--limit", "20", "--threat", "L2:0.5"]) == 0


def test_unknown_key_suggests_the_nearest(tmp_path: Path, complaint: Callable[..., str]) -> None:
    (tmp_path / "run.yaml").write_text("schedule: {strat: 0.2}\n")
    assert "did you mean schedule.start?" in complaint("--config", "run.yaml")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--data.train", "nowhere"], "nowhere"),
        (["--model.name", "timm:resnet81"], "resnet18"),
        (["--model.name", "nowhere:factory"], "nowhere"),
        (["--eps", "8"], "did you mean 8/255?"),
        (["--model.weights", "missing.safetensors"], "missing.safetensors"),
        (["--schedule.name", "custom", "--schedule.function", "tiny:missing"], "tiny:missing"),
        (["--objective.name", "standard", "--objective.beta", "1"], "beta"),
    ],
)
def test_careless_calls_are_one_line(words: list[str], says: str, complaint: Callable[..., str]) -> None:
    assert says in complaint("--out", "run", *words)
    assert not Path("run").exists()


def test_empty_folder_corrupt_image_and_empty_class(tmp_path: Path, complaint: Callable[..., str]) -> None:
    Path("empty").mkdir()
    assert "empty" in complaint("--data.train", "empty")
    from PIL import Image

    for label in ("cat", "dog"):
        Path("photos", label).mkdir(parents=True)
        for number in range(12):
            Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(Path("photos", label, f"{number}.png"))
    Path("photos", "dog", "3.png").write_bytes(b"this is no picture")
    assert "3.png" in complaint("--data.train", "photos", *TINY)
    Path("photos", "dog", "3.png").unlink()
    Path("photos", "bird").mkdir()
    assert "bird" in complaint("--data.train", "photos", *TINY)


@pytest.mark.slow
def test_existing_run_is_never_overwritten_without_force(complaint: Callable[..., str]) -> None:
    assert main(["finetune", "--out", "run", *TINY, *FAST]) == 0
    weights = Path("run/weights.safetensors").read_bytes()
    assert "--force" in complaint("--out", "run", *TINY, *FAST)
    assert Path("run/weights.safetensors").read_bytes() == weights
    assert main(["finetune", "--out", "run", "--force", "--seed", "1", *TINY, *FAST]) == 0
    assert Path("run/weights.safetensors").read_bytes() != weights


@pytest.mark.slow
def test_full_disk_is_one_line_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, complaint: Callable[..., str]
) -> None:
    save, calls = loop.save_checkpoint, []

    def full(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", "run/checkpoints")
        return save(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "save_checkpoint", full)
    more = [*TINY, *FAST, "--epochs", "3"]
    assert "disk is full" in complaint("--out", "run", *more, status=1)
    assert main(["finetune", "--out", "run", "--resume", *more]) == 0


def test_non_finite_loss_is_one_line(complaint: Callable[..., str]) -> None:
    words = [
        "--out",
        "run",
        *TINY,
        *FAST,
        "--epochs",
        "4",
        "--optimiser.backbone-lr",
        "1e30",
        "--optimiser.head-lr",
        "1e30",
    ]
    assert "last good checkpoint" in complaint(*words, status=1)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "finetune" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["finetune", "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--schedule.start" in text
    assert "--resume" in text


def test_no_command_and_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert main(["train"]) == 2
    assert "finetune" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "expected"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_durations(text: str, expected: float) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["", "m", "0", "-3s", "5 days"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(ArgumentError, match="90s, 10m or 2h"):
        parse_duration(text)


@pytest.mark.slow
def test_demo_compares_three_runs_and_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"train": "digits", "train_limit": 60, "test_limit": 20}
    few = {"data": data, "epochs": 1, "attack": {"name": "pgd", "steps": 1}, "evaluation": {"points": 2}}
    monkeypatch.setattr(demo, "SETTINGS", demo.SETTINGS | few)
    assert main(["demo", "--out", "there"]) == 0
    printed = capsys.readouterr().out
    for name in demo.WAYS:
        assert name in " ".join(printed.split())
    words = printed.strip().splitlines()[-1]
    assert words.startswith("With epsilon fixed, accuracy on clean images")
    page = (tmp_path / "there" / "report.html").read_text()
    assert page.index(html.escape(words)) < page.index("<table")
    stamps = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("weights.safetensors"))]
    assert main(["demo", "--out", "there"]) == 0
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("weights.safetensors"))] == stamps


def test_python_names_of_the_interface() -> None:
    assert set(temper.__all__) <= set(dir(temper))
    assert temper.EpsilonSchedule.hinge(0.25, 0.75).fraction(epoch=25, epochs=50) == pytest.approx(0.52)
    assert temper.FinetuneConfig is type(read_config({}))
    with pytest.raises(AttributeError, match="no attribute 'finetun'"):
        temper.finetun  # noqa: B018
