"""Writing: whole or not at all, through links, never over a folder, and the error names the file."""

import errno
from pathlib import Path

import pytest

from temper.core.files import check_writable, target, write_json, written
from temper.errors import ArgumentError


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file.json").write_text("old")
    link = tmp_path / "link.json"
    link.symlink_to("real/file.json")
    write_json(link, 1)
    assert link.is_symlink()
    assert (tmp_path / "real/file.json").read_text() == "1\n"


def test_a_link_to_nothing_yet_makes_what_it_points_to(tmp_path):
    link = tmp_path / "link.json"
    link.symlink_to("new/file.json")
    write_json(link, 1)
    assert link.is_symlink()
    assert (tmp_path / "new/file.json").read_text() == "1\n"


@pytest.mark.parametrize("kind", ["folder", "link to a folder", "link to itself", "device"])
def test_what_is_no_file_is_refused_and_left(tmp_path, kind):
    place = tmp_path / "out"
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/kept").write_text("x")
    if kind == "folder":
        place = tmp_path / "folder"
    elif kind == "device":
        place = Path("/dev/null")
    else:
        place.symlink_to("folder" if kind == "link to a folder" else "out")
    with pytest.raises(OSError, match=r"is a folder|is no regular file|symbolic links") as refused:
        write_json(place, 1)
    assert refused.value.filename == str(place)
    assert (tmp_path / "folder/kept").read_text() == "x"
    assert not place.is_file()
    assert place.is_symlink() == ("link" in kind)


@pytest.mark.parametrize("number", [errno.EFBIG, errno.ENOSPC, errno.EIO])
def test_an_error_without_a_name_gets_one(tmp_path, number):
    (tmp_path / "out").write_text("old")
    with pytest.raises(OSError) as failed, written(tmp_path / "out") as unfinished:
        unfinished.write_text("half")
        raise OSError(number, "no luck")
    assert failed.value.filename == str(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "old"


def test_what_cannot_be_made_is_refused_at_once(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="file is a file, and no folder"):
        target(tmp_path / "file/below/out.json")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)  # who runs the tests may write everywhere
    with pytest.raises(PermissionError, match="may not be written to"):
        target(tmp_path / "new/out.json")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("out", ["out", "out/new", "out/new/below"])
@pytest.mark.parametrize("argument", ["out", "store"])
def test_a_folder_that_may_not_be_written_to_is_refused_by_the_name_it_was_given_with(
    tmp_path, monkeypatch, out, argument
):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path / "out")
    with pytest.raises(ArgumentError, match=f"^{argument} = '{tmp_path / out}': may not be written to"):
        check_writable(tmp_path / out, argument)
    assert not list((tmp_path / "out").iterdir())
