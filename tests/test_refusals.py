"""Whatever a file of settings holds is refused in words of our own."""

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from bench_grid import TINY
from temper.benchmark.spec import Spec, read_spec
from temper.core.refusals import models_in
from temper.errors import ArgumentError
from temper.training.config import FinetuneConfig, read_config

VALUES = [None, "x", "", 1.5, "1.5", -1, 10**400, [], ["x"], [0.5] * 4, {}, {"a": 1}, True, float("nan")]
FOREIGN = ("Input ", "Field ", "should ", "valid ", "\n")


def keys(schema: type[BaseModel], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of a file, with those above it."""
    for name, field in schema.model_fields.items():
        yield (*before, name)
        for section in models_in(field.annotation):
            yield from keys(section, (*before, name))


def with_value(content: object, key: tuple[str, ...], value: object) -> dict[str, object]:
    """Settings in which one key, however deep, has another value."""
    known = dict(content) if isinstance(content, dict) else {}
    name, *deeper = key
    return known | {name: with_value(known.get(name), tuple(deeper), value) if deeper else value}


@pytest.mark.parametrize(("schema", "read", "base"), [(FinetuneConfig, read_config, {}), (Spec, read_spec, TINY)])
def test_no_value_of_any_key_is_refused_in_another_library_s_words(schema, read, base):
    refused = []
    for key in keys(schema):
        for value in VALUES:
            try:
                read(with_value(base, key, value))
            except ArgumentError as error:
                refused.append(str(error))
    assert len(refused) > 100
    assert not [said for said in refused if any(word in said for word in FOREIGN)]
