"""What a measurement does grows with the samples, and not faster: counted, never timed."""

import numpy as np
import pytest
import torch
from torch import nn

from temper.attacks.work import Note
from temper.evaluation import journal, measurement, searching
from temper.evaluation.journal import Journal
from temper.evaluation.measurement import measure
from temper.evaluation.samples import from_arrays
from temper.evaluation.search import Findings, Outcome
from temper.threat import parse_threats


class Net(nn.Module):
    """A plane per class."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 16, generator=torch.Generator().manual_seed(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) - 0.5) @ self.weight.T


def samples(count: int):
    x = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(count))
    with torch.no_grad():
        return from_arrays(x, Net()(x).argmax(1))


@pytest.fixture
def looked(monkeypatch):
    """How many samples were looked at for what to search next, and for signs; the bar moves at every outcome."""
    counts = {"next_radius": 0, "signs": 0, "calls": 0, "calls of signs": 0}
    whole, shown = Findings.next_radius, Findings.signs

    def next_radius(self, *given):
        counts["next_radius"] += len(self.ids)
        counts["calls"] += 1
        return whole(self, *given)

    def signs(self):
        counts["signs"] += len(self.ids)
        counts["calls of signs"] += 1
        return shown(self)

    monkeypatch.setattr(Findings, "next_radius", next_radius)
    monkeypatch.setattr(Findings, "signs", signs)
    monkeypatch.setattr(searching, "SHARD", 8)
    monkeypatch.setattr(searching, "BAR_SECONDS", 0.0)
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["apgd", "fast", "margin"])
@pytest.mark.parametrize("shared", [False, True])
def test_samples_are_looked_at_as_often_however_many_there_are(looked, tmp_path, suite, shared):
    per_sample = []
    for count in (16, 128):
        looked.update(dict.fromkeys(looked, 0))
        measure(
            Net(), samples(count), parse_threats("Linf:0.3"), suite, 0,
            batch_size=16, journal=tmp_path / str(count) if shared else None,
        )  # fmt: skip
        per_sample.append((looked["next_radius"] / count, looked["signs"] / count))
    (few, few_signs), (many, many_signs) = per_sample
    assert many < 1.5 * few
    assert many_signs <= 1.5 * few_signs


@pytest.mark.slow
def test_a_sample_that_others_searched_is_looked_at_alone(looked, tmp_path):
    threats, given = parse_threats("Linf:0.3"), samples(64)
    measure(Net(), given, threats, "apgd", 0, batch_size=16, journal=tmp_path)
    looked.update(dict.fromkeys(looked, 0))
    measure(Net(), given, threats, "apgd", 0, batch_size=16, journal=tmp_path)
    assert looked["next_radius"] == 64  # once, when what is known has been read


def test_signs_are_computed_once_for_each_look(looked):
    count = 5
    found = Findings(measurement.get_suite("fast").in_norm("Linf"), np.arange(count), np.ones((count, 2)))
    found.next_radius([0.1])
    assert looked["calls of signs"] == looked["calls"] == 1


def test_some_samples_are_known_as_among_all():
    random = np.random.default_rng(0)
    suite = measurement.get_suite("fast").in_norm("Linf")
    found = Findings(suite, np.arange(0, 60, 2), random.uniform(0.5, 2, (30, 9)))
    for stage in suite.stages:
        for sample in random.choice(found.ids, 20, replace=False).tolist():
            leads = tuple(random.uniform(-1, 0, stage.attack.runs).tolist())
            far = float(random.choice([np.inf, 0.05]))
            found.add(Outcome(sample, stage.name, 0.1, far, 3, 2, Note(leads, float(random.uniform(0.5, 1.5)))))
    places = np.sort(random.choice(30, 11, replace=False))
    some = found.at(places)
    np.testing.assert_array_equal(some.next_radius([0.02, 0.1]), found.next_radius([0.02, 0.1])[places])
    np.testing.assert_array_equal(some.survived(), found.survived()[places])
    for stage, mask in found.wanted().items():
        np.testing.assert_array_equal(some.wanted()[stage], mask[places])
    before = found.upper.copy()
    some.add(Outcome(int(some.ids[0]), "apgd-ce", 0.1, 1e-9, 1, 1))
    np.testing.assert_array_equal(found.upper, before)


def test_a_journal_is_read_line_by_line(tmp_path, monkeypatch):
    writer = Journal(tmp_path, {})
    for sample in range(100):
        writer.append("Linf", Outcome(sample, "apgd-ce", 0.1, np.inf, 1, 1))
    read = []
    outcome = journal._outcome
    monkeypatch.setattr(journal, "_outcome", lambda line: read.append(line) or outcome(line))
    unread = Journal(tmp_path, {}).unread()
    assert [next(unread)[1].sample for _ in range(3)] == [0, 1, 2]
    assert len(read) == 3
    assert [each.sample for _, each in unread] == list(range(3, 100))
