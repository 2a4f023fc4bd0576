"""The journal: outcomes survive any end of a process, and processes share the work without locks."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from temper.attacks.suites import SUITES
from temper.attacks.work import Note
from temper.core.claims import STALE_SECONDS
from temper.errors import EvidenceError
from temper.evaluation.journal import Journal
from temper.evaluation.search import Findings, Outcome

HEADER = {"suite": "apgd", "seed": 0}
OUTCOMES = [
    ("Linf", Outcome(3, "apgd-ce", 0.1, float("inf"), 11, 10)),
    ("L2", Outcome(4, "apgd-ce", 0.1 + 0.2, 0.1 + 0.7, 5, 4)),
    ("L1", Outcome(4, "apgd-ce", float("inf"), 1e-300, 5, 4, Note((-0.1235, float("-inf"), 1e-9), 0.8123))),
]


def test_what_is_written_is_read_by_another_bit_for_bit_and_once(tmp_path):
    one, other = Journal(tmp_path, HEADER), Journal(tmp_path, HEADER)
    for norm, outcome in OUTCOMES[:2]:
        one.append(norm, outcome)
    assert list(one.unread()) == []  # its own are not news
    assert list(other.unread()) == OUTCOMES[:2]
    assert list(other.unread()) == []
    one.append(*OUTCOMES[2])
    assert list(other.unread()) == OUTCOMES[2:]
    assert list(Journal(tmp_path, HEADER).unread()) == OUTCOMES


def test_a_line_that_was_cut_off_is_read_when_it_is_whole(tmp_path):
    Journal(tmp_path, HEADER).append(*OUTCOMES[0])
    (path,) = tmp_path.glob("*.csv")
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    reader = Journal(tmp_path, HEADER)
    assert list(reader.unread()) == []
    path.write_bytes(whole)
    assert list(reader.unread()) == OUTCOMES[:1]


@pytest.mark.parametrize("header", [{"suite": "apgd", "seed": 1}, {"suite": "pgd", "seed": 0}, {}])
def test_the_journal_of_something_else_is_refused(tmp_path, header):
    Journal(tmp_path, HEADER).append(*OUTCOMES[0])
    with pytest.raises(EvidenceError, match="journal of another model, data set, suite or seed; remove it"):
        list(Journal(tmp_path, header).unread())


def test_a_shard_belongs_to_one_process_until_it_gives_it_back(tmp_path):
    one, other = Journal(tmp_path, HEADER), Journal(tmp_path, HEADER)
    assert one.claim("Linf-0")
    assert not other.claim("Linf-0")
    assert other.claim("Linf-512")
    one.release("Linf-0")
    assert other.claim("Linf-0")
    other.close()
    assert one.claim("Linf-0")
    assert one.claim("Linf-512")


@pytest.mark.slow
def test_the_claim_of_a_dead_process_is_taken_over(tmp_path):
    code = (
        "import sys; from pathlib import Path; from temper.evaluation.journal import Journal;"
        "import os; assert Journal(Path(sys.argv[1]), {}).claim('Linf-0'); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == 9
    journal = Journal(tmp_path, HEADER)
    assert journal.claim("Linf-0")
    assert json.loads((tmp_path / "claims" / "Linf-0.json").read_text())["pid"] == os.getpid()


def test_a_claim_from_elsewhere_holds_until_nothing_was_heard_for_long(tmp_path):
    journal = Journal(tmp_path, HEADER)
    claim = tmp_path / "claims" / "Linf-0.json"
    claim.parent.mkdir()
    claim.write_text(json.dumps({"owner": "another", "machine": "elsewhere", "pid": 1}))
    assert not journal.claim("Linf-0")
    long_ago = claim.stat().st_mtime - STALE_SECONDS - 1
    os.utime(claim, (long_ago, long_ago))
    assert journal.claim("Linf-0")


def test_findings_do_not_depend_on_the_order_of_outcomes():
    outcomes = [
        Outcome(1, "apgd-ce", 0.4, 0.3, 4, 4),
        Outcome(1, "apgd-ce", 0.2, float("inf"), 11, 10),
        Outcome(1, "apgd-ce", 0.25, 0.25, 3, 3),
        Outcome(9, "apgd-ce", 0.4, 0.1, 1, 1),  # of no sample here
    ]
    for order in (outcomes, outcomes[::-1], outcomes[1:] + outcomes[:1]):
        found = Findings(SUITES["apgd"], np.array([0, 1]))
        for outcome in order:
            found.add(outcome)
        assert found.upper.tolist() == [float("inf"), 0.25]
        assert found.survived().tolist() == [0, 0.2]
        assert found.forward.tolist() == [0, 18]


@pytest.mark.parametrize("damage", [b"\x00" * 20, b"\xff\xfe,3", b"Linf,3,apgd", b"L9,3,apgd-ce,0.1,inf,11,10", b""])
def test_a_damaged_line_is_passed_over_and_told(tmp_path, caplog, damage):
    journal = Journal(tmp_path, HEADER)
    for norm, outcome in OUTCOMES:
        journal.append(norm, outcome)
    (path,) = tmp_path.glob("*.csv")
    lines = path.read_bytes().split(b"\n")
    lines[2] = damage
    path.write_bytes(b"\n".join(lines))
    assert list(Journal(tmp_path, HEADER).unread()) == [OUTCOMES[0], OUTCOMES[2]]
    assert "1 damaged lines are passed over" in caplog.text


def test_outcomes_under_a_damaged_header_are_not_believed(tmp_path, caplog):
    Journal(tmp_path, HEADER).append(*OUTCOMES[0])
    (path,) = tmp_path.glob("*.csv")
    path.write_bytes(b"\x00" * 30 + path.read_bytes()[30:])
    reader = Journal(tmp_path, HEADER)
    assert list(reader.unread()) == []
    assert list(reader.unread()) == []
    assert "its first line is damaged" in caplog.text
