"""A leaderboard with gaps, a failed run and names that would be markup, and how to read its pages."""

import csv
import io
import itertools
import math
from html.parser import HTMLParser
from math import nan

from temper.benchmark.configuration import BackboneFacts, Configuration, Factors
from temper.benchmark.leaderboard import Leaderboard, LeaderboardRun, Measured, Metric, Ranking, RankingRow
from temper.margins.intervals import Estimate
from temper.report.views import EpochRow

EVIL = "</script><img src=x onerror=alert(1)>\u2028'\"&<!--"
METRICS = (
    Metric("clean", "Clean", "Accuracy on the images as they are."),
    Metric("linf", "Linf 4/255", "Robust accuracy at Linf 4/255."),
    Metric("tau", "τ", "Margin consistency.", percent=False),
)
BACKBONES = {"convnext": ("large", "convolution"), "vit": ("small", "attention"), EVIL: ("small", "hybrid")}
IDENTITY = (
    "run", "backbone", "dataset", "objective", "schedule", "protocol", "seed", "tier", "type", "pretraining",
    "status", "error",
)  # fmt: skip
GAP = ("vit", "pets", "at", "hinge", "full-50", 1)
FAILED = ("convnext", "flowers", "at", "fixed", "full-50", 0)
MISSING = " · ".join(map(str, GAP))


def run(place, cell, **parts):
    tier, kind = BACKBONES[cell[0]]
    clean = 0.2 + (place * 37 % 61) / 100  # distinct and out of order
    linf = clean * (0.2 + (place * 17 % 40) / 100)
    metrics = {
        "clean": Estimate(clean, clean - 0.05, clean + 0.05, 400),
        "linf": Estimate(linf, linf - 0.03, linf + 0.04, 400, 0.0125),
    }
    if place % 5:  # some runs were not measured
        metrics["tau"] = Estimate(0.5 + (place * 13 % 29) / 100, nan, nan, 0)
    full = {
        "about": BackboneFacts(tier, kind, "supervised" if cell[0] == "vit" else "fusion"),
        "measured": Measured(
            metrics, {"Linf": [(i / 255, clean - i * (clean - linf) / 4, 0.0, 1.0) for i in range(5)]}
        ),
        "facts": {"configuration": f"lr 0.1 of {cell[0]}"},
        "history": [EpochRow(e, e / 255, 2.0 / e, 0.3, None, 1e-3) for e in (1, 2, 3)],
    }
    return LeaderboardRun(f"run{place}", Factors(*cell), **{**full, **parts})


def whole_board():
    """The grid of all that may stand in a board, but for one cell that is missing and one that failed."""
    grid = itertools.product(
        BACKBONES, ("pets", "flowers"), ("at",), ("fixed", "hinge"), ("full-50", "linear-50"), (0, 1)
    )
    runs = []
    for place, cell in enumerate(grid):
        if cell == FAILED:
            runs.append(run(place, cell, failure=f"ValueError: {EVIL}", measured=Measured(), history=()))
        elif cell != GAP:
            runs.append(run(place, cell))
    rows = [
        RankingRow(Configuration("convnext", "at", "hinge"), 31, 1, 1, 2, 0.8),
        RankingRow(Configuration("vit", "at", "fixed"), 27, 2, 1, 3, 0.2),
        RankingRow(Configuration(EVIL, "at", "fixed"), 12, 3, 2, 3, 0.001),
    ]
    return Leaderboard(
        f"Board of {EVIL}",
        runs,
        METRICS,
        [Ranking("Borda", "full-50", rows, "Over two data sets.")],
        [MISSING, *(f"gap {i}" for i in range(12))],
        [("Scheduling helps", f"In most cells.\n\nBut see {EVIL}")],
        "1.2.3",
    )


class Page(HTMLParser):
    """Elements and texts; ``scripts`` is what stands in each script element."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.texts, self.scripts, self._inside = [], [], [], ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style":
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).replace("\u00a0", " ").split())


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


def as_row(run):
    """A run as the CSV ought to have it."""
    identity = run.identity()
    row = {name: identity[name] for name in IDENTITY}
    for metric in METRICS:
        numbers = run.measured.metrics[metric.key].to_json() if metric.key in run.measured.metrics else {}
        row[metric.key] = numbers.get("value")
        known = {part: number for part, number in numbers.items() if not math.isnan(number)}
        if not known.get("n"):  # which says that it is not known
            known["n"] = None
        for part in ("low", "high", "n", "unknown"):
            row[f"{metric.key}_{part}"] = known.get(part)
    return row


def assert_same_rows(told, runs):
    assert len(told) == len(runs)
    for row, expected in zip(told, map(as_row, runs), strict=True):
        assert list(row) == list(expected)
        for name, value in expected.items():
            got = row[name]
            assert (float(got) if got and isinstance(value, float | int) else got) == ("" if value is None else value)
