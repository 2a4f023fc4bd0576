"""The evidence table: laws of merging, refusals, and its file."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evidence import untouched
from temper.errors import EvidenceError
from temper.margins.table import COLUMNS, EvidenceTable, Provenance

IDENTITY = {"model": {"weights": "w", "preprocessing": "p"}, "data": "d"}
SUITES = {"apgd": {"name": "apgd", "attacks": [{"name": "apgd-ce", "steps": 10}]}, "pgd": {"name": "pgd"}}


def provenance(suites=("apgd",), radii=(0.1,), seeds=(0,)) -> Provenance:
    return Provenance(
        {suite: SUITES[suite] for suite in suites},
        {suite: {"Linf": sorted(radii)} for suite in suites},
        sorted(seeds),
        ["0.1.0"],
        ["fp32 search"],
    )


def frame(samples=(0, 1, 2), **columns) -> pd.DataFrame:
    ids = np.array(samples)
    blank = untouched(
        samples=ids, labels=ids % 3, predictions=ids % 2, logit_margins=ids / 7, norm="Linf", suite="apgd"
    )
    return blank.assign(**columns)


def table(samples=(0, 1, 2), identity=IDENTITY, **columns) -> EvidenceTable:
    return EvidenceTable(frame(samples, **columns), identity, provenance())


@st.composite
def tables(draw) -> EvidenceTable:
    """Evidence on some of five samples, in two norms by two suites; small numbers, so that ties are frequent."""
    keys = st.tuples(st.sampled_from(["Linf", "L2"]), st.sampled_from(["apgd", "pgd"]), st.integers(0, 4))
    rows = [
        {
            "sample": sample,
            "label": sample % 3,
            "prediction": sample % 2,
            "logit_margin": draw(st.sampled_from([0.5, 0.5000001])),
            "top_logit_1": 1.0,
            "top_logit_2": 0.5,
            "top_logit_3": np.nan,
            "seed": draw(st.integers(0, 1)),
            "norm": norm,
            "suite": suite,
            "upper": draw(st.sampled_from([0.1, 0.25, np.inf])),
            "survived": draw(st.sampled_from([0.0, 0.05, 0.3])),
            "attack": draw(st.sampled_from(["", "apgd-ce", "pgd-ce"])),
            "forward": draw(st.integers(0, 9)),
            "backward": draw(st.integers(0, 9)),
        }
        for norm, suite, sample in sorted(draw(st.sets(keys, min_size=1, max_size=8)))
    ]
    floats, seeds = st.sets(st.sampled_from([1e-5, 0.03, 2.0, 10.0]), min_size=1), st.sets(st.integers(0, 3))
    suites = draw(st.sets(st.sampled_from(sorted(SUITES)), min_size=1))
    return EvidenceTable(pd.DataFrame(rows), IDENTITY, provenance(suites, draw(floats), draw(seeds)))


def assert_same(one: EvidenceTable, other: EvidenceTable) -> None:
    pd.testing.assert_frame_equal(one.frame, other.frame)
    assert one.provenance == other.provenance
    assert one.identity == other.identity


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(tables(), tables(), tables())
def test_merging_is_commutative_associative_and_idempotent(a, b, c):
    assert_same(a.merge(b), b.merge(a))
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert_same(a.merge(a), a)
    assert_same(a.merge(b).merge(b), a.merge(b))


@settings(max_examples=10, deadline=None)
@given(tables(), tables())
def test_merging_never_loses_evidence(a, b):
    merged = a.merge(b).frame.set_index(["norm", "suite", "sample"])
    for part in (a, b):
        own = part.frame.set_index(["norm", "suite", "sample"])
        both = merged.loc[own.index]
        assert (both["upper"] <= own["upper"]).all()
        assert (both["survived"] >= own["survived"]).all()
    assert set(merged.index) == _keys(a) | _keys(b)


def _keys(one: EvidenceTable) -> set:
    return set(one.frame[["norm", "suite", "sample"]].itertuples(index=False, name=None))


def test_the_attack_that_set_upper_stays_with_it():
    a = table(upper=[0.1, 0.3, np.inf], attack=["one", "one", ""])
    b = table(upper=[0.2, 0.2, 0.4], attack=["two", "two", "two"])
    merged = a.merge(b).frame
    assert merged["attack"].tolist() == ["one", "two", "two"]
    assert merged["upper"].tolist() == [0.1, 0.2, 0.4]


def test_radii_stay_in_the_order_of_numbers():
    a, b = provenance(radii=(2.0, 10.0)), provenance(radii=(1e-5, 3.0))
    assert a.merge(b).radii == {"apgd": {"Linf": [1e-5, 2.0, 3.0, 10.0]}}


@pytest.mark.parametrize(
    ("other", "part"),
    [
        ({"model": {"weights": "x", "preprocessing": "p"}, "data": "d"}, "model"),
        ({"model": {"weights": "w", "preprocessing": "x"}, "data": "d"}, "model"),
        ({"model": {"weights": "w", "preprocessing": "p"}, "data": "x"}, "data"),
        ({**IDENTITY, "norm": "other"}, "norm"),
    ],
)
def test_evidence_on_another_model_or_data_is_refused_from_both_sides(other, part):
    for a, b in ((table(), table(identity=other)), (table(identity=other), table())):
        with pytest.raises(EvidenceError, match=f"on another {part}"):
            a.merge(b)


def test_one_suite_name_for_two_budgets_is_refused():
    weak = Provenance({"apgd": {"attacks": [{"name": "apgd-ce", "steps": 1}]}}, {}, [0], ["0.1.0"], [])
    with pytest.raises(EvidenceError, match="suite apgd had other attacks or budgets"):
        table().merge(EvidenceTable(frame(), IDENTITY, weak))


def test_disagreement_about_a_prediction_is_refused():
    with pytest.raises(EvidenceError, match="sample 1; is the model random"):
        table().merge(table(prediction=[0, 5, 0]))
    two_norms = pd.concat([frame(), frame(norm="L2", prediction=[0, 1, 2])])
    with pytest.raises(EvidenceError, match="sample 2; is the model random"):
        EvidenceTable(two_norms, IDENTITY, provenance())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (frame().drop(columns="upper"), "lacks the column upper"),
        (frame(samples=()), "at least one sample"),
        (frame(samples=(0, 0)), "two rows of evidence .*'sample': 0"),
        (frame(upper=np.nan), "at least 0"),
        (frame(survived=-1.0), "at least 0"),
        (frame(label=["a", "b", "c"]), "wrong kind"),
    ],
)
def test_what_is_no_evidence_is_refused(rows, message):
    with pytest.raises(EvidenceError, match=message):
        EvidenceTable(rows, IDENTITY, provenance())


# --- the file -------------------------------------------------------------------------------------


def test_the_file_round_trips_with_its_metadata(tmp_path):
    path = tmp_path / "new" / "margins.parquet"
    before = table(upper=[0.1, np.inf, 0.3], survived=[0.0, 0.5, 0.2], attack=["apgd-ce", "", "apgd-ce"])
    before.save(path)
    after = EvidenceTable.load(path)
    assert_same(before, after)
    assert_same(before.merge(after), before)
    assert [file.name for file in path.parent.iterdir()] == ["margins.parquet"]


def test_the_file_has_the_columns_that_others_read(tmp_path):
    path = tmp_path / "margins.parquet"
    table().save(str(path))
    assert EvidenceTable.load(str(path)).to_pandas().equals(table().to_pandas())
    content = pq.read_table(path)
    assert content.column_names == [
        "sample", "label", "prediction", "logit_margin", "top_logit_1", "top_logit_2", "top_logit_3", "norm", "suite",
        "upper", "survived", "attack", "seed", "forward", "backward",
    ]  # fmt: skip
    for name, kind in COLUMNS.items():
        stored = content.schema.field(name).type
        if kind == "str":
            assert pa.types.is_string(stored) or pa.types.is_large_string(stored)
        else:
            assert str(stored) == {"int64": "int64", "float64": "double"}[kind]
    notes = json.loads(content.schema.metadata[b"temper"])
    assert notes["identity"] == IDENTITY
    assert notes["provenance"] == {
        "suites": {"apgd": SUITES["apgd"]},
        "radii": {"apgd": {"Linf": [0.1]}},
        "seeds": [0],
        "versions": ["0.1.0"],
        "precision": ["fp32 search"],
    }


def test_the_frame_that_a_caller_gets_is_a_copy():
    one = table()
    copy = one.to_pandas()
    copy["upper"] = 0.0
    assert np.isinf(one.frame["upper"]).all()
    assert len(one) == 3
    assert one.norms == ["Linf"]


def test_a_damaged_or_foreign_file_is_named(tmp_path):
    path = tmp_path / "margins.parquet"

    def refusal() -> str:
        with pytest.raises(EvidenceError) as error:
            EvidenceTable.load(path)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "is not there" in refusal()
    path.write_bytes(b"no parquet at all")
    assert "cannot be read as Parquet" in refusal()
    table().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as Parquet" in refusal()
    frame().to_parquet(path)
    assert "is not an evidence table" in refusal()
    foreign = pa.table({"x": [1]})
    for notes in (b"{}", b"not json", b"[]", b'{"identity": {}, "provenance": {"other": 1}}'):
        pq.write_table(foreign.replace_schema_metadata({b"temper": notes}), path)
        assert "is not an evidence table" in refusal()
    notes = {"identity": {}, "provenance": {"suites": {}, "radii": {}, "seeds": [], "versions": [], "precision": []}}
    pq.write_table(foreign.replace_schema_metadata({b"temper": json.dumps(notes)}), path)
    assert "lacks the column sample" in refusal()
