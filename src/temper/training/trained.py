"""What a finished training took, and which moment of it was kept."""

from dataclasses import asdict, dataclass

from pydantic import TypeAdapter

from temper.training.selection import RobustEpoch


@dataclass(frozen=True)
class Passes:
    """Forward and backward passes."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        """Of both kinds."""
        return self.forward + self.backward


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        epochs: that it took; fewer than asked for where it was stopped early.
        kept: the epoch whose weights are the model's.
        robust: what was measured of the robustness after epochs.
        updates: of the weights.
        images: that updates were made of, each as often as it was.
        passes: of all updates.
        validation: passes of measuring robust accuracy.
    """

    epochs: int
    kept: int
    robust: tuple[RobustEpoch, ...]
    updates: int
    images: int
    passes: Passes
    validation: Passes

    @property
    def per_image(self) -> float:
        """Forward and backward passes that an image took in an update, on average over the training."""
        return self.passes.total / self.images

    def to_json(self) -> dict[str, object]:
        """As the record of a run has it."""
        return asdict(self) | {"robust": [each._asdict() for each in self.robust], "passes_per_image": self.per_image}

    @classmethod
    def from_json(cls, noted: object) -> "Trained":
        """What :meth:`to_json` wrote."""
        return TypeAdapter(cls).validate_python(noted)
