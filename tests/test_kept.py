"""Adversarial images that an evaluation keeps: whose they are, how far, and that none is lost."""

import errno
import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import temper
from evaluate_command import call, refusal, usual, working_directory
from measured import Net, pictures, predictions
from temper.attacks.work import Flip
from temper.errors import ArgumentError, DamagedError, EvidenceError
from temper.evaluation import kept as module
from temper.evaluation.journal import Journal
from temper.evaluation.kept import Kept
from temper.evaluation.measurement import Evaluation, measure
from temper.evaluation.samples import from_arrays
from temper.threat import NORMS, parse_threats

ABOUT = {"model": "m", "data": "d"}
SHAPE = (3, 2, 2)
ARRAYS = ("sample", "label", "prediction", "adversarial_prediction", "distance", "images")
ORDERS = {"Linf": np.inf, "L2": 2, "L1": 1}


def run(out: Path, *, keep: bool = True, suite: str = "apgd", journal: bool = True, **options) -> Evaluation:
    model, images = Net(), pictures(8)
    labels = predictions(model, images)
    labels[1] = (labels[1] + 1) % 4
    return measure(
        model, from_arrays(images, labels), parse_threats("Linf:0.02,0.2"), suite, 2, batch_size=4,
        journal=out / "journal" if journal else None, adversarial=out / "kept" if keep else None, **options,
    )  # fmt: skip


def packed(done: Evaluation) -> dict[str, np.ndarray]:
    return loaded(done.pack()["Linf"])


