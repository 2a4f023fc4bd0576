"""A network's random numbers from streams of its images: of the right distributions, and nothing else has a say."""

import random

import numpy as np
import pytest
import torch
from torch.nn import functional

from temper.core import randomness
from temper.core.streams import Streams, library_numbers
from temper.errors import ModelError

COMMON = torch.zeros(1, dtype=torch.int64)


def drawn(draw, keys, *arguments):
    with Streams(keys, COMMON):
        return draw(*arguments)


def keys_of(count):
    return randomness.sample_keys(0, torch.arange(count))


def attention(x):
    """Heads beside each other in the batch."""
    q = x.flatten(0, 1)
    return functional.scaled_dot_product_attention(q, q, q, dropout_p=0.5).view(x.shape)


DRAWS = {
    "dropout": lambda x: functional.dropout(x, 0.3, True),
    "dropout2d": lambda x: functional.dropout2d(x, 0.3, True),
    "alpha dropout": lambda x: functional.alpha_dropout(x, 0.3, True),
    "feature alpha dropout": lambda x: functional.feature_alpha_dropout(x, 0.3, True),
    "native dropout": lambda x: torch.native_dropout(x, 0.3, True)[0],
    "in place": lambda x: functional.dropout(x * 1, 0.3, True, True),
    "rand": lambda x: torch.rand(x.shape),
    "rand_like": torch.rand_like,
    "uniform_": lambda x: torch.empty_like(x).uniform_(-1, 3),
    "randn": lambda x: torch.randn(len(x), 4),
    "randn_like": torch.randn_like,
    "normal_": lambda x: torch.empty_like(x).normal_(2, 3),
    "normal": lambda x: torch.normal(x, 0.5),
    "normal of both": lambda x: torch.normal(x, x),
    "randint": lambda x: torch.randint(2, 7, (len(x), 5)),
    "randint_like": lambda x: torch.randint_like(x, 7),
    "random_": lambda x: torch.empty_like(x).random_(2, 7),
    "bernoulli": torch.bernoulli,
    "bernoulli_": lambda x: torch.empty_like(x).bernoulli_(0.3),
    "exponential": lambda x: functional.gumbel_softmax(x),
    "multinomial": lambda x: torch.multinomial(x.flatten(1), 3),
    "with replacement": lambda x: torch.multinomial(x.flatten(1), 3, replacement=True),
    "heads": attention,
    "windows": lambda x: functional.dropout(x.reshape(-1, 3), 0.5, True).reshape(x.shape),
    "time first": lambda x: functional.dropout(x.flatten(2).movedim(2, 0), 0.5, True).movedim(0, 2),
}


@pytest.mark.parametrize("name", DRAWS)
def test_an_images_numbers_are_its_own(name):
    """In a batch of 5, in a batch of 3 in another order, and alone; other images have other numbers."""
    x = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    draw, keys = DRAWS[name], keys_of(5)
    before = torch.random.get_rng_state()
    whole = drawn(draw, keys, x)
    assert torch.equal(torch.random.get_rng_state(), before)
    some = torch.tensor([4, 0, 2])
    assert torch.allclose(drawn(draw, keys[some], x[some]), whole[some], atol=1e-6)
    assert torch.allclose(drawn(draw, keys[1:2], x[1:2]), whole[1:2], atol=1e-6)
    assert not torch.equal(drawn(draw, keys + 1, x), whole)


WIDE = torch.full((200, 500), 0.3)
MOMENTS = {  # mean and variance
    "uniform_": (lambda: torch.empty(200, 500).uniform_(-1, 3), 1, 16 / 12),
    "normal_": (lambda: torch.empty(200, 500).normal_(2, 3), 2, 9),
    "normal": (lambda: torch.normal(WIDE, 2.0), 0.3, 4),
    "numbers": (lambda: torch.normal(1.0, 2.0, (200, 500)), 1, 4),
    "bernoulli": (lambda: torch.bernoulli(WIDE), 0.3, 0.21),
    "randint": (lambda: torch.randint(2, 7, (200, 500)), 4, 2),
    "random_": (lambda: torch.empty(200, 500).random_(7), 3, 4),
    "exponential_": (lambda: torch.empty(200, 500).exponential_(2), 0.5, 0.25),
    "randperm": (lambda: torch.stack([torch.randperm(201) for _ in range(300)]), 100, (201**2 - 1) / 12),
    "native dropout": (lambda: torch.native_dropout(torch.ones(200, 500), 0.3, True)[0], 1, 0.3 / 0.7),
    "multinomial": (lambda: torch.multinomial(torch.tensor([0.0, 1, 3]), 100_000, replacement=True), 1.75, 0.1875),
    "one of three": (lambda: torch.multinomial(torch.tensor([[0.0, 1, 3]]).expand(60_000, 3), 1), 1.75, 0.1875),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_numbers_are_of_their_distribution(name):
    draw, mean, variance = MOMENTS[name]
    values = drawn(draw, keys_of(200)).double()
    assert float(values.mean()) == pytest.approx(mean, abs=5 * (variance / values.numel()) ** 0.5 + 1e-9)
    assert float(values.var()) == pytest.approx(variance, rel=0.03)


def test_types_are_those_asked_for():
    with Streams(keys_of(4), COMMON):
        made = [torch.rand(4, dtype=torch.float64), torch.randint(3, (4,)), torch.randperm(4), torch.randn(4)]
        made.append(torch.rand_like(made[1], dtype=torch.float16))
    assert [each.dtype for each in made] == [torch.float64, torch.int64, torch.int64, torch.float32, torch.float16]


def test_what_belongs_to_no_image_is_drawn_once_for_all():
    size = [drawn(lambda: torch.randint(0, 2**20, (3,)), keys_of(count)).tolist() for count in (4, 5)]
    assert size[0] == size[1]
    assert drawn(lambda: torch.randint(0, 2**20, ()), keys_of(4) + 1) == drawn(
        lambda: torch.randint(0, 2**20, ()), keys_of(4)
    )


def test_axes_that_could_be_taken_for_the_images_are_noted():
    streams = Streams(keys_of(17), COMMON)
    with streams:
        torch.rand(17, 64)
        torch.rand(64, 3)
        torch.rand(12, 17, 5)
    assert streams.drawn == 3
    assert streams.fixed == {64, 3, 12}


def test_operations_without_a_stream_are_named():
    with pytest.raises(ModelError, match="draws random numbers by poisson, which is not among those"):
        drawn(lambda: torch.poisson(torch.ones(4)), keys_of(4))
    with pytest.raises(ModelError, match="by rrelu_with_noise"):
        drawn(lambda: functional.rrelu(torch.ones(4), training=True), keys_of(4))


def test_what_could_draw_and_does_not_is_let_pass():
    q = torch.rand(2, 2, 5, 8)
    drawn(lambda: functional.scaled_dot_product_attention(q, q, q), keys_of(2))
    assert drawn(lambda: torch.native_dropout(q, 0.5, False)[0], keys_of(2)).equal(q)


def test_the_libraries_generators_are_put_back():
    def numbers():
        return random.random(), *np.random.rand(700)  # noqa: NPY002 - what is put back

    before = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    inside = []
    for _ in range(2):
        with library_numbers(7) as taken:
            assert not taken()
            inside.append(numbers())
            assert taken()
    assert inside[0] == inside[1]
    assert repr((random.getstate(), np.random.get_state(legacy=False))) == repr(before)  # noqa: NPY002
