"""Files that were cut short, zeroed or overwritten: one line that names the file, or mended, which is told."""

import contextlib
import errno
import logging
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bench_grid import tiny
from temper import models
from temper.benchmark.engines import local
from temper.cli import main as cli
from temper.core import files
from temper.core.files import read_json, write_json
from temper.corruptions.table import CorruptionTable
from temper.errors import EvidenceError, ModelError, TemperError
from temper.evaluation import searching
from temper.margins import EvidenceTable
from temper.margins.detector import BrittlenessDetector
from temper.runs import finetune
from temper.runs import margins as folder
from temper.runs.run import Run
from temper.training.config import read_config
from temper.training.seen import read_seen

pytestmark = pytest.mark.filterwarnings("default::temper.errors.TemperWarning")

TRAIN = (
    "finetune --model.name {model} --data.train digits --data.train-limit 48 --data.test-limit 12 --eps 8/255"
    " --data.augmentation none --attack.name pgd --attack.steps 1 --epochs 2 --protocol.name linear --batch-size 24"
    " --precision fp32 --threads 1 --evaluation.suite apgd --evaluation.points 1 --out {out}"
)
RUN = TRAIN.format(model="bundled", out="run")
MEASURED = "--data digits --limit 12 --threat Linf:8/255"
EVALUATE = f"evaluate --model bundled --suite apgd {MEASURED} --out evaluation"
MARGINS = f"margins --model run {MEASURED} --out margins --alpha 0.4"
CORRUPTIONS = "corruptions --model run --data digits --limit 6 --corruption fog --severity 3 --out corruptions"
SPEC = "bench {} spec.yaml --store store"
QUERY = ["bench", "query", "SELECT count(*) FROM {}", "--store", "store"]

# Every file that a folder holds, every command that reads it, and what becomes of that: refused, mended or left out
# (status 0, and told), unread (nothing is told). A file of the store counts as missing where it is damaged.
READ = [
    ("run/config.yaml", f"{RUN} --resume", "refused"),
    ("run/config.yaml", "report run", "refused"),
    ("run/config.yaml", "finetune --config run/config.yaml --out again", "refused"),
    ("run/run.json", f"{RUN} --resume", "refused"),
    ("run/run.json", "report run", "refused"),
    ("run/metrics.jsonl", "report run", "mended"),
    ("run/model.json", "predict --run run image.png", "refused"),
    ("run/model.json", f"evaluate --model run {MEASURED} --out out", "refused"),
    ("run/model.json", TRAIN.format(model="run", out="again"), "refused"),
    ("run/weights.safetensors", "predict --run run image.png", "refused"),
    ("run/detector.json", "predict --run run image.png", "refused"),
    ("run/detector.json", "export --run run --format torch --out run.pt2", "refused"),
    ("run/trained-on.npy", f"evaluate --model run {MEASURED} --out out", "refused"),
    ("run/trained-on.npy", CORRUPTIONS, "refused"),
    ("run/trained-on.npy", TRAIN.format(model="run", out="again"), "refused"),
    ("run/trained-on.npy", f"{RUN} --resume", "mended"),
    ("run/margins.parquet", "report run", "refused"),
    ("run/margins.parquet", "merge run --out all.parquet", "refused"),
    ("run/samples.npz", "report run", "mended"),
    ("begun/checkpoints/*2-*/progress.json", f"{TRAIN.format(model='bundled', out='begun')} --resume", "mended"),
    ("begun/metrics.jsonl", f"{TRAIN.format(model='bundled', out='begun')} --resume", "mended"),
    ("begun/margins.parquet", f"{TRAIN.format(model='bundled', out='begun')} --resume", "mended"),
    ("evaluation/evaluation.json", "report evaluation", "refused"),
    ("evaluation/evaluation.json", EVALUATE, "unread"),
    ("evaluation/margins.parquet", EVALUATE, "mended"),
    ("evaluation/margins.parquet", "report evaluation", "refused"),
    ("evaluation/margins.parquet", "merge evaluation --out all.parquet", "refused"),
    ("evaluation/samples.npz", "report evaluation", "mended"),
    ("evaluation/samples.npz", EVALUATE, "unread"),
    ("margins/adaptive.json", f"{MARGINS} --adaptive", "mended"),
    ("margins/brittleness.json", "report margins", "refused"),
    ("margins/scores.parquet", "report margins", "refused"),
    ("margins/equidistance.npy", "report margins", "refused"),
    ("margins/ends.npz", "report margins", "mended"),
    ("margins/detector.json", "export --run run --format torch --out run.pt2 --detector margins/detector.json",
     "refused"),
    ("corruptions/corruptions.parquet", CORRUPTIONS, "mended"),
    ("corruptions/corruptions.parquet", f"{CORRUPTIONS} --baseline corruptions", "refused"),
    ("corruptions/corruptions.json", CORRUPTIONS, "unread"),
    ("store/store.json", SPEC.format("status"), "refused"),
    ("store/runs/*", SPEC.format("status"), "missing"),
    ("store/runs/*", SPEC.format("run"), "mended"),
    ("store/runs/*", " ".join(QUERY).format("results"), "missing"),
    ("store/runs/*", SPEC.format("report"), "missing"),
    ("store/runs/*", "bench advise --results store", "missing"),
    ("store/margins/*-apgd*", SPEC.format("status"), "missing"),
    ("store/margins/*-margin*", SPEC.format("status"), "missing"),
    ("store/margins/*-apgd*", SPEC.format("run"), "mended"),
    ("store/margins/*-margin*", SPEC.format("run"), "mended"),
    ("store/margins/*-apgd*", SPEC.format("report"), "missing"),
    ("store/margins/*-apgd*", " ".join(QUERY).format("margins"), "mended"),
    ("store/corruptions/*", SPEC.format("status"), "missing"),
    ("store/corruptions/*", SPEC.format("run"), "mended"),
    ("store/corruptions/*", SPEC.format("report"), "missing"),
]  # fmt: skip


