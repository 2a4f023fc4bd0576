"""Errors: what every kind can do."""

import copy
import pickle

import pytest

from temper import errors
from temper.benchmark.store import NoResultsError
from temper.data.root import NotThereError
from temper.errors import ArgumentError, MissingExtraError, TemperError


def kinds(base: type[TemperError] = TemperError) -> set[type[TemperError]]:
    return {base}.union(*map(kinds, base.__subclasses__()))


def sent_by_pickle(error: TemperError) -> TemperError:
    return pickle.loads(pickle.dumps(error))  # noqa: S301 (of our own)


SPECIAL = {
    ArgumentError: ArgumentError("eps", 3, "give less"),
    MissingExtraError: MissingExtraError("engine ray", "ray"),
    NotThereError: NotThereError("digits: not here", "fetch it"),
    NoResultsError: NoResultsError("store", "runs", "make some"),
}


@pytest.mark.parametrize("kind", sorted(kinds(), key=lambda kind: kind.__name__))
@pytest.mark.parametrize("sent", [copy.copy, sent_by_pickle])
def test_an_error_travels_to_another_process_as_it_is(kind, sent):
    error = SPECIAL.get(kind) or kind("something cannot be read; name another")
    back = sent(error)
    assert type(back) is kind
    assert str(back) == str(error)
    assert vars(back) == vars(error)


def test_the_family_is_found():
    assert kinds() >= {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, TemperError)
    }
