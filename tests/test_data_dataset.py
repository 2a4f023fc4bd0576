"""The data set itself, its subsets and its divisions."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.data import ArrayImages, Dataset, load, split
from temper.errors import ArgumentError, DataError


def small(samples=12, classes=3):
    array = np.random.default_rng(0).integers(0, 256, (samples, 4, 5, 3), dtype=np.uint8)
    names = tuple(f"class{c}" for c in range(classes))
    return Dataset(ArrayImages(array), np.arange(samples) % classes, names, np.arange(samples), "small")


def test_subset_keeps_ids_and_pairs_images_with_labels():
    data = small()
    part = data.subset([7, 2]).subset([1, 0])
    assert part.ids.tolist() == [2, 7]
    assert part.labels.tolist() == [2, 1]
    assert np.array_equal(part.images[1], data.images[7])
    assert part.class_names == data.class_names


@pytest.mark.parametrize("indices", [[0, 12], [-1]])
def test_subset_refuses_positions_outside(indices):
    with pytest.raises(ArgumentError, match="positions 0 to 11"):
        small().subset(indices)


def test_repeated_sample_is_refused():
    with pytest.raises(DataError, match="ids repeat"):
        small().subset([3, 3])


def test_label_out_of_range_names_sample_and_value():
    data = small()
    labels = data.labels.copy()
    labels[5] = 3
    with pytest.raises(DataError, match=r"images\[5\] has label 3, but labels go from 0 to 2"):
        Dataset(data.images, labels, data.class_names, data.ids, "small")


def test_wrong_length_names_the_column():
    data = small()
    with pytest.raises(DataError, match="labels are int64 of shape"):
        Dataset(data.images, data.labels[:-1], data.class_names, data.ids, "small")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 4, 4, 3)), "dtype float64: give uint8"),
        (np.zeros((2, 3, 4, 4), np.uint8), "channels come last"),
        (np.zeros((2, 4, 4, 4), np.uint8), "1 or 3 channels"),
        (np.zeros((4, 4, 3), np.uint8), "1 or 3 channels"),
    ],
)
def test_arrays_that_are_no_images(array, message):
    with pytest.raises(DataError, match=message):
        ArrayImages(array)


def test_fingerprint_sees_every_part():
    data = small()
    same = small()
    assert data.fingerprint() == same.fingerprint()
    pixels = data.images.array.copy()
    pixels[3, 1, 1, 1] ^= 1
    others = [
        Dataset(ArrayImages(pixels), data.labels, data.class_names, data.ids, "small"),
        Dataset(data.images, np.roll(data.labels, 1), data.class_names, data.ids, "small"),
        Dataset(data.images, data.labels, data.class_names, data.ids + 1, "small"),
        data.subset(range(11)),
        Dataset(ArrayImages(data.images.array.reshape(12, 5, 4, 3)), data.labels, ("a", "b", "c"), data.ids, "s"),
    ]
    assert len({other.fingerprint() for other in [data, *others]}) == len(others) + 1


def test_describe_is_json():
    described = json.loads(json.dumps(small().describe()))
    assert described["n"] == 12
    assert described["classes"] == ["class0", "class1", "class2"]
    assert len(described["fingerprint"]) == 64


def test_limit_is_stratified_deterministic_and_sorted():
    digits = load("digits")
    few = digits.limit(100, seed=3)
    assert np.array_equal(few.ids, digits.limit(100, seed=3).ids)
    assert not np.array_equal(few.ids, digits.limit(100, seed=4).ids)
    assert np.all(np.diff(few.ids) > 0)
    assert np.bincount(few.labels, minlength=10).min() >= 9
    assert digits.limit(10**6, seed=0) is digits
    with pytest.raises(ArgumentError, match="n = 0"):
        digits.limit(0, seed=0)


def test_keep_classes_relabels_in_the_order_given():
    data = small()
    named = data.keep_classes(["class2", "class0"])
    assert named.class_names == ("class2", "class0")
    assert named.ids.tolist() == [0, 2, 3, 5, 6, 8, 9, 11]
    assert named.labels.tolist() == [1, 0, 1, 0, 1, 0, 1, 0]
    assert data.keep_classes(2).class_names == ("class0", "class1")
    twins = Dataset(data.images, data.labels, ("crane", "crane", "owl"), data.ids, "birds")
    assert twins.keep_classes(2).labels.tolist() == [0, 1] * 4
    with pytest.raises(ArgumentError, match="'crane'"):
        twins.keep_classes(["crane"])


@pytest.mark.parametrize("classes", [0, 4, ["class1", "klass"], [], ["class1", "class1"]])
def test_keep_classes_refuses(classes):
    with pytest.raises(ArgumentError, match="classes"):
        small().keep_classes(classes)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(3, 40), min_size=2, max_size=6),
    shares=st.lists(st.floats(0.2, 1), min_size=1, max_size=3),
    seed=st.integers(0, 2**32),
)
def test_parts_are_disjoint_proportional_and_deterministic(counts, shares, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    sizes = [max(len(counts), int(len(labels) * share / len(shares))) for share in shares]
    if sum(sizes) > len(labels):
        return
    parts = split(labels, sizes=sizes, seed=seed)
    assert [len(part) for part in parts] == sizes
    everything = np.concatenate(parts)
    assert len(np.unique(everything)) == len(everything)
    for part, size, again in zip(parts, sizes, split(labels, sizes=sizes, seed=seed), strict=True):
        assert np.array_equal(part, again)
        exact = np.array(counts) * size / len(labels)
        deviation = np.abs(np.bincount(labels[part], minlength=len(counts)) - exact)
        assert (deviation <= 1 + len(counts) * np.array(counts) / len(labels)).all()


def test_fraction_holds_out_a_share_of_every_class():
    digits = load("digits")
    rest, held_out = split(digits, fraction=0.2, seed=0)
    assert len(held_out) == 359
    assert np.array_equal(np.sort(np.concatenate([rest, held_out])), np.arange(1797))
    share = np.bincount(digits.labels[held_out]) / np.bincount(digits.labels)
    assert np.all(np.abs(share - 0.2) < 0.006)


def test_every_sample_is_as_likely_to_be_held_out():
    labels = np.array([0] * 6 + [1] * 4)
    held = np.zeros(10)
    for seed in range(2000):
        held[split(labels, sizes=[5, 5], seed=seed)[1]] += 1
    assert np.all(np.abs(held / 2000 - 0.5) < 0.06)


def test_class_with_too_few_samples_is_named():
    data = small(samples=7)  # two of class1 and class2
    with pytest.raises(DataError, match=r"class class1 has 2 sample\(s\), 3 parts need one each"):
        split(data, sizes=[3, 1, 1], seed=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fraction": 0.0}, "share between 0 and 1"),
        ({"fraction": 1.5}, "share between 0 and 1"),
        ({"sizes": [10, 10]}, "at most 12"),
        ({"sizes": [10, 2]}, "2 samples cannot hold all 3 classes"),
        ({"fraction": 0.1}, "1 samples cannot hold all 3 classes"),
        ({}, "exactly one"),
        ({"fraction": 0.5, "sizes": [6, 6]}, "exactly one"),
    ],
)
def test_split_refuses(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        split(small(), seed=0, **arguments)
    with pytest.raises(ArgumentError, match="seed = -1"):
        split(small(), fraction=0.5, seed=-1)


def test_named_as_refuses_names_that_do_not_tell():
    with pytest.raises(DataError, match="has class 'class2', which is none of class0, class1: rename or remove it"):
        small().named_as(["class0", "class1"])
    with pytest.raises(DataError, match="two classes share a name"):
        small().named_as(["class0", "class1", "class2", "class2"])
