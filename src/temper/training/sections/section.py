"""What every part of the configuration is."""

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict

from temper.core.refusals import StrictNumbers


class Section(StrictNumbers, BaseModel):
    """A part of the configuration; unknown keys are errors, and nothing changes after it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    def filled(self, own: Mapping[str, object]) -> Self:
        """With these values where nothing is given."""
        return self.model_copy(update={name: value for name, value in own.items() if getattr(self, name) is None})


def unused(value: object) -> bool:
    """Whether an option is left at None or "none": one that came later is then not written, and a configuration of
    before, its files and its hash stay what they were. For ``Field(None, exclude_if=unused)``."""
    return value is None or value == "none"
