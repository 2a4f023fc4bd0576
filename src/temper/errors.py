"""Every error and warning that Temper raises on purpose.

All errors derive from :class:`TemperError`, so ``except temper.TemperError`` catches what a caller can mend.
A message is one line that names the argument or file, its value, and what would be right. Credentials in an address
are never part of it.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping

from temper.distribution import NAME
from temper.text import masked, shown


class TemperError(Exception):
    """Base of all errors that Temper raises on purpose."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(masked(each) if isinstance(each, str) else each for each in arguments))

    def __reduce__(self) -> tuple[Callable[..., Exception], tuple[object, ...], dict[str, object]]:
        """How it travels to another process, whatever its constructor takes."""
        return _remade, (type(self), *self.args), self.__dict__


def _remade(kind: type[TemperError], *args: object) -> TemperError:
    error = kind.__new__(kind, *args)
    BaseException.__init__(error, *args)  # an OSError leaves its arguments to the constructor
    return error


class CallError(TemperError, ValueError):
    """A command line cannot be read; the message names the word that is wrong or missing."""


class ArgumentError(TemperError, ValueError):
    """An argument or configuration key has a value that cannot work."""

    def __init__(self, argument: str, value: object, fix: str) -> None:
        super().__init__(f"{argument} = {shown(value)}: {fix}")
        self.argument = argument
        self.value = value
        self.fix = fix


@contextlib.contextmanager
def naming(names: Mapping[str, str]) -> Iterator[None]:
    """Inside, an argument that cannot work is named as the caller knows it: key and value of ``names``."""
    try:
        yield
    except ArgumentError as error:
        if error.argument not in names:
            raise
        raise ArgumentError(names[error.argument], error.value, error.fix) from error.__cause__


class DataError(TemperError, ValueError):
    """A data set cannot be read or used as it is; the message names the file or sample."""


class ModelError(TemperError, ValueError):
    """A model or its weights cannot be loaded or do not fit; the message names the model and the file."""


class EvidenceError(TemperError, ValueError):
    """Evidence does not belong together, or does not cover what a figure was asked for."""


class DamagedError(EvidenceError):
    """A file of results was cut short or overwritten since it was written; the message names it."""


class RunError(TemperError, RuntimeError):
    """A run folder cannot be started, resumed or read as asked."""


class UnreachableError(TemperError, OSError):
    """Where results are kept cannot be reached or used; the message names the place, without a secret."""


class NonFiniteLossError(TemperError, ArithmeticError):
    """Training met a loss, gradients or weights that are not finite; the message names epoch, step and the last good
    checkpoint."""


class MissingExtraError(TemperError, ImportError):
    """A feature needs an optional package that is not installed; the message says what to install."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional package: pip install '{NAME}[{extra}]'")


class TemperWarning(UserWarning):
    """A number is to be read with care; the message says why and what to do."""
