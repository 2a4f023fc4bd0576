"""What a search is given, and what it gives back."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
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

    def towards(self, targets: NDArray[np.int64]) -> "Work":
        """With these of the rivals of each sample, in this order: int64 [N, T], places in ``rivals``; the last ones may
        be -1 where there are not so many."""
        order = torch.as_tensor(targets[:, : self.rivals.shape[1]], device=self.rivals.device)
        return replace(self, rivals=self.rivals.gather(1, order))


@dataclass(frozen=True)
class Note:
    """What the runs of an attack noted on a sample, for signs of masked gradients.

    Attributes:
        leads: how far each run that counts came in a ball, as a logit difference: above 0 flips. To its target, if it
            has one.
        rise: of the loss in the runs' first steps, over what their gradients promised; 0 where they promised nothing,
            1 where none of that is noted.
        targets: the sample's rivals in the order of their linearised distances, as places in ``Work.rivals``, where
            that is what was found out.
    """

    leads: tuple[float, ...] = ()
    rise: float = 1.0
    targets: tuple[int, ...] = ()


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
