"""The command merge with adversarial images that other tools made."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from evaluate_command import FACTORY, call, usual, working_directory
from temper.cli import main as cli
from temper.errors import TemperWarning
from temper.evaluation import searching
from temper.margins import EvidenceTable
from temper.runs import evaluate

pytestmark = pytest.mark.usefixtures("undrawn")

EPS = 4 / 255


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    return working_directory(tmp_path, monkeypatch)


def merge(*words: object, file: object = "theirs.npz", out: str = "out/margins.parquet", **other: object) -> int:
    options = {"adversarial": file, "norm": "Linf", "source": "tool", "model": "mine:Net", "data": "some.npz"} | other
    given = [word for name, value in options.items() if value for word in (f"--{name}", str(value))]
    return cli.main(["merge", *map(str, words), *given, "--out", out])


def adversarial(eps: float = EPS, rows: slice = slice(None)) -> np.ndarray:
    """What one step of another tool's makes of the images, float32 NCHW."""
    with np.load("some.npz") as arrays, torch.random.fork_rng():
        x = (torch.from_numpy(arrays["images"][rows]).permute(0, 3, 1, 2) / 255).contiguous()
        y = torch.from_numpy(arrays["labels"][rows])
        torch.manual_seed(0)
        linear = nn.Linear(3 * 32 * 32, 10)  # that of the networks in evaluate_command
    x.requires_grad_()
    nn.functional.cross_entropy(linear(x.flatten(1) - 0.5), y, reduction="sum").backward()
    return (x + eps * x.grad.sign()).clamp(0, 1).detach().numpy()


def blinded(folder: str = "out") -> EvidenceTable:
    """Make the table of a folder that of a search that found nothing, which took nothing down."""
    path = Path(folder, "margins.parquet")
    table = EvidenceTable.load(path)
    frame = table.to_pandas().assign(upper=np.inf, survived=EPS, attack="")
    blind = EvidenceTable(frame, table.identity, table.provenance)
    blind.save(path)
    for journal in Path(folder, "journal").rglob("*.csv"):
        journal.unlink()
    return blind


def robust(capsys) -> float:
    """What evaluate says of the folder ``out``, which it searches no further."""
    capsys.readouterr()
    assert call(*usual("--suite", "pgd", "--json", model="mine:Net")) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads(Path("out/evaluation.json").read_text())
    return said["threats"][1]["robust_accuracy"]["value"]


def test_an_evaluation_gets_sharper_keeps_that_and_says_so_everywhere(place, capsys, monkeypatch):
    assert call(*usual("--suite", "pgd", model="mine:Net")) == 0
    blinded()
    monkeypatch.setattr(searching, "search", lambda *_, **__: pytest.fail("searched again"))
    monkeypatch.setattr(evaluate, "examples", lambda *_: [])
    assert robust(capsys) == 1
    assert Path("out/report.html").read_text().count("100.0\u00a0%") > 1
    np.savez("theirs.npz", adversarial=adversarial())
    assert merge("out") == 0
    said, err = capsys.readouterr()
    flips = int(re.search(r"tool: 12 images, (\d+) flip a decision \(Linf 4/255 to 4/255 away", said)[1])
    assert 6 < flips <= 12
    assert f"{flips} are nearer than any flip known\nout/margins.parquet: 12 samples, Linf\n" in said
    assert err == ""
    for _ in range(2):
        assert robust(capsys) == pytest.approx(1 - flips / 12)
        assert set(EvidenceTable.load(Path("out/margins.parquet")).frame["suite"]) == {"pgd", "tool"}
    page = Path("out/report.html").read_text()
    assert "robust accuracy at Linf:4/255<" in page
    assert f"{flips} flips, each checked, of which {flips} are nearer than any other known" in page
    assert merge("out") == 0  # again
    assert "\n0 are nearer than any flip known" in capsys.readouterr().out
    assert robust(capsys) == pytest.approx(1 - flips / 12)


