"""How the model is measured, while it is trained and when it is finished."""

from typing import Literal, Self

from pydantic import Field

from temper.core.calls import Count
from temper.training.sections.section import Section


class ValidationConfig(Section):
    """How robust the model is on the validation data while it is trained, and what follows from that."""

    robust_every: Count | None = None
    """Measure robust accuracy (PGD, 10 steps, at eps) after every so many epochs and after the last; by default after
    each where keep, patience or the inner attack needs it, else never."""
    keep: Literal["last", "best"] = "last"
    """Keep the weights of the last epoch (the paper's), or those of the best robust accuracy, the first of equals."""
    patience: Count | None = None
    """Stop after so many measurements without a better one, counted while the whole eps is in force."""

    def completed(self, *, needed: bool) -> Self:
        """With robust accuracy measured after each epoch, where something follows from it, or it is ``needed``,
        and nothing else is asked."""
        follows = needed or self.keep == "best" or self.patience is not None
        return self.filled({"robust_every": 1 if follows else None})


class EvaluationConfig(Section):
    """How the finished model is measured on the test data."""

    suite: str = "apgd"
    """Attack suite."""
    points: int = Field(8, ge=1, le=1000)
    """Radii of the accuracy curve, in equal steps up to eps."""
    batch_size: Count | None = None
    """Samples attacked at once; by default that goes by their size."""
