"""Every wrong call is one clear line on stderr and status 2."""

import itertools
import re
from pathlib import Path

import pytest

from temper.cli import main as cli
from wrong_calls import RIGHT, WrongCall, commands, furnish, wrong_calls

BOX = set("╭╮╰╯│─┏┓┗┛┃━")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    furnish(folder)
    return folder


def there(place: Path) -> list[Path]:
    """Files and folders: not even an empty one is left behind."""
    return sorted(place.rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("call", wrong_calls(), ids=str)
def test_a_wrong_call_is_one_line(
    call: WrongCall, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    before = there(place)
    status = cli.main(list(call.words))
    out, err = capsys.readouterr()
    assert (status, out) == (2, ""), err
    assert err.endswith("\n"), err
    assert err.count("\n") == 1, err
    assert err.startswith("temper: error: ")
    assert not BOX & set(err)
    assert "S3CRET" not in err
    assert "S3/CRET" not in err
    for words in call.says:
        assert words in err
    assert there(place) == before


@pytest.mark.parametrize("below", ["", "/new", "/new/deep"])
@pytest.mark.parametrize("command", ["finetune", "evaluate", "corruptions", "margins", "bench run"])
def test_a_folder_that_may_not_be_written_to_is_named_as_it_was_given(command, below, tmp_path, capsys, monkeypatch):
    furnish(tmp_path)
    (tmp_path / "shut").mkdir()
    monkeypatch.chdir(tmp_path)
    shut, before = f"shut{below}", there(tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: "shut" not in str(path))  # root may write everywhere
    words = [shut if word == "new" else word for word in RIGHT[command]]
    assert cli.main([*command.split(), *words]) == 2
    option = words[words.index(shut) - 1].removeprefix("--")
    told = capsys.readouterr().err
    assert re.fullmatch(rf"temper: error: {option} = '(.*/)?{shut}': may not be written to; .*\n", told), told
    assert there(tmp_path) == before


def test_every_command_and_option_has_wrong_calls() -> None:
    calls = wrong_calls()
    assert set(RIGHT) == set(commands())
    assert len(calls) > 500
    assert {" ".join(call.words[:2]) if call.words[0] == "bench" else call.words[0] for call in calls} >= set(RIGHT)


@pytest.mark.parametrize("command", commands())
def test_help_wraps_descriptions_and_keeps_no_line_breaks_of_the_source(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as ended:
        cli.main([*command.split(), "--help"])
    lines = [line.strip("│ \t") for line in capsys.readouterr().out.splitlines()]
    assert ended.value.code == 0
    for broken, rest in itertools.pairwise(lines):  # a text that goes on in the next line, far from the edge
        goes_on = re.search(r"[a-z,]$", broken) and re.match("[a-z]", rest) and not broken.startswith("-")
        assert not goes_on, (broken, rest)


def test_the_commands_stand_in_line():
    table = [line for line in cli.USAGE.splitlines() if line.startswith("  ")]
    starts = {re.match(r"  \S+ +", line).end() for line in table}
    assert {line.split()[0] for line in table} == {"finetune", "bench", *cli.COMMANDS}
    assert len(starts) == 1
