"""Reading a command line: what its options take, and one line on what is wrong with them.

tyro reads the words and writes the help; a call that it refuses ends in an error of Temper's, which names the option,
its value, and what would be right.
"""

import dataclasses
import itertools
import sys
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import tyro
import tyro._errors as tyro_errors
from pydantic import BaseModel, Field, ValidationError

from temper.core.refusals import refusal
from temper.errors import ArgumentError, CallError
from temper.text import did_you_mean, nearest

T = TypeVar("T")

LARGEST = 2**63 - 1  # what a seed, and a number of samples, fits into everywhere

Count = Annotated[int, Field(ge=1, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, le=LARGEST)]
PixelCount = Annotated[int, Field(ge=1, le=16_384)]
Processes = Annotated[int, Field(ge=1, le=1024)]
Helpers = Annotated[int, Field(ge=0, le=1024)]
Precision = Annotated[float, Field(gt=0, lt=0.5)]
BatchSize = Literal["auto"] | Count
Workers = Literal["auto"] | Processes


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a command: its name without dashes, its type, and whether it is given by place alone."""

    name: str
    kind: object
    positional: bool = False

    @property
    def takes_value(self) -> bool:
        """Whether a word follows its name; a flag has none."""
        return self.kind is not bool


def options(command: Callable[..., object]) -> Iterator[Option]:
    """Every option of a command; those of a section of the configuration as SECTION.NAME, those of a group as their
    own."""
    for field, kind in typing.get_type_hints(command, include_extras=True).items():
        if field.startswith("_") or field == "model_config" or get_origin(kind) is typing.ClassVar:
            continue
        marks = kind.__metadata__ if get_origin(kind) is Annotated else ()
        bare = get_args(kind)[0] if marks else kind
        given = next((mark.name for mark in marks if getattr(mark, "name", None) is not None), field)
        if isinstance(bare, type) and dataclasses.is_dataclass(bare):
            yield from options(bare)
        elif isinstance(bare, type) and issubclass(bare, BaseModel):
            for inner in options(bare):
                yield dataclasses.replace(inner, name=f"{given}.{inner.name}" if given else inner.name)
        else:
            positional = any(mark is tyro.conf.Positional for mark in marks)
            yield Option(given.replace("_", "-"), bare if bare is bool else kind, positional)


def parse(command: Callable[..., T], words: Sequence[str], program: str) -> T:
    """Read the words of a call.

    Raises:
        CallError: an option is unknown, missing or without its value.
        ArgumentError: a value cannot work.
    """
    known = [*options(command)]
    _check_words(words, known)
    if {"-h", "--help"}.intersection(words):
        _unfold(command)
    try:
        with tyro_errors.on_parse_error(partial(_refuse, words, known)):
            return tyro.cli(command, args=words, prog=program, config=(tyro.conf.FlagCreatePairsOff,))
    except ValidationError as error:
        raise _of_option(refusal(error)) from None


def _unfold(command: Callable[..., object]) -> None:
    """Make each description one line, which the help wraps; tyro would keep the line breaks of the source."""
    import docstring_parser  # tyro's own reader, which only help takes

    for kind in typing.get_type_hints(command).values():
        if isinstance(kind, type) and (issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)):
            _unfold(kind)
    if isinstance(command, type) and issubclass(command, BaseModel):
        for option in command.model_fields.values():
            option.description = " ".join((option.description or "").split()) or None
    elif dataclasses.is_dataclass(command):
        descriptions = {
            each.arg_name: each.description or "" for each in docstring_parser.parse_from_object(command).params
        }
        for field in dataclasses.fields(command):
            if field.name in descriptions:
                field.metadata = types.MappingProxyType({"help": " ".join(descriptions[field.name].split())})


def _check_words(words: Sequence[str], known: Sequence[Option]) -> None:
    """What tyro would take: an empty text, and a value given to a flag."""
    flags = [option.name for option in known if not option.takes_value]
    by_place = next((option.name.upper() for option in known if option.positional), "call")
    before = ""
    for word in words:
        name, equals, value = word.partition("=") if word.startswith("--") else (before, "=", word)
        name = name.lstrip("-").replace("_", "-")
        if equals and not value.strip():
            raise ArgumentError(name or by_place, value, "is empty; write a value, or leave it out")
        if equals and word.startswith("--") and name in flags:
            raise CallError(f"--{name} takes no value: write it alone, or leave it out")
        before = "" if equals or name in flags else word


def _refuse(words: Sequence[str], known: Sequence[Option], event: tyro_errors.ParseErrorEvent) -> None:
    """Say in one line what tyro would draw a box around."""
    more = f"{event.prog} --help explains all"
    argument = getattr(event, "argument", None)
    name = argument.lowered.name_or_flags[-1].lstrip("-") if argument else ""
    strangers = getattr(event, "unrecognized_tokens", None) or getattr(event, "tokens", None)
    if strangers:
        raise CallError(_unknown(strangers[0], known, more))
    if isinstance(event, tyro_errors.MissingArgs):
        missing = [each.arg.lowered.name_or_flags[-1] for each in event.missing_arguments]
        named = " and ".join(word if word.startswith("-") else word.upper() for word in missing)
        raise CallError(f"{named} {'is' if len(missing) == 1 else 'are'} missing; {more}")
    if isinstance(event, tyro_errors.InvalidChoice):
        raise ArgumentError(name, event.value, _choose(event.value, [c for c in event.choices if c != "None"]))
    if isinstance(event, tyro_errors.InstantiationFailure):
        raise _unusable(name, words, argument)
    if argument is not None:
        raise CallError(f"--{name} needs a value: {wanted(argument.field.type)}")
    raise CallError(f"the call cannot be read; {more}")


def _unusable(name: str, words: Sequence[str], argument: Any) -> ArgumentError:
    """A value that was read and then refused, by its type, its own reader or the configuration's schema."""
    error = sys.exception()
    cause = error if isinstance(error, ValidationError) else getattr(error, "__context__", None)
    if isinstance(cause, ValidationError):
        section = getattr(error, "arg", "")  # tyro's name of a nested section: that of its field, then the section's
        return _of_option(refusal(cause, section=str(section).partition(".")[2]))
    if isinstance(cause, ArgumentError):
        return ArgumentError(name, cause.value, cause.fix)
    return ArgumentError(name, _given(words, name), f"write {wanted(argument.field.type)}")