def loaded(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in ARRAYS}


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, np.ndarray]:
    """What a call that is left alone keeps."""
    return packed(run(tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize("suite", ["apgd", "margin"])
def test_each_flip_of_the_table_is_kept_as_near_as_it_says(tmp_path, suite):
    model, images = Net(), pictures(6)
    labels = predictions(model, images)
    labels[2] = (labels[2] + 1) % 4  # a wrong decision, which only suite margin searches
    threats = ["Linf:0.2", "L2:1.2", "L1:6"]
    table = temper.evaluate(model, images, labels, threats, suite, save_adversarial=tmp_path / "new")
    for norm in NORMS:
        arrays = loaded(tmp_path / f"new/{norm}.npz")
        rows = table.frame[(table.frame["norm"] == norm) & np.isfinite(table.frame["upper"])].sort_values("sample")
        assert len(rows) > 2
        assert (2 in rows["sample"].to_numpy()) == (suite == "margin")
        for column, name in (("sample",) * 2, ("label",) * 2, ("prediction",) * 2, ("upper", "distance")):
            np.testing.assert_array_equal(arrays[name], rows[column].to_numpy())
        delta = arrays["images"].astype(np.float64) - images.numpy()[arrays["sample"]].astype(np.float64)
        lengths = np.linalg.norm(delta.reshape(len(delta), -1), ORDERS[norm], axis=1)
        np.testing.assert_allclose(arrays["distance"], lengths, rtol=1e-14)
        with torch.no_grad():
            alone = torch.cat([model(image[None]) for image in torch.from_numpy(arrays["images"])])
        np.testing.assert_array_equal(alone.argmax(1), arrays["adversarial_prediction"])
        assert (arrays["adversarial_prediction"] != arrays["prediction"]).all()
        assert arrays["images"].dtype == np.float32
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["L1.npz", "L2.npz", "Linf.npz"]


@pytest.mark.parametrize("after", [1, 6, 14])
def test_a_crash_at_any_outcome_leaves_no_known_flip_without_its_image(tmp_path, monkeypatch, whole, after):
    written, append = [], Journal.append

    def crashing(self, norm, outcome):
        if len(written) == after:
            raise SystemExit
        written.append(outcome)
        append(self, norm, outcome)

    monkeypatch.setattr(Journal, "append", crashing)
    with pytest.raises(SystemExit):
        run(tmp_path)
    monkeypatch.undo()
    names = [path.stem.split("-", 2) for path in tmp_path.glob("kept/*/*.f32")]
    distances = {int(sample): float(distance) for sample, _, distance in names}
    known = {outcome.sample: outcome.distance for outcome in written if np.isfinite(outcome.distance)}
    assert len(known) >= (after > 1)
    assert all(distances[sample] <= distance for sample, distance in known.items())
    assert_same(packed(run(tmp_path)), whole)
    assert not list(tmp_path.glob("kept/*/"))


@pytest.mark.parametrize(("suite", "journal"), [("apgd", True), ("margin", False), ("fast", True)])
def test_flips_of_a_call_that_kept_none_are_found_again(tmp_path, caplog, suite, journal):
    caplog.set_level("INFO", "temper")
    whole = packed(run(tmp_path / "whole", suite=suite))
    before = run(tmp_path, keep=False, suite=suite)
    done = run(tmp_path, journal=journal, known=before.table, suite=suite)
    count = len(whole["sample"])
    assert f"{count} flips were found earlier without keeping their images: finding them again" in caplog.text
    assert "have no image" not in caplog.text
    assert done.table.frame.equals(before.table.frame)
    assert_same(packed(done), whole)


def test_where_only_a_table_is_left_they_are_found_again_as_near(tmp_path, caplog, whole):
    """At the distance itself, for a table does not say between which radii the search closed in on it."""
    before = run(tmp_path, keep=False).table
    done = run(tmp_path, journal=False, known=before)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    arrays, upper = packed(done), done.table.frame["upper"]
    np.testing.assert_array_equal(arrays["sample"], whole["sample"])
    np.testing.assert_allclose(arrays["distance"], whole["distance"], rtol=1e-5)
    assert (arrays["distance"] <= whole["distance"]).all()
    np.testing.assert_array_equal(arrays["distance"], upper[np.isfinite(upper)])


def test_what_there_is_no_time_to_find_again_is_told_in_one_line(tmp_path, caplog, whole):
    run(tmp_path, keep=False)
    done = run(tmp_path, time_budget=-1)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        f"{len(whole['sample'])} flips that were found earlier have no image yet; the same command finds them again"
    ]
    assert not len(packed(done)["sample"])


def test_flips_that_this_machine_does_not_find_again_are_told_in_one_line(tmp_path, caplog):
    before = run(tmp_path, keep=False, journal=False).table
    nearer = replace(before, frame=before.frame.assign(upper=before.frame["upper"] * 0.5))
    run(tmp_path, journal=False, known=nearer)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "5 flips that were found earlier have no image: this machine does not find them again; "
        "a search into another folder keeps the images of all it finds"
    ]


def test_another_suite_replaces_an_image_by_a_nearer_one_only(tmp_path, whole):
    packed(run(tmp_path))
    nearest = packed(run(tmp_path, suite="margin", journal=False))
    place = np.searchsorted(nearest["sample"], whole["sample"])
    assert (nearest["distance"][place] <= whole["distance"]).all()
    assert (nearest["distance"][place] < whole["distance"]).any()
    assert_same(packed(run(tmp_path, journal=False)), nearest)


def flip(value: float, distance: float, becomes: int = 1) -> Flip:
    return Flip(distance, torch.full(SHAPE, value), becomes)


def folder(path: Path, about: dict[str, str] = ABOUT, shape: tuple[int, ...] = SHAPE) -> Kept:
    return Kept(path, about, shape, ["L2"])


def decisions(count: int = 9) -> pd.DataFrame:
    ids = np.arange(count)
    return pd.DataFrame({"sample": ids, "label": ids % 3, "prediction": ids % 2})


