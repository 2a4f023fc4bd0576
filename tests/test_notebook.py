"""What objects show of themselves in a notebook."""

import json
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import evidence
from temper.core.notebook import MOST, page
from temper.errors import EvidenceError, RunError
from temper.margins import BrittlenessDetector, Estimate
from temper.margins.table import EvidenceTable, Provenance
from temper.runs.run import CONFIG, Run

HOSTILE = "<script>alert(1)</script>\x1b[31m s3://KEY:S3CRET@bucket"


class Elements(HTMLParser):
    """The names of the elements of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[object] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data + " "


@pytest.fixture
def axes() -> Axes:
    return Figure().add_subplot()


def searched(norms=("Linf",)) -> EvidenceTable:
    """Margins of 0.01 to 0.4 and scores that rank them, but for one."""
    margins = np.linspace(0.01, 0.4, 40)
    scores = margins * 10
    scores[5] = 3.05
    frame = evidence.pd.concat([evidence.rows(margins, scores, norm=norm) for norm in norms])
    radii = {"margin": {norm: [0.1, 0.2] for norm in norms}}
    return EvidenceTable(frame, {"model": "m", "data": "d"}, Provenance({"margin": {}}, radii, [0], ["1"], []))


def finished(folder, name="run") -> Run:
    run = Run(folder / name)
    run.folder.mkdir()
    row = {"kind": "epoch", "step": 1, "lr": 0.1, "train_loss": 1.0, "seconds": 1.0}
    told = ({"epoch": e, "eps": 0.01 * e, "train_accuracy": 0.1 * e, "validation_accuracy": 0.2 * e} for e in (1, 2, 3))
    epochs = [row | each for each in told]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in epochs))
    (run.folder / CONFIG).write_text("norm: Linf\n")
    results = {"clean accuracy": Estimate(0.6, 0.5, 0.7, 32).to_json()}
    record = {"seed": 0, "versions": {}, "finished": True, "results": results, "warnings": [HOSTILE]}
    (run.folder / "run.json").write_text(json.dumps(record))
    return run


def test_a_table_shows_accuracies_with_intervals_at_the_radii_that_were_searched():
    table = searched()
    seen = Elements(table._repr_html_())
    robust = table.robust_accuracy("Linf", 0.2)
    assert seen.names.count("tr") == 3
    assert f"{robust.value:.1%} " in seen.text
    assert f"{robust.low:.1%} to {robust.high:.1%}" in seen.text
    assert "40 samples" in seen.text


def test_an_estimate_shows_its_five_numbers():
    seen = Elements(Estimate(0.62, 0.5, 0.75, 200, 0.031)._repr_html_())
    assert seen.text.split()[1:] == ["value", "low", "high", "n", "unknown", "0.62", "0.5", "0.75", "200", "3.1%"]


def test_a_detector_shows_what_it_promises():
    detector = BrittlenessDetector.fit(searched(), "Linf:0.2", alpha=0.1)
    text = Elements(detector._repr_html_()).text
    for told in (f"{detector.threshold:.4g}", "10.0%", f"{detector.missed_at_most():.1%}", str(detector.threat)):
        assert told in text


@pytest.mark.parametrize("name", ["run", "<b>run"])
def test_what_comes_from_outside_is_text(name, tmp_path):
    shown = finished(tmp_path, name)._repr_html_()
    seen = Elements(shown)
    assert set(seen.names) <= {"div", "strong", "br", "table", "tr", "th", "td"}
    assert seen.attributes == []
    assert "<script>alert(1)</script>\\x1b" in seen.text
    assert "S3CRET" not in shown
    assert "60.0% [50.0%, 70.0%]" in seen.text


def test_a_long_table_is_cut_and_says_so():
    seen = Elements(page("t", [], ("a",), [(i,) for i in range(MOST + 5)]))
    assert seen.names.count("tr") == MOST + 1
    assert "and 5 more" in seen.text


def test_the_curve_goes_through_the_robust_accuracies(axes):
    table = searched()
    assert table.plot(ax=axes) is axes
    marks = {float(x): float(y) for line in axes.lines if line.get_marker() == "o" for x, y in [line.get_xydata()[0]]}
    told = {round(255 * eps, 6): table.robust_accuracy("Linf", eps).value for eps in (0.1, 0.2)}
    assert {round(x, 6): y for x, y in marks.items()} == {0.0: 1.0, **told}


def test_of_several_norms_one_is_named(axes):
    with pytest.raises(EvidenceError, match=r"several norms \(L2, Linf\)"):
        searched(("Linf", "L2")).plot(ax=axes)
    assert "L2" in searched(("Linf", "L2")).plot("L2", ax=axes).get_xlabel()


def test_evidence_that_nobody_searched_has_no_curve(axes):
    with pytest.raises(EvidenceError, match="no suite searched in Linf"):
        evidence.table([0.1, 0.2], [1, 2]).plot(ax=axes)


def test_a_detector_draws_every_margin_and_its_threshold(axes):
    table = searched()
    detector = BrittlenessDetector.fit(table, "Linf:0.2", alpha=0.1)
    detector.plot(table, axes)
    assert sum(len(points.get_offsets()) for points in axes.collections) == 40
    assert detector.threshold in {line.get_ydata()[0] for line in axes.lines}
    assert "brittle: 20" in {text.get_text() for text in axes.get_legend().get_texts()}


def test_the_roc_curve_has_the_share_of_pairs_that_are_ranked_right_below_it(axes):
    table = searched()
    detector = BrittlenessDetector.fit(table, "Linf:0.2", alpha=0.1)
    detector.plot_roc(table, axes)
    fpr, tpr = axes.lines[0].get_data()
    rows = table.frame
    brittle, robust = (rows["logit_margin"][which] for which in (rows["upper"] <= 0.2, rows["upper"] > 0.2))
    area = float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2).sum())
    assert area == pytest.approx(np.mean(brittle.to_numpy()[:, None] < robust.to_numpy()))
    (x,), (y,) = axes.lines[1].get_data()
    assert x == pytest.approx((robust <= detector.threshold).mean())
    assert y == pytest.approx((brittle <= detector.threshold).mean())


def test_a_roc_curve_takes_both_kinds(axes):
    detector = BrittlenessDetector.fit(searched(), "Linf:0.2", alpha=0.1)
    with pytest.raises(EvidenceError, match="no decision is robust at Linf:"):
        detector.plot_roc(evidence.table([0.1, 0.15], [1, 2]), axes)


def test_a_run_draws_its_accuracies_and_epsilon(tmp_path, axes):
    finished(tmp_path).plot(axes)
    validation, training = (line.get_ydata().tolist() for line in axes.lines)
    assert validation == pytest.approx([0.2, 0.4, 0.6])
    assert training == pytest.approx([0.1, 0.2, 0.3])
    behind = next(each for each in axes.figure.axes if each is not axes)
    assert behind.dataLim.y1 == pytest.approx(255 * 0.03)


def test_a_run_without_an_epoch_is_told(tmp_path, axes):
    run = finished(tmp_path)
    (run.folder / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match="no epoch is finished"):
        run.plot(axes)


def test_drawing_leaves_matplotlib_as_it_was():
    matplotlib.use("agg")
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    axes = searched().plot()
    assert pyplot.gcf() is axes.figure
    pyplot.close(axes.figure)
    assert dict(matplotlib.rcParams) == before