def test_a_table_of_images_alone_is_gone_on_from(place, capsys):
    np.savez("theirs.npz", adversarial=adversarial())
    Path("out").mkdir()
    assert merge() == 0
    theirs = EvidenceTable.load(Path("out/margins.parquet"))
    assert call(*usual("--suite", "pgd", model="mine:Net")) == 0
    both = EvidenceTable.load(Path("out/margins.parquet"))
    assert both.frame[both.frame["suite"] == "tool"].reset_index(drop=True).equals(theirs.frame)
    assert both.robust_accuracy("Linf", EPS).unknown == 0


def test_a_table_that_is_made_again_from_the_journal_takes_the_images_again(place, caplog):
    assert call(*usual("--suite", "pgd", model="mine:Net")) == 0
    np.savez("theirs.npz", adversarial=adversarial())
    assert merge("out") == 0
    whole = EvidenceTable.load(Path("out/margins.parquet"))
    Path("out/margins.parquet").write_bytes(b"PAR1 not")
    assert call(*usual("--suite", "pgd", model="mine:Net")) == 0
    assert "other tools' images when they are merged again" in caplog.text
    assert merge("out") == 0
    assert EvidenceTable.load(Path("out/margins.parquet")).frame.equals(whole.frame)


# --- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "write"),
    [
        ("a.npz", lambda f, x: np.savez(f, images=x)),
        ("a.npz", lambda f, x: np.savez_compressed(f, x_adv=x, images=0 * x, labels=[0])),
        ("a.npz", lambda f, x: np.savez(f, images=x[::-1], sample=np.arange(12)[::-1])),
        ("a.npz", lambda f, x: np.savez(f, images=x.transpose(0, 2, 3, 1))),
        ("a.npy", np.save),
        ("a.pt", lambda f, x: torch.save(torch.from_numpy(x), f)),
        ("a.pth", lambda f, x: torch.save({"adv_complete": torch.from_numpy(x), "eps": 0.1}, f)),
    ],
    ids=["images", "a usual name before images", "ids", "channels last", "npy", "a tensor", "AutoAttack's"],
)
def test_files_of_other_tools(place, capsys, file, write):
    np.savez("theirs.npz", adversarial=adversarial())
    assert merge(out="plain.parquet") == 0
    write(Path(file), adversarial())
    assert merge(file=file, out="other.parquet") == 0
    tables = [EvidenceTable.load(Path(name)).frame for name in ("plain.parquet", "other.parquet")]
    assert np.isfinite(tables[0]["upper"]).sum() > 6
    assert tables[0].equals(tables[1])


def test_images_that_an_evaluation_keeps_are_flips_here_too(place, capsys):
    assert call(*usual("--suite", "pgd", "--save-adversarial", model="mine:Net")) == 0
    assert merge(file="out/adversarial/Linf.npz", source="own", out="own.parquet") == 0
    own, theirs = (EvidenceTable.load(Path(name)).nearest("Linf") for name in ("out/margins.parquet", "own.parquet"))
    assert np.isfinite(own).sum() > 6
    assert theirs.to_numpy() == pytest.approx(own.to_numpy(), rel=2e-6, abs=1.2e-7)
    assert (theirs <= own).all()


def test_images_of_some_samples(place, capsys):
    np.savez("theirs.npz", images=adversarial(rows=slice(4, 9))[::-1], sample=np.arange(4, 9)[::-1])
    assert merge(out="some.parquet") == 0
    found = np.isfinite(EvidenceTable.load(Path("some.parquet")).frame["upper"].to_numpy())
    assert len(found) == 12
    assert found[4:9].sum() > 2
    assert not found[[*range(4), *range(9, 12)]].any()


