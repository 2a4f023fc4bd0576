"""Text from outside: nothing that a terminal or a spreadsheet obeys, no markup, no credentials."""

import csv
import io
import re
import unicodedata
from contextlib import redirect_stdout
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from temper import text
from temper.cli import console
from temper.deployment.prediction import Failure, Prediction
from temper.errors import ArgumentError, DataError, MissingExtraError, RunError, TemperError
from temper.margins.intervals import Estimate
from temper.runs.results import EvaluationResult, SearchCost, Subject

ANY = st.text(st.characters(exclude_categories=()), max_size=40)  # surrogates and control characters, too
SECRET = st.text("abcXYZ0189+/=_-:@", min_size=4, max_size=30).map(lambda body: f"S3CR{body}ET")
HOSTILE = [
    "[/x]e",
    "[bold]x[/bold]",
    "[link=x:y]y[/link]",
    "\x1b[31mred\x1b]0;title\x07",
    "a\nb",
    ":warning:",
    "\udcff",
]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


@given(ANY)
def test_printable_text_is_one_line_of_visible_characters(given_text):
    shown = text.printable(given_text)
    assert shown.isprintable()
    assert text.printable(shown) == shown
    assert shown == given_text or not given_text.isprintable()


@given(ANY)
@example("a\n\n  b\r\nc\x1b[2J")
def test_a_message_is_one_line(given_text):
    assert text.one_line(given_text).isprintable()


@given(st.sampled_from(["s3", "gs", "https", "git+ssh"]), st.sampled_from(["", "KEY:", "user:"]), SECRET)
@example("s3", "KEY:", "S3CRab/c+d@eET")
def test_credentials_of_an_address_are_hidden(scheme, user, secret):
    if not user:
        secret = re.sub("[/@:]", "x", secret)  # without a name before it, only what is before the host is the user's
    address = f"{scheme}://{user}{secret}@bucket/x"
    for hidden in (text.masked(address), text.shown(address), str(ArgumentError("store", address, f"{address} fails"))):
        assert secret not in hidden
        assert "S3CR" not in hidden
        assert f"{scheme}://***@bucket/x" in hidden


@pytest.mark.parametrize(
    "kept", ["s3://bucket/x", "timm:resnet18@weights.pt", "https://host/a?b=c", "a@b.c", "Linf:8/255", "C:\\x", ""]
)
def test_what_holds_no_credentials_stays(kept):
    assert text.masked(kept) == kept


@pytest.mark.parametrize("name", ["token", "X-Amz-Signature", "X-Amz-Security-Token", "api_key", "Password"])
def test_signed_addresses_lose_their_signature(name):
    assert text.masked(f"https://host/a?x=1&{name}=S3CRET&y=2") == f"https://host/a?x=1&{name}=***&y=2"


@pytest.mark.parametrize("kind", [TemperError, DataError, RunError])
def test_no_error_says_credentials(kind):
    error = kind("s3://KEY:SECRET@bucket/x: holds no benchmark results")
    assert "SECRET" not in str(error) + repr(error)
    assert "s3://***@bucket/x: holds no" in str(error)
    assert "SECRET" not in str(MissingExtraError("store s3://KEY:SECRET@bucket", "s3"))


def test_a_long_value_is_cut():
    message = str(ArgumentError("SPEC", {f"key {k}": list(range(100)) for k in range(100)}, "is wrong"))
    assert len(message) < 250
    assert message.endswith("...: is wrong")


# --- spreadsheets ---------------------------------------------------------------------------------

FORMULAS = ["=1+1", "+x", "-x", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://x","y")', "-1+2", "--5"]


@pytest.mark.parametrize("value", FORMULAS)
def test_a_formula_is_text(value):
    assert str(text.cell(value))[0] in "'\\"
    assert not text.path_cell(value).startswith(text._FORMULA)
    assert Path(text.path_cell(value)) == Path(value)


@pytest.mark.parametrize("value", [-0.5, 3, None, "-0.5", "+1e-3", "-inf", "cat", "", "a=b", "é"])
def test_numbers_and_words_stay_as_they_are(value):
    assert text.cell(value) == value


@given(ANY)
def test_no_cell_is_a_formula_or_moves_a_cursor(value):
    safe = str(text.cell(value))
    assert all(c == "\n" or unicodedata.category(c) not in ("Cc", "Cs") for c in safe)
    assert not safe.startswith(("=", "+", "-", "@", "\t", "\r")) or float(safe) is not None


def test_the_answer_to_a_query_is_safe_in_a_spreadsheet():
    out = io.StringIO()
    console.write_csv(pd.DataFrame({"=a": ["=1+1", "\x1b[31m"], "n": [-0.5, 2]}), out)
    assert list(csv.reader(io.StringIO(out.getvalue()))) == [["'=a", "n"], ["'=1+1", "-0.5"], ["\\x1b[31m", "2.0"]]


def test_predictions_are_safe_in_a_spreadsheet():
    out = io.StringIO()
    console.write_predictions([Prediction("=x.jpg", "@class", 0, 0.5, -1.5, None)], out)
    row = list(csv.reader(io.StringIO(out.getvalue())))[1]
    assert row == ["./=x.jpg", "'@class", "0", "0.5", "-1.5", ""]


# --- the console ----------------------------------------------------------------------------------


@given(ANY)
def test_anything_can_be_said(name):
    out = io.StringIO()
    with redirect_stdout(out):
        console.say(f"run: {name}")
    assert out.getvalue() == f"run: {text.printable(text.masked(name))}\n"


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_is_markup_or_moves_the_cursor(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    subject, estimate = Subject(name, {}, name, 10, ""), Estimate(0.5, 0.4, 0.6, 10)
    search = SearchCost(1, 1, [], 0.0, Path(name))
    console.show_evaluation(EvaluationResult(subject, estimate, (), search, True, {}), Path(name))
    out = said(capsys)
    assert f"evidence: {text.printable(name)}\n" in out
    assert f"report: {text.printable(name)}/report.html\n" in out
    assert "\x1b" not in out
    console.show_table(name, {name: {name: estimate}})
    assert "[40.0%, 60.0%]" in said(capsys)
    failure = Failure(name, name)
    console.show_predictions([Prediction(name, name, 0, 0.5, 1.0, True), failure], None, io.StringIO())
    assert capsys.readouterr().err == f"temper: skipped {text.printable(name)}: {text.one_line(name)}\n"
    console.show_frame(pd.DataFrame({"x": [name]}, dtype=object))
    assert text.printable(name) in said(capsys)


def test_credentials_are_never_printed(capsys):
    console.say("s3://KEY:SECRET@bucket/x: 0 of 4 runs done")
    assert said(capsys) == "s3://***@bucket/x: 0 of 4 runs done\n"