def test_processes_share_a_folder_and_the_nearest_stays(tmp_path):
    one, other = folder(tmp_path), folder(tmp_path)
    one.keep("L2", 5, flip(0.1, 0.1))
    other.keep("L2", 5, flip(0.2, 0.2))
    other.keep("L2", 3, flip(0.3, 0.3))
    one.pack(decisions())
    other.keep("L2", 5, flip(0.05, 0.05, becomes=2))
    other.keep("L2", 3, flip(0.4, 0.4))
    arrays = loaded(other.pack(decisions())["L2"])
    assert arrays["sample"].tolist() == [3, 5]
    assert arrays["distance"].tolist() == [0.3, 0.05]
    assert arrays["adversarial_prediction"].tolist() == [1, 2]
    assert arrays["label"].tolist() == [0, 2]
    assert arrays["prediction"].tolist() == [1, 1]
    np.testing.assert_array_equal(arrays["images"][:, 0, 0, 0], np.float32([0.3, 0.05]))
    assert [path.name for path in tmp_path.iterdir()] == ["L2.npz"]


def test_a_nearer_flip_that_comes_while_others_are_packed_is_in_the_file(tmp_path, monkeypatch):
    packer, other, pixels = folder(tmp_path), folder(tmp_path), Kept._pixels
    packer.keep("L2", 5, flip(0.1, 0.1))
    again = folder(tmp_path)

    def late(self, norm, entry):
        again.keep(norm, 5, flip(0.05, 0.05))
        return pixels(self, norm, entry)

    monkeypatch.setattr(Kept, "_pixels", late)
    arrays = loaded(packer.pack(decisions())["L2"])
    assert arrays["distance"].tolist() == [0.05]
    assert arrays["images"].max() == np.float32(0.05)
    assert not other.missing("L2", np.array([5, 6]), np.array([0.05, np.inf])).any()
    assert other.missing("L2", np.array([5, 6]), np.array([0.04, 1])).all()


def test_what_a_killed_process_leaves_is_no_image(tmp_path):
    kept = folder(tmp_path)
    kept.keep("L2", 5, flip(0.1, 0.1))
    pieces = next(tmp_path.glob("L2-*/"))
    (pieces / "6-1-0.1.f32").write_bytes(b"short")  # a crash of the machine
    begun, dead = pieces / ".7-1-0.1.f32.abc.part", tmp_path / ".L2.npz.abc.part"
    for path in (begun, dead):
        path.write_bytes(b"")
        os.utime(path, (1, 1))
    assert loaded(folder(tmp_path).pack(decisions())["L2"])["sample"].tolist() == [5]
    assert not begun.exists()
    assert not dead.exists()


def test_images_of_something_else_are_refused(tmp_path):
    kept = folder(tmp_path)
    kept.keep("L2", 5, flip(0.1, 0.1))
    assert not folder(tmp_path, {**ABOUT, "model": "n"}).missing("L2", np.array([5]), np.array([np.inf])).any()
    kept.pack(decisions())
    for about, shape in (({**ABOUT, "data": "e"}, SHAPE), (ABOUT, (3, 2, 3))):
        with pytest.raises(EvidenceError, match=r"L2.npz: (holds no adversarial images of this model|is damaged)"):
            folder(tmp_path, about, shape)
    np.savez(tmp_path / "L2.npz", images=np.zeros((1, *SHAPE), np.float32))
    with pytest.raises(EvidenceError, match="move it away"):
        folder(tmp_path)