def _of_option(error: ArgumentError) -> ArgumentError:
    return ArgumentError(error.argument.replace("_", "-"), error.value, error.fix)


def _unknown(word: str, known: Sequence[Option], more: str) -> str:
    if not word.startswith("-"):
        return f"{word!r} is one word too many; {more}"
    name = word.partition("=")[0].lstrip("-").replace("_", "-")
    names = [option.name for option in known if not option.positional]
    near = [each for each in names if each.startswith(f"{name}.")][:3] or nearest(name, names, 2)
    hint = did_you_mean([f"--{each}" for each in near], more)
    return f"there is no option {word.partition('=')[0]}; {hint}"


def _choose(value: str, choices: Sequence[str]) -> str:
    return f"{did_you_mean(nearest(value, choices))} choose one of {', '.join(choices)}".lstrip()


def _given(words: Sequence[str], name: str) -> str:
    """The value that a call gives an option, as it was written; of several words all."""
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option.lstrip("-").replace("_", "-") == name:
            following = itertools.takewhile(lambda each: not each.startswith("--"), words[place + 1 :])
            return value if equals else " ".join(following)
    return " ".join(words)


_WORDS: dict[object, str] = {int: "a whole number", float: "a number", bool: "True or False", Path: "a path"}


def wanted(kind: object) -> str:
    """What an option takes, in words: ``a whole number of at least 1``."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = [_bound(each) for mark in getattr(kind, "__metadata__", ()) for each in getattr(mark, "metadata", ())]
        return " ".join([wanted(parts[0]), " and ".join(filter(None, bounds))]).rstrip()
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(wanted(part) for part in parts if part is not type(None))
    if origin is tuple:
        several = "" if parts[-1] is Ellipsis else f"{len(parts)} times "
        return several + wanted(parts[0])
    if origin is dict:
        return "KEY VALUE pairs"
    return _WORDS.get(kind, "a text")


def _bound(mark: object) -> str:
    words = {"ge": "of at least {}", "gt": "above {}", "lt": "below {}", "le": "of at most {}"}
    for name, phrase in words.items():
        limit = getattr(mark, name, None)
        if limit is not None and limit != LARGEST:
            return phrase.format(limit)
    return ""
