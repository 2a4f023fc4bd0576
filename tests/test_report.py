import base64
import dataclasses
import errno
import re
from html.parser import HTMLParser
from importlib import resources
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from temper.core.drawing import PALETTE
from temper.errors import ArgumentError, TemperError
from temper.margins.intervals import Estimate
from temper.report import (
    AccuracyCurve,
    EpochRow,
    RunView,
    SampleView,
    Training,
    accuracy_curve,
    training_curves,
    write_report,
)
from temper.report.content import page_of
from temper.report.figures import magnified_difference, robust_overfitting, run_colour
from temper.report.views import format_distance

VOID = {"meta", "img", "rect", "wbr"}


class Page(HTMLParser):
    """The page's elements, and that every element that opens also closes, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join("".join(self.texts).replace("\u00a0", " ").split())

    def all(self, tag, **attributes):
        return [a for t, a in self.elements if t == tag and attributes.items() <= a.items()]


def sample(size=8, channels=3, distance=4 / 255):
    image = np.full((size, size, channels), 100, np.uint8)
    return SampleView(image, image / 255 + distance, "tabby_cat", "tabby_cat", "dog", distance, "Linf")


def view(name="fixed", **parts):
    full = {
        "facts": {"model": "resnet20", "seed": "0"},
        "table": {
            "clean accuracy": Estimate(0.78, 0.753, 0.805, 1000),
            "robust accuracy at Linf 8/255": Estimate(0.25, 0.224, 0.31, 1000, 0.031),
        },
        "curves": {"Linf": {i / 255: Estimate(0.8 - i / 20, 0.75 - i / 20, 0.85 - i / 20, 1000) for i in range(9)}},
        "history": [EpochRow(e, e / 255, 2.0 / e, 0.3, None if e == 1 else 0.4, 1e-3) for e in range(1, 5)],
        "training_norm": "Linf",
        "samples": [sample()],
    } | parts
    bands = full.pop("bands", {})
    curves = {norm: AccuracyCurve(points, bands.get(norm, {})) for norm, points in full.pop("curves").items()}
    training = Training(full.pop("history"), full.pop("training_norm"))
    return RunView(name, curves=curves, training=training, **full)


def report(tmp_path, *views, title="Digits"):
    path = write_report(views, tmp_path / "report.html", title=title)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_table_shows_value_interval_n_and_unknown(tmp_path):
    _, page = report(tmp_path, view())
    assert "78.0 %" in page.text
    assert "75.3 to 80.5 %" in page.text
    assert "n = 1,000" in page.text
    assert "3.1 % unknown" in page.text
    assert page.text.count(" unknown") == 1  # only where there are some


def test_a_lead_stands_before_the_table_as_text(tmp_path):
    text = write_report([view()], tmp_path / "report.html", title="t", lead="fell to <b>5 %</b>").read_text()
    assert "<b>5 %" not in text
    assert text.index('<p class="lead">fell to &lt;b&gt;5 %') < text.index("<table")
    plain, _ = report(tmp_path, view())
    assert 'class="lead"' not in plain


def test_a_column_that_one_run_lacks_is_shown_as_not_measured(tmp_path):
    other = view("other", table={"clean accuracy": Estimate(0.5, 0.4, 0.6, 50)})
    _, page = report(tmp_path, view(), other)
    assert len(page.all("span", **{"aria-label": "not measured"})) == 1
    assert len(page.all("td", **{"data-column": "clean accuracy"})) == 2


def test_the_file_needs_nothing_else(tmp_path):
    text, page = report(tmp_path, view(), view("other"))
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("iframe")
    assert "url(" not in text
    assert "@import" not in text
    for svg in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", text):
        references = re.findall(r'href="([^"]+)"', base64.b64decode(svg).decode())
        assert references
        assert all(r.startswith("#") for r in references)


@pytest.mark.slow
def test_figures_and_pictures_have_alternative_texts_and_captions(tmp_path):
    _, page = report(tmp_path, view())
    images = page.all("img")
    assert len(images) == 2 + 3  # accuracy curve, training, and one sample's strip
    assert all(image["alt"] for image in images)
    assert any("fixed: 80.0" in i["alt"] and "8/255" in i["alt"] for i in images)
    assert len(page.all("figcaption")) == len(page.all("figure")) == 3
    assert len(page.all("caption")) == 1


def test_how_to_read_explains_the_words(tmp_path):
    _, page = report(tmp_path, view())
    for word in ("95 % interval", "Unknown", "Expected robustness", "Robust accuracy at ε"):
        assert word in page.text


def test_names_from_users_are_escaped(tmp_path):
    evil = "<script>alert(\"1\")</script> $x$ & 'y'"
    odd = dataclasses.replace(sample(), label=evil, prediction=evil, adversarial_prediction=evil)
    table = {evil: Estimate(0.5, 0.4, 0.6, 9)}
    _, page = report(tmp_path, view(evil, facts={evil: evil}, table=table, samples=[odd]), title=evil)
    assert not page.all("script")
    assert page.text.count(evil) >= 6


@pytest.mark.slow
def test_credentials_in_names_are_hidden(tmp_path):
    address = "s3://KEY_A:SEC_RET@bucket/x_y"
    odd = dataclasses.replace(sample(), label=address, prediction=address, adversarial_prediction=address)
    text, page = report(tmp_path, view(address, facts={address: address}, samples=[odd]), title=address)
    assert "SEC" not in page.text
    assert not [value for _, attributes in page.elements for value in attributes.values() if value and "SEC_" in value]
    assert text.count("s3://***@bucket/x_<wbr>y") == 3  # the classes'


def test_credentials_in_legends_are_hidden():
    address = "s3://KEY_A:SEC_RET@bucket/x_y"
    legend = accuracy_curve([view(address), view("other")], "Linf").legends[0]
    assert [text.get_text() for text in legend.get_texts()] == ["s3://***@bucket/x_y", "other"]


def test_parts_that_are_missing_are_left_out(tmp_path):
    whole = report(tmp_path, view())[1].text
    for part, heading in {"samples": "Samples and", "history": "Training.", "facts": "What was run"}.items():
        assert heading in whole
        assert heading not in report(tmp_path, view(**{part: ()}))[1].text
    _, bare = report(tmp_path, RunView("bare"))
    assert not bare.all("img")
    assert not bare.all("table")
    assert "bare" not in bare.text


def test_a_run_without_history_or_samples_stands_beside_one_with_them(tmp_path):
    _, page = report(tmp_path, view("bare", history=(), samples=(), curves={}), view("full"))
    assert len(page.all("img")) == 5


@pytest.mark.slow
def test_the_same_views_give_the_same_bytes(tmp_path):
    assert report(tmp_path, view())[0] == report(tmp_path, view())[0]


@pytest.mark.slow
def test_the_pictures_are_the_images(tmp_path):
    _, page = report(tmp_path, view(samples=[sample(channels=1)]))
    urls = [image["src"] for image in page.all("img") if "png" in image["src"]]
    first, second, difference = (np.asarray(Image.open(BytesIO(base64.b64decode(u.split(",")[1])))) for u in urls)
    assert (first[..., :3] == 100).all()
    assert (second[..., :3] == 104).all()
    assert (difference[..., :3] > 250).all()
    assert "tabby_cat" in page.text
    assert "Linf 4/255" in page.text
    assert "× 31" in page.text


@pytest.mark.slow
@pytest.mark.parametrize("path", ["file/report.html", "folder"])
def test_a_path_that_cannot_be_written_is_one_clear_error(tmp_path, path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(TemperError, match="report cannot be written") as error:
        write_report([view()], tmp_path / path, title="t")
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.slow
def test_a_full_disk_is_not_blamed_on_the_path(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_report([view()], tmp_path / "report.html", title="t")


def test_no_views_and_equal_names_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="at least one run"):
        write_report([], tmp_path / "report.html", title="t")
    with pytest.raises(ArgumentError, match="two runs are named 'a'"):
        write_report([view("a"), view("a")], tmp_path / "report.html", title="t")
    assert not list(tmp_path.iterdir())


def test_percentages_and_unfit_images_are_refused():
    with pytest.raises(ArgumentError, match=r"value = 78.0.*share in \[0, 1\]"):
        view("a", table={"clean accuracy": Estimate(78.0, 0.7, 0.8, 100)})
    with pytest.raises(ArgumentError, match="high = nan"):
        view("a", curves={"L2": {0.5: Estimate(0.5, 0.4, float("nan"), 100)}})
    with pytest.raises(ArgumentError, match=r"image = .*uint8"):
        SampleView(np.zeros((8, 8, 3)), np.zeros((8, 8, 3)), "a", "a", "b", 0.1, "L2")
    with pytest.raises(ArgumentError, match=r"adversarial = .*shape"):
        SampleView(np.zeros((8, 8, 1), np.uint8), np.zeros((8, 8, 3)), "a", "a", "b", 0.1, "L2")


def test_accuracy_curve_draws_the_numbers_in_255ths():
    figure = accuracy_curve([view("other", curves={}), view()], "Linf")
    (axes,) = figure.axes
    line = axes.lines[0]
    np.testing.assert_allclose(line.get_xdata(), np.arange(9))
    np.testing.assert_allclose(line.get_ydata(), 0.8 - np.arange(9) / 20)
    assert line.get_color() == run_colour(1)  # its place among all views, as in the table
    figure.draw_without_rendering()
    assert "4/255" in [tick.get_text() for tick in axes.get_xticklabels()]
    (band,) = axes.collections
    low, high = band.get_datalim(axes.transData).intervaly
    assert (low, high) == (pytest.approx(0.35), pytest.approx(0.85))


def test_accuracy_curve_in_other_norms_is_in_pixel_units_and_marks_unknown_hollow():
    curve = {0.0: Estimate(0.9, 0.8, 1.0, 50), 0.5: Estimate(0.4, 0.3, 0.6, 50, unknown=0.1)}
    (axes,) = accuracy_curve([view(curves={"L2": curve})], "L2").axes
    line, *markers = axes.lines
    np.testing.assert_allclose(line.get_xdata(), [0, 0.5])
    assert [marker.get_markerfacecolor() for marker in markers] == [PALETTE[0], "white"]


def test_between_the_radii_searched_a_band_holds_what_is_unknown_and_the_line_what_is_known():
    curve = {0.0: Estimate(0.9, 0.8, 1.0, 50), 0.5: Estimate(0.1, 0.0, 0.2, 50)}
    known, open_ = Estimate(0.3, 0.2, 0.4, 50), Estimate(0.1, 0.0, 0.95, 50, unknown=0.7)
    (axes,) = accuracy_curve([view(curves={"L2": curve}, bands={"L2": {0.1: known, 0.3: open_}})], "L2").axes
    line, *markers = axes.lines
    np.testing.assert_allclose(line.get_xdata(), [0, 0.1, 0.5])
    np.testing.assert_allclose(line.get_ydata(), [0.9, 0.3, 0.1])
    assert [marker.get_xdata()[0] for marker in markers] == [0, 0.5]
    vertices = axes.collections[0].get_paths()[0].vertices
    assert any(np.allclose(vertex, [0.3, 0.95]) for vertex in vertices)


@pytest.mark.parametrize(
    ("distance", "norm", "words"),
    [(4 / 255, "Linf", "4/255"), (2.31 / 255, "Linf", "2.31/255"), (0.1 / 255, "Linf", "0.1/255"), (0, "Linf", "0/255"),
     (10 / 255, "Linf", "10/255"), (0.5, "L2", "0.5"), (12.0, "L1", "12"), (0.1234, "L2", "0.123")],
)  # fmt: skip
def test_distances_are_written_without_idle_zeros(distance, norm, words):
    assert format_distance(distance, norm) == words


@pytest.mark.slow
def test_training_curves_share_the_epochs_and_draw_epsilon_under_them():
    figure = training_curves([view(), view("other")])
    accuracy, loss, eps, lr = figure.axes
    assert accuracy.get_shared_x_axes().joined(accuracy, eps)
    assert accuracy.get_position().y0 > loss.get_position().y0 > eps.get_position().y0 > lr.get_position().y0
    np.testing.assert_allclose(eps.lines[0].get_ydata(), [1, 2, 3, 4])
    np.testing.assert_allclose(accuracy.lines[0].get_xdata(), [2, 3, 4])  # none was measured in epoch 1
    plain = training_curves([view(training_norm="L2")]).axes[2]
    np.testing.assert_allclose(plain.lines[0].get_ydata(), np.arange(1, 5) / 255)


def test_training_curves_of_one_epoch_without_attack_are_still_seen():
    figure = training_curves([view(history=[EpochRow(1, 0.0, 2.0, 0.3, 0.4, 1e-3)])])
    eps = figure.axes[2]
    assert eps.lines[0].get_marker() == "."
    assert eps.get_ylim()[0] < 0 < 1 <= eps.get_ylim()[1]


def test_figures_say_what_they_lack():
    with pytest.raises(ArgumentError, match="norm = 'L1'"):
        accuracy_curve([view()], "L1")
    with pytest.raises(ArgumentError, match="history"):
        training_curves([view(history=())])


def test_magnification_fills_the_range_and_never_leaves_it():
    difference, factor = magnified_difference(sample(distance=-4 / 255))
    assert factor == 31
    assert difference.min() == pytest.approx(0.5 - 31 * 4 / 255)
    difference, factor = magnified_difference(sample(distance=0.0))
    assert factor == 1
    assert (difference == 0.5).all()


def test_figures_leave_matplotlib_settings_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    accuracy_curve([view()], "Linf")
    assert dict(matplotlib.rcParams) == before


def test_cards_in_a_grid_stand_in_line():
    style = resources.files("temper.report").joinpath("templates", "style.css").read_text(encoding="utf-8")
    spaced, level = style.find(".card + .card {"), style.find(".samples .card { margin-top: 0; }")
    assert 0 < spaced < level  # of two rules as specific as each other, the later one holds


def test_robust_overfitting_is_shown_where_robust_accuracy_was_measured():
    robust = [0.1, 0.4, 0.3]
    rows = [EpochRow(e, 8 / 255, 1.0, 0.3 * e, 0.5, 0.1, r) for e, r in enumerate(robust, start=1)]
    measured = RunView("measured", training=Training(rows, kept=2, passes="1,000, 6 per image and update"))
    other = RunView("other", training=Training([EpochRow(1, 0.0, 1.0, 0.5, 0.5, 0.1)], kept=1))
    (axes,) = robust_overfitting([other, measured]).axes
    validation, training, ring = axes.get_lines()
    assert [*validation.get_ydata()] == robust
    assert [*training.get_ydata()] == pytest.approx([0.3, 0.6, 0.9])
    assert (*ring.get_xdata(), *ring.get_ydata()) == (2, 0.4)
    page = page_of([other, measured], "Both")
    assert page.runs[0].transfer.robustness is None
    card = page.runs[1].transfer.robustness
    assert (card.best, card.last, card.kept) == ("40.0\u00a0% (epoch 2)", "30.0\u00a0% (epoch 3)", "epoch 2")
    assert page_of([other], "One").overfitting is None
    with pytest.raises(ArgumentError, match="none has robust validation accuracies"):
        robust_overfitting([other])
