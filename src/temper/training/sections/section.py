"""What every part of the configuration is."""

from pydantic import BaseModel, ConfigDict

from temper.core.refusals import StrictNumbers


class Section(StrictNumbers, BaseModel):
    """A part of the configuration; unknown keys are errors, and nothing changes after it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