def emptied(content: bytes) -> bytes:
    return b""


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zeroed(content: bytes) -> bytes:
    return b"\0" * len(content)


def zeroed_from_the_middle(content: bytes) -> bytes:
    return cut(content) + zeroed(content)[len(content) // 2 :]


def overwritten(content: bytes) -> bytes:
    return random.Random(0).randbytes(len(content))


KINDS = [emptied, cut, zeroed, zeroed_from_the_middle, overwritten]


def call(words: str) -> int:
    logging.getLogger().handlers.clear()  # each call writes to the stderr of its test
    parts = words.split()
    if "SELECT" in parts:
        start, end = parts.index("SELECT"), parts.index("--store")
        parts = [*parts[:start], " ".join(parts[start:end]), *parts[end:]]
    return cli.main(parts)


def attacked(*arguments, **options):
    """In place of attacks on the detector, which take long."""
    raise EvidenceError("too few to attack")


class Here:
    """An engine in this very process."""

    def __init__(self, workers: int, gpus: Sequence[str]) -> None:
        pass

    def run(self, cells, task):
        yield from ((cell, task(cell)) for cell in cells)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of each kind."""
    place = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr(local, "LocalEngine", Here)
        measure = tiny()["measure"] | {"tau": 8, "corruptions": True}
        Path("spec.yaml").write_text(yaml.safe_dump(tiny(schedules=["fixed"], measure=measure)))
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("image.png")
        for words in (RUN, EVALUATE, MARGINS, CORRUPTIONS, SPEC.format("run")):
            assert call(words) == 0
        write_json(Path("margins/adaptive.json"), {"key": 1, "defences": {}})
        shutil.copytree("run", "begun")
        begun = Path("begun")
        for name in ("model.json", "weights.safetensors", "samples.npz", "report.html", "detector.json"):
            (begun / name).unlink()
        (begun / "run.json").write_text(
            (begun / "run.json").read_text().replace('"finished": true', '"finished": false')
        )
        (begun / "config.yaml").write_text((begun / "config.yaml").read_text().replace("out: run", "out: begun"))
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    monkeypatch.setattr(local, "LocalEngine", Here)
    monkeypatch.setattr(folder, "attack_detectors", attacked)
    return tmp_path / "place"


def damage(path: str, kind) -> Path:
    (found,) = Path().glob(path)
    found.write_bytes(kind(found.read_bytes()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "words", "outcome", "kind"),
    [(*each, KINDS[number % len(KINDS)]) for number, each in enumerate(READ)],
    ids=lambda value: value.__name__ if callable(value) else str(value)[:50],
)
def test_a_damaged_file_is_told_and_never_a_traceback(place, capsys, file, words, outcome, kind):
    damage(file, kind)
    status = call(words)
    err = capsys.readouterr().err
    name = Path(file).name if "*" not in file else file.split("*")[0].removeprefix("store/")
    told = [line for line in err.splitlines() if name in line or Path(file).name in line]
    assert "Traceback" not in err, err
    if outcome == "unread":
        assert status == 0, err
        assert not told, err
        return
    assert told, err
    assert status in {"refused": [2], "mended": [0], "missing": [0, 1, 2]}[outcome], err
    if outcome == "refused":
        assert [line for line in err.splitlines() if "error" in line] == told, err
        assert len(told) == 1, err


READERS = {
    "evaluation/margins.parquet": EvidenceTable.load,
    "corruptions/corruptions.parquet": CorruptionTable.load,
    "evaluation/evaluation.json": read_json,
    "run/config.yaml": read_config,
    "run/trained-on.npy": read_seen,
    "margins/detector.json": BrittlenessDetector.load,
    "run/weights.safetensors": lambda path: models.load(path.parent),
}


@pytest.mark.slow
@pytest.mark.parametrize("file", READERS)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), zeros=st.booleans())
def test_what_was_cut_or_zeroed_anywhere_is_refused(made, file, share, zeros):
    path = made / file
    whole = path.read_bytes()
    start = int(share * len(whole.rstrip()))
    try:
        path.write_bytes(whole[:start] + bytes(len(whole) - start if zeros else 0))
        with pytest.raises(TemperError, match=path.name):
            READERS[file](path)
    finally:
        path.write_bytes(whole)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["evaluation/margins.parquet", "corruptions/corruptions.parquet"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.01, 0.3))
def test_a_byte_that_changed_in_a_table_is_no_other_number(made, file, share):
    path = made / file
    whole, before = path.read_bytes(), READERS[file](path).frame
    place = int(share * len(whole))
    try:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with contextlib.suppress(TemperError):
            pd.testing.assert_frame_equal(READERS[file](path).frame, before)
    finally:
        path.write_bytes(whole)


@pytest.mark.slow
def test_weights_that_changed_are_told(made):
    path = made / "run" / "weights.safetensors"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
        with pytest.raises(ModelError, match=r"weights\.safetensors: damaged \(its SHA-256"):
            models.load(path.parent)
    finally:
        path.write_bytes(whole)


@pytest.mark.slow
def test_a_table_is_made_again_from_the_journal_as_it_was(place):
    before = EvidenceTable.load(Path("evaluation/margins.parquet"))
    damage("evaluation/margins.parquet", cut)
    assert call(EVALUATE) == 0
    after = EvidenceTable.load(Path("evaluation/margins.parquet"))
    pd.testing.assert_frame_equal(after.frame, before.frame)
    assert (after.identity, after.provenance) == (before.identity, before.provenance)


@pytest.mark.slow
def test_nothing_is_searched_again_for_a_damaged_table(place, monkeypatch):
    damage("margins/margins.parquet", zeroed)
    monkeypatch.setattr(searching, "search", lambda *_: pytest.fail("it searches again"))
    assert call(MARGINS) == 0


@pytest.mark.slow
def test_a_file_that_is_no_table_of_evidence_is_left_alone(place, capsys):
    pd.DataFrame({"sales": [1, 2]}).to_parquet("evaluation/margins.parquet")
    before = Path("evaluation/margins.parquet").read_bytes()
    assert call(EVALUATE) == 2
    assert "margins.parquet: is not an evidence table" in capsys.readouterr().err
    assert Path("evaluation/margins.parquet").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("file", ["margins/*-apgd*", "margins/*-margin*", "corruptions/*"])
def test_a_run_whose_evidence_is_damaged_is_measured_again_and_not_trained(place, monkeypatch, file):
    (path,) = (place / "store").glob(file)
    read = CorruptionTable.load if file.startswith("corruptions") else EvidenceTable.load
    before = read(path).frame
    damage(f"store/{file}", cut)
    monkeypatch.setattr(finetune, "_train", lambda *_: pytest.fail("it trains again"))
    assert call(SPEC.format("run")) == 0 == call(SPEC.format("status"))
    pd.testing.assert_frame_equal(read(path).frame, before)


@pytest.mark.parametrize("content", ["", "\n\n", "null", "# eps: 8/255\n", "---\n...\n", "~"])
def test_an_emptied_configuration_is_not_all_defaults(tmp_path, monkeypatch, capsys, content):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(content)
    assert call("finetune --config config.yaml --data.train digits") == 2
    assert capsys.readouterr().err == (
        "temper: error: config = 'config.yaml': is empty; write the settings into it, or restore it\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.slow
def test_the_epochs_that_can_be_read_are_the_history(place, caplog):
    run = Run(place / "run")
    path, whole = place / "run" / "metrics.jsonl", run.history()
    lines = path.read_bytes().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if b'"epoch"' in line.split(b",")[0])
    for damaged in (b"\0" * 40 + b"\n", lines[last][:30], b"\xff\xfe\n", b"3\n", b'{"kind": "epoch"}\n'):
        path.write_bytes(b"".join([*lines[:last], damaged]))
        caplog.clear()
        assert run.history() == whole[:-1]
        assert "metrics.jsonl: 1 damaged lines are passed over" in caplog.text


FULL = {
    "evaluation/report.html": "report evaluation --out evaluation/report.html",
    "all.parquet": "merge evaluation --out all.parquet",
    "site/index.html": f"{SPEC.format('report')} --out site",
    "run.pt2": "export --run run --format torch --out run.pt2",
    "evaluation/evaluation.json": EVALUATE,
    "corruptions/corruptions.json": CORRUPTIONS,
}


@pytest.mark.slow
@pytest.mark.parametrize(("out", "words"), FULL.items())
def test_a_full_disk_leaves_what_was_there_and_nothing_half(place, capsys, monkeypatch, out, words):
    assert call(words) == 0
    before = kept(place)
    capsys.readouterr()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    assert call(words) == 1
    (told,) = (line for line in capsys.readouterr().err.splitlines() if "error" in line)
    assert "the disk is full" in told
    assert Path(out).parts[0] in told
    assert kept(place) == before


def kept(place: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file() and "journal" not in path.parts}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "column"),
    [
        (f"{SPEC.format('report')} --out site", "weights"),
        (f"{SPEC.format('report')} --out site", "linf"),
        (f"{SPEC.format('report')} --out site", "clean_low"),
        ("bench advise --results store", "config"),
        ("bench advise --results store", "objective"),
    ],
)
def test_rows_of_another_version_are_told(place, capsys, words, column):
    (path,) = (place / "store" / "runs").iterdir()
    pd.read_parquet(path).drop(columns=column).to_parquet(path)
    assert call(words) == 2
    option = "results" if "--results" in words else "store"
    assert capsys.readouterr().err == (
        f"temper: error: {option} = 'store': rows without {column}, which another version of Temper wrote; remove runs"
        "/, and temper bench run does these runs again, from the weights and searches that are there\n"
    )
    assert not Path("site").exists()