def test_a_damaged_file_is_one_line_with_the_way_out(tmp_path):
    kept = folder(tmp_path)
    kept.keep("L2", 5, flip(0.1, 0.1))
    path = kept.pack(decisions())["L2"]
    content = path.read_bytes()
    path.write_bytes(content[:200])
    with pytest.raises(DamagedError, match=r"L2.npz: is damaged \(.*\); remove it, and the same command finds its"):
        folder(tmp_path)
    flaw = bytearray(content)
    flaw[content.index(np.float32(0.1).tobytes())] ^= 1
    path.write_bytes(bytes(flaw))
    kept.keep("L2", 4, flip(0.1, 0.1))
    with pytest.raises(DamagedError, match="is damaged"):
        kept.pack(decisions())
    path.write_bytes(content)
    assert loaded(kept.pack(decisions())["L2"])["sample"].tolist() == [4, 5]


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch, written):
    kept, contents = folder(tmp_path), Kept._contents
    kept.keep("L2", 1, flip(0.1, 0.1))
    before = loaded(kept.pack(decisions())["L2"])
    kept.keep("L2", 2, flip(0.2, 0.2))

    def full(*given):
        for count, content in enumerate(contents(*given)):
            if count == written:
                raise OSError(errno.ENOSPC, "No space left on device")
            yield content
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Kept, "_contents", full)
    with pytest.raises(OSError, match="No space left") as error:
        kept.pack(decisions())
    assert error.value.filename == str(tmp_path / "L2.npz")
    monkeypatch.undo()
    assert_same(loaded(tmp_path / "L2.npz"), before)
    assert loaded(folder(tmp_path).pack(decisions())["L2"])["sample"].tolist() == [1, 2]


def test_packing_holds_one_image_at_a_time(tmp_path):
    shape, count = (3, 100, 100), 60
    kept = folder(tmp_path, shape=shape)
    for sample in range(count):
        kept.keep("L2", sample, Flip(0.5, torch.rand(shape), 1))
    kept.pack(decisions(count))
    kept.keep("L2", 7, Flip(0.1, torch.rand(shape), 1))  # the others are read from the file
    tracemalloc.start()
    path = kept.pack(decisions(count))["L2"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > count * 120_000
    assert peak < 10 * 120_000


def test_the_room_on_the_disk_is_told_and_warned_of(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", "temper")
    kept = Kept(tmp_path / "new/er", ABOUT, (3, 224, 224), ["Linf", "L2"])
    kept.announce(10)
    assert f"{tmp_path}/new/er: adversarial images take up to 18.1 MB on the disk" in caplog.text
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=5_000_000))
    kept.announce(10)
    assert "take up to 18.1 MB, and the disk has 5.0 MB free" in caplog.text


@pytest.mark.slow
@pytest.mark.usefixtures("undrawn")
def test_the_command_keeps_them_beside_the_evidence(tmp_path, monkeypatch, capsys):
    working_directory(tmp_path, monkeypatch)
    words = usual("--suite", "apgd", "--save-adversarial", model="mine:Net")
    assert call(*words, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["adversarial"] == {"Linf": "out/adversarial/Linf.npz"}
    arrays = loaded(Path("out/adversarial/Linf.npz"))
    assert arrays["images"].shape[1:] == (3, 32, 32)
    assert len(arrays["sample"])
    assert call(*words) == 0
    assert "adversarial images: out/adversarial/Linf.npz" in capsys.readouterr().out
    assert_same(loaded(Path("out/adversarial/Linf.npz")), arrays)
    said = refusal(capsys, *usual(data="out/adversarial/Linf.npz", out="other"))
    assert "holds adversarial images, float32 as temper evaluate keeps them: 8 bits would spoil them" in said


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match="save_adversarial"):
        temper.evaluate(Net(), pictures(2), [0, 1], ["Linf:0.1"], "apgd", save_adversarial=tmp_path / "file")


@pytest.mark.slow
def test_what_stands_in_the_way_of_images_is_told_before_the_search(tmp_path, monkeypatch, capsys):
    working_directory(tmp_path, monkeypatch)
    words = usual("--suite", "apgd", "--save-adversarial", model="mine:Net")
    Path("out").mkdir()
    Path("out/adversarial").touch()
    assert "out/adversarial': cannot be made (adversarial is no folder)" in refusal(capsys, *words)
    Path("out/adversarial").unlink()
    Path("out/adversarial").mkdir()
    Path("out/adversarial/Linf.npz").write_bytes(b"no archive")
    assert refusal(capsys, *words).endswith("remove it, and the same command finds its images again")
    assert not Path("out/margins.parquet").exists()
