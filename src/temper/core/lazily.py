"""What is imported when it is first used: tables name it, so that reading them is quick."""

from importlib import import_module
from typing import Any


def loaded(place: str) -> Any:
    """What a ``module:name`` of Temper's own names."""
    module, name = place.split(":")
    return getattr(import_module(module), name)