@pytest.mark.parametrize("with_ids", [False, True])
def test_a_limited_table_takes_the_images_of_its_samples(place, capsys, with_ids):
    assert call(*usual("--suite", "pgd", "--limit", 5, model="mine:Net")) == 0
    np.savez("theirs.npz", images=adversarial(), **({"sample": np.arange(12)} if with_ids else {}))
    assert merge("out", limit=5) == 0
    assert "tool: 5 images" in capsys.readouterr().out
    assert merge("out") == 2
    assert "does not go with the tables: the evidence is on another data" in capsys.readouterr().err


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize(
    ("file", "write", "says"),
    [
        ("a.npz", lambda f, x: np.savez(f, pictures=x), "'a.npz': has no images under adversarial, "),
        ("a.npz", lambda f, x: f.write_bytes(b"PK\x03\x04 not"), "'a.npz': not a readable .npz archive"),
        ("a.npz", lambda f, x: np.savez(f, images=x[:7]), "adversarial = 'a.npz': holds 7 images of 12 samples: say"),
        (
            "a.npz",
            lambda f, x: np.savez(f, images=x, sample=np.arange(12) + 3),
            "sample = 12: is no sample of the data",
        ),
        ("a.npz", lambda f, x: np.savez(f, images=x, sample=np.arange(11)), "give one image for each of 11 samples"),
        (
            "a.npz",
            lambda f, x: np.savez(f, images=x, sample=np.ones(12)),
            "'a.npz': sample is float64 of shape (12,)",
        ),
        ("a.npz", lambda f, x: np.savez(f, images=x[:, :, 2:]), "adversarial = (12, 3, 30, 32): the model sees"),
        (
            "a.npz",
            lambda f, x: np.savez(f, images=np.array([Bomb()])),
            "'a.npz': not a readable .npz archive (array",
        ),
        ("a.npy", lambda f, x: np.save(f, np.array([Bomb()])), "'a.npy': not a readable .npy file"),
        ("a.npy", lambda f, x: f.write_bytes(b""), "'a.npy': not a readable .npy file"),
        (
            "a.pt",
            lambda f, x: torch.save({"adv": Bomb()}, f),
            "'a.pt': damaged, no torch file, or one with Python",
        ),
        (
            "a.pt",
            lambda f, x: torch.save([torch.from_numpy(x)], f),
            "'a.pt': holds a list: give a tensor",
        ),
        (
            "a.png",
            lambda f, x: f.touch(),
            "'a.png': no kind of file that adversarial images are read from",
        ),
        ("a.npz", lambda f, x: f.mkdir(), "'a.npz': is a folder, give one of its files"),
        ("a.npz", lambda f, x: np.savez("b.npz", images=x), "'a.npz': is not there; did you mean b.npz?"),
    ],
)
def test_files_that_cannot_be_read(place, capsys, file, write, says):
    write(Path(file), adversarial())
    assert merge(file=file, out="new.parquet") == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not Path("new.parquet").exists()
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"source": None}, "--source is missing: --adversarial takes --norm, --source, --model, --data"),
        ({"model": None}, "--model is missing"),
        ({"file": None}, "--norm is about adversarial images: name their file, --adversarial FILE"),
        ({"file": None, "norm": None, "source": None, "model": None, "data": None, "seed": 3}, "--seed is about"),
        ({"norm": "L9"}, "norm = 'L9': choose one of Linf, L2, L1"),
        ({"source": "pgd"}, "source = 'pgd': name the tool"),
        ({"model": "other:Net"}, "other:Net on some.npz does not go with the tables: the evidence is on another model"),
        ({"data": "nope.npz"}, "data = 'nope.npz'"),
    ],
)
def test_calls_that_cannot_work(place, capsys, changed, says):
    np.savez("theirs.npz", adversarial=adversarial())
    Path("other.py").write_text(FACTORY.replace("manual_seed(0)", "manual_seed(1)"))
    assert merge(out="plain.parquet") == 0
    capsys.readouterr()
    assert merge("plain.parquet", out="new.parquet", **changed) == 2
    assert says in capsys.readouterr().err.splitlines()[-1]
    assert not Path("new.parquet").exists()


def test_what_is_no_evidence_is_told_and_left_out(place, capsys):
    moved = adversarial()
    moved[3] += 1
    moved[5, 0, 0, 0] = np.nan
    np.savez("theirs.npz", adversarial=moved)
    with warnings.catch_warnings():
        warnings.simplefilter("always", TemperWarning)
        assert merge(out="new.parquet") == 0
    out, err = capsys.readouterr()
    assert "tool: 12 images, " in out
    assert ", 2 are no evidence" in out
    assert re.search(
        r"warning: tool: 1 leave \[0, 1\], by up to 1(\.0\d*)? \(sample 3 first\) and 1 are not finite", err
    )
