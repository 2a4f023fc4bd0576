"""Which samples make up the batches of an epoch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.training.drawing import Source, even, repeats

LABELS = np.array([0] * 60 + [1] * 30 + [2] * 10)


@pytest.mark.parametrize("epoch", [1, 2, 7])
def test_without_options_an_epoch_is_a_permutation_in_equal_parts(epoch):
    """As runs of all earlier versions had it."""
    batches = Source(LABELS, 100).batches(7, 3, epoch)
    expected = np.array_split(np.random.default_rng((3, epoch)).permutation(100), 7)
    assert all(np.array_equal(one, other) for one, other in zip(batches, expected, strict=True))


def test_balanced_classes_are_drawn_equally_often_and_so_are_their_samples():
    batches = Source(LABELS, 100, balanced=True).batches(7, 3, 1)
    order = np.concatenate(batches)
    assert sorted(np.bincount(LABELS[order])) == [33, 33, 34]
    for label in range(3):
        counts = np.bincount(order, minlength=100)[label == LABELS]
        assert counts.max() - counts.min() <= 1


def test_another_epoch_or_seed_draws_anew():
    source = Source(LABELS, 100, balanced=True)
    orders = [np.concatenate(source.batches(7, seed, epoch)).tolist() for seed, epoch in [(3, 1), (3, 2), (4, 1)]]
    assert len({tuple(order) for order in orders}) == 3
    assert orders[0] == np.concatenate(source.batches(7, 3, 1)).tolist()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 90), st.integers(0, 9), st.integers(0, 9))
def test_even_shares(labels, count, seed, epoch):
    labels = np.array(labels)
    drawn = even(labels, count, seed, epoch)
    assert len(drawn) == count
    counts = np.bincount(labels[drawn], minlength=4)[np.unique(labels)]
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("balanced", [False, True])
def test_a_share_of_every_batch_is_extra(balanced):
    source = Source(np.concatenate([LABELS, np.arange(50) % 3]), 100, 0.7, balanced)
    batches = source.batches(10, 0, 4)
    assert [len(batch) for batch in batches] == [10] * 10
    assert [(batch >= 100).sum() for batch in batches] == [7] * 10
    own = np.concatenate(batches)
    extra = np.bincount(own[own >= 100] - 100, minlength=50)
    assert set(extra) <= ({0, 1, 2, 3} if balanced else {1, 2})  # 70 of 50
    if not balanced:
        assert len(set(own[own < 100])) == 30  # none twice
    assert not np.array_equal(np.sort(own), np.sort(np.concatenate(source.batches(10, 0, 5))))


def test_a_share_of_none_draws_what_is_drawn_without():
    labels = np.concatenate([LABELS, LABELS])
    with_none, without = Source(labels, 100, 0.0).batches(7, 0, 1), Source(LABELS, 100).batches(7, 0, 1)
    assert all(np.array_equal(one, other) for one, other in zip(with_none, without, strict=True))


def test_class_weights_make_classes_count_the_same():
    weights = Source(LABELS, 100).class_weights(4)
    np.testing.assert_allclose(weights, [100 / 180, 100 / 90, 100 / 30, 0], rtol=1e-6)
    counted = np.bincount(LABELS, weights=weights[LABELS])
    np.testing.assert_allclose(counted, 100 / 3, rtol=1e-6)


def test_class_weights_go_by_what_is_drawn():
    """Of which extra images are a share."""
    source = Source(np.concatenate([LABELS, np.full(1000, 2)]), 100, 0.5)
    drawn = np.array([0.30, 0.15, 0.05 + 0.5])
    np.testing.assert_allclose(source.class_weights(3), 1 / (3 * drawn), rtol=1e-6)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 5))
def test_repeats_count_what_came_before(order, parts):
    batches = np.array_split(np.array(order), parts)
    expected = [order[:place].count(each) for place, each in enumerate(order)]
    counted = repeats(batches)
    assert np.concatenate(counted).tolist() == expected
    assert [len(part) for part in counted] == [len(part) for part in batches]
