"""Per-sample random streams: known outputs, distributions, and that nothing else has a say in them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from temper.core import randomness

# The first outputs of SplitMix64 with the seed 1234567, as published on Rosetta Code.
PUBLISHED = (
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
)
examples = settings(max_examples=40, deadline=None)


def keys_of(count: int, seed: int = 0, *purpose: str | int) -> torch.Tensor:
    return randomness.sample_keys(seed, torch.arange(count), *purpose)


def test_uniform_numbers_are_the_published_generators():
    ours = randomness.uniform(torch.tensor([1234567]), (5,))[0]
    assert ours.tolist() == [(bits >> 40) / 2**24 for bits in PUBLISHED]


@examples
@given(seed=st.integers(0, 2**64), ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4))
def test_every_seed_and_id_has_keys(seed, ids):
    keys = randomness.sample_keys(seed, torch.tensor(ids), "attack", 2**63)
    assert keys.dtype == torch.int64
    assert keys.shape == (len(ids),)


def test_seeds_ids_and_purposes_name_different_streams():
    keys = [keys_of(1000, seed, *purpose) for seed in (0, 1, 2, 10**6) for purpose in ((), ("a",), ("b",), ("a", 1))]
    assert len(set(torch.cat(keys).tolist())) == 16_000


def test_order_of_the_purpose_counts():
    assert not torch.equal(keys_of(3, 0, "a", "b"), keys_of(3, 0, "b", "a"))


def test_streams_are_pinned():
    """Evidence and training runs are repeated years later: these numbers may never change."""
    assert keys_of(2).tolist() == [-2152535657050944081, -7995527694508729151]
    assert randomness.sample_keys(7, torch.tensor([3]), "apgd", "Linf").tolist() == [6944020579594158090]
    assert randomness.number(1, "step", 2) == 7840481328385564188


@pytest.mark.parametrize("draw", [randomness.uniform, randomness.normal])
def test_a_row_depends_on_its_key_alone(draw):
    keys = keys_of(6, 3)
    whole = draw(keys, (3, 4))
    assert whole.shape == (6, 3, 4)
    assert whole.dtype == torch.float32
    order = torch.tensor([4, 0, 5])
    assert torch.equal(draw(keys[order], (3, 4)), whole[order])
    assert torch.equal(draw(keys, (2, 4)), whole[:, :2])


@pytest.mark.parametrize(("draw", "law"), [(randomness.uniform, stats.uniform()), (randomness.normal, stats.norm())])
def test_distributions(draw, law):
    numbers = draw(keys_of(100, 5), (200,)).double()
    assert torch.isfinite(numbers).all()
    assert stats.kstest(numbers.flatten().numpy(), law.cdf).pvalue > 1e-3
    # Neighbouring positions and neighbouring samples are independent.
    for a, b in ((numbers[:, 1:], numbers[:, :-1]), (numbers[1:], numbers[:-1])):
        assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 0.03


def test_uniform_numbers_stay_below_one():
    numbers = randomness.uniform(keys_of(100), (10_000,))
    assert numbers.min() >= 0
    assert numbers.max() < 1


@pytest.mark.slow
@examples
@given(seed=st.integers(0, 2**63), purpose=st.lists(st.one_of(st.integers(0, 2**40), st.text(max_size=5))))
def test_number_seeds_any_generator(seed, purpose):
    number = randomness.number(seed, *purpose)
    assert 0 <= number < 2**63
    assert number == randomness.number(seed, *purpose)
    torch.Generator().manual_seed(number)


def test_global_generators_are_untouched():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    randomness.normal(keys_of(3), (5,))
    randomness.number(0, "a")
    assert torch.equal(torch.get_rng_state(), state)
