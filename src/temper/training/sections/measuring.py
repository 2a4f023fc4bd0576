"""How the model is measured."""

from pydantic import Field

from temper.core.calls import Count
from temper.training.sections.section import Section


class EvaluationConfig(Section):
    """How the finished model is measured on the test data."""

    suite: str = "apgd"
    """Attack suite."""
    points: int = Field(8, ge=1, le=1000)
    """Radii of the accuracy curve, in equal steps up to eps."""
    batch_size: Count | None = None
    """Samples attacked at once; by default that goes by their size."""
