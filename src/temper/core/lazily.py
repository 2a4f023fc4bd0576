"""What is imported when it is first used: tables name it, so that reading them is quick."""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # see temper/__init__.py
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def loaded(place: str) -> Any:
    """What a ``module:name`` of Temper's own names."""
    module, name = place.split(":")
    return getattr(import_module(module), name)


def names_of(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose names stand in other modules.

    Args:
        package: its dotted name.
        homes: each name's module, from the package on.
    """

    def get(name: str) -> Any:
        if name in homes:
            return loaded(f"{package}.{homes[name]}:{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
