"""What a search is given, and what it gives back."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Work:
    """Samples to attack.

    Attributes:
        x: images float [N, C, H, W] in [0, 1]; y: int64 [N], the classes to get away from, which the model gives them.
        ids: int64 [N], the samples' ids; with the seed they name the random streams.
        rivals: int64 [N, R], the likeliest other classes on the clean image, likeliest first.
    """

    x: Tensor
    y: Tensor
    ids: Tensor
    rivals: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, places: Tensor) -> "Work":
        """The samples at these places."""
        return Work(self.x[places], self.y[places], self.ids[places], self.rivals[places])


@dataclass(frozen=True)
class Note:
    """What the runs of an attack noted on a sample, for signs of masked gradients.

    Attributes:
        leads: how far each run that counts came in a ball, as a logit difference: above 0 flips. To its target, if it
            has one.
        rise: of the loss in the runs' first steps, over what their gradients promised; 0 where they promised nothing,
            1 where none of that is noted.
    """

    leads: tuple[float, ...] = ()
    rise: float = 1.0


NOTHING = Note()


@dataclass(frozen=True)
class Flip:
    """A verified flip.

    Attributes:
        distance: to the image that it was made from.
        image: float [C, H, W].
        becomes: the class that the plain model gives it alone.
    """

    distance: float
    image: Tensor
    becomes: int


@dataclass(frozen=True)
class Finished:
    """A sample that is done with one attack.

    Attributes:
        place: which of the samples.
        flip: the nearest verified one, or None.
        forward, backward: passes spent on it.
        led: whether any question's gradient had a finite entry, or none was asked for: otherwise nothing was searched.
        note: what the runs noted.
    """

    place: int
    flip: Flip | None
    forward: int
    backward: int
    led: bool = True
    note: Note = NOTHING

    @property
    def distance(self) -> float:
        """Of the flip; inf where there is none."""
        return self.flip.distance if self.flip else float("inf")

    @property
    def nearest(self) -> Tensor | None:
        """The flip's image; None where there is none."""
        return self.flip.image if self.flip else None
