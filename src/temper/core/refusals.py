"""What pydantic finds wrong, as one line that names the key, its value and the fix."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError, ValidationInfo, field_validator

from temper.errors import ArgumentError
from temper.text import did_you_mean, nearest

# Parts of a location that name no key: which member of a union pydantic tried.
_TRIED = re.compile(r"constrained-\w+|bool|int|float|str|path|Search|(literal|function-\w+|lax-or-strict)\[.*")

_FIXES = {
    "greater_than_equal": "give at least {ge}",
    "greater_than": "give more than {gt}",
    "less_than_equal": "give at most {le}",
    "less_than": "give less than {lt}",
    "finite_number": "give a finite number",
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type", "mapping_type"), "give key: value pairs"),
    **dict.fromkeys(("list_type", "tuple_type"), "give a list"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "give a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "give a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "give true or false"),
    **dict.fromkeys(("path_type", "path_parsing"), "give a path"),
    "string_type": "give a text",
    "literal_error": "choose {expected}",
    "too_long": "give at most {max_length} of them",
    "too_short": "give at least {min_length} of them",
    "missing": "is missing; write it",
}


def refusal(error: ValidationError, schema: type[BaseModel] | None = None, section: str = "") -> ArgumentError:
    """The first thing that pydantic found wrong.

    A validator of a whole section says which key is to blame by raising ArgumentError with the key's name in there.

    Args:
        error: what pydantic raised.
        schema: the model that was filled; the nearest of its keys is suggested where one is unknown.
        section: key of the section that was filled, as ``data``; empty for the whole.
    """
    problems = error.errors(include_url=False)
    # Of the members of a union, a fixed word such as "auto" is seldom what was meant.
    same = [each for each in problems if each["loc"][:1] == problems[0]["loc"][:1]]
    first = next((each for each in same if each["type"] != "literal_error"), problems[0])
    place = [part for part in first["loc"] if not _TRIED.fullmatch(str(part))]
    key, value, cause = _joined(section, *place), first["input"], first.get("ctx", {}).get("error")
    if first["type"] == "extra_forbidden" and schema is not None:
        return ArgumentError(key, value, f"unknown key; {_nearest_key(place, schema)}")
    whole = isinstance(value, BaseModel | Mapping)
    if isinstance(cause, ArgumentError):
        return ArgumentError(_joined(key, cause.argument) if whole else key, cause.value, cause.fix)
    plain = first["msg"].removeprefix("Value error, ")
    message = _FIXES[first["type"]].format(**first.get("ctx", {})) if first["type"] in _FIXES else plain
    if first["type"] == "literal_error":
        message += _nearest_word(value, first["ctx"]["expected"])
    return ArgumentError(key or "config", "..." if whole else value, message)


class StrictNumbers(BaseModel):
    """A model whose numbers are not given as yes or no: pydantic reads ``epochs: yes`` as 1."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[info.field_name or ""].annotation
        if _holds_truth(value) and not _admits_truth(annotation):
            raise ValueError("yes or no (true or false) is no value of it; write what it is, numbers in digits")
        return value


def _holds_truth(value: object) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_holds_truth, value)))


def _admits_truth(annotation: object) -> bool:
    return annotation in (bool, Any) or any(map(_admits_truth, get_args(annotation)))


def _joined(*parts: object) -> str:
    return ".".join(str(part) for part in parts if part != "")


def _nearest_key(place: list[int | str], schema: type[BaseModel]) -> str:
    *parents, unknown = place
    for key in parents:
        schema = next(models_in(schema.model_fields[key].annotation)) if key in schema.model_fields else schema
    known = list(schema.model_fields)
    near = [_joined(*parents, name) for name in nearest(str(unknown), known, cutoff=0.5)]
    return did_you_mean(near, f"known: {', '.join(known)}")


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    """The models that a value of this kind may be, or hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def _nearest_word(value: object, expected: str) -> str:
    hint = did_you_mean(nearest(str(value), re.findall(r"'([^']*)'", expected)))
    return hint and f"; {hint}"
