"""Signs that gradients are masked, or that little is missing for a flip.

They are read sample by sample from what attacks noted while they searched in vain. What a sample's runs noted depends
on nothing outside the sample, and so do its signs. The bounds were set on networks of the first group of
benchmarks/evaluation/groups.py, the faint one of ``blind`` also on five pairs of the second and on fine-tuned
backbones.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from temper.attacks.suites import Stage
from temper.attacks.work import Note
from temper.threat import Norm

# A loss that is nearly straight in the ball rises by about what its gradient promises. Off by more than this is a faint
# sign and never a clear one: a merely curved network, such as a large one that was fine-tuned briefly, shows it, too.
RISE = (0.72, 1.35)
# How far a number may be off before it is a faint sign, and before it is a clear one.
APART = (0.04, 0.15)  # between searches for one class from two starts, as a share of the way to a flip
BLIND = (0.3, 1.06)  # how far a short search without gradients comes, as a share of how far those with came


class Share(NamedTuple):
    """How near a flip a search in vain came: a share of the way to it in logits, and of its distance where a flip
    outside the ball is known."""

    of_way: float
    of_distance: float


# A boundary that is curved stops climbs that are near it; at its edge many long ones find it.
NEAR, EDGE = Share(0.8, 0.9), Share(0.96, 0.97)

SIGNS = {
    "flat": "the loss has no gradient",
    "slope": "a step along the gradient does not change the loss as it promises",
    "starts": "searches for the same class from two starts end far apart",
    "blind": "a short search without gradients comes about as near to a flip as those with",
}


@dataclass(frozen=True)
class Notes:
    """What one attack noted on samples that withstood it.

    Attributes:
        leads: float64 [N, runs], how far each run came as a logit difference, to its target if it has one: above 0
            flips; nan where it has not run.
        gaps: float64 [N, runs], by how much the logit of the clean image's class leads that of each run's target, or
            of the likeliest rival; nan where it is not known.
        rise: float64 [N], of the loss in the first steps over what their gradients promised; 0 where they promised
            nothing, 1 before it ran.
    """

    leads: NDArray[np.float64]
    gaps: NDArray[np.float64]
    rise: NDArray[np.float64]

    @classmethod
    def none(cls, count: int, runs: int) -> "Notes":
        """Those of an attack that has not run yet."""
        return cls(np.full((count, runs), np.nan), np.full((count, runs), np.nan), np.ones(count))

    def at(self, places: NDArray[np.int64]) -> "Notes":
        """Of the samples at these places: a copy."""
        return Notes(self.leads[places], self.gaps[places], self.rise[places])

    def take(self, place: int, note: Note, gaps: NDArray[np.float64]) -> None:
        """Note what came of one sample, given the gaps to the runs' targets on its clean image."""
        self.leads[place], self.gaps[place], self.rise[place] = np.nan, np.nan, note.rise
        self.leads[place, : len(note.leads)] = note.leads
        self.gaps[place, : len(gaps)] = np.maximum(gaps, 1e-12)[: self.gaps.shape[1]]


def way(notes: Iterable[Notes]) -> NDArray[np.float64]:
    """Largest share of the way from the clean image to a flip that any run came: float64 [N], nan where none is
    known."""
    return np.asarray(np.fmax.reduce([np.fmax.reduce(1 + each.leads / each.gaps, 1) for each in notes]))


def signs(
    stages: Sequence[Stage],
    failed: Mapping[str, NDArray[np.float64]],
    notes: Mapping[str, Notes],
    norm: Norm,
) -> dict[str, NDArray[np.bool_]]:
    """Which samples show which of :data:`SIGNS`: bool [N] each. One clear sign counts, and so do two faint ones.

    Args:
        stages: the attacks; those that climb towards a class from the image and from elsewhere are compared, and so are
            those with and without gradients.
        failed: per stage, float64 [N], the radius that its notes are of; only notes of one radius are compared.
        notes: per stage.
        norm: in L1 starts are not compared, since runs as short as these end apart on every network.
    """
    climbing = [stage for stage in stages if stage.attack.asks == "gradient" and not stage.attack.nearest]
    still = [stage.name for stage in climbing if stage.attack.targeted and not stage.random_start]
    moved = [stage.name for stage in climbing if stage.attack.targeted and stage.random_start]
    blind = [stage.name for stage in stages if stage.attack.asks == "logits"]
    if not (still and moved and blind):
        return {sign: np.zeros(len(next(iter(failed.values()))), dtype=np.bool_) for sign in SIGNS}
    a, b, c = still[0], moved[0], blind[0]
    rise = notes[b].rise
    runs = min(notes[a].leads.shape[1], notes[b].leads.shape[1])
    apart = np.fmax.reduce(np.abs(notes[a].leads - notes[b].leads)[:, :runs] / notes[b].gaps[:, :runs], 1)
    apart = np.where((failed[a] == failed[b]) & (norm != "L1"), apart, 0)
    climbed = np.fmax.reduce([np.fmax.reduce(notes[stage.name].leads, 1) for stage in climbing])
    least = notes[c].gaps[:, 0]
    reached, blindly = climbed + least, notes[c].leads[:, 0] + least
    blindly = np.where(failed[b] == failed[c], blindly, 0)

    def beyond(level: int) -> dict[str, NDArray[np.bool_]]:
        return {"flat": rise == 0, "starts": apart > APART[level], "blind": blindly > BLIND[level] * reached}

    low, high = RISE
    faint, clear = beyond(0) | {"slope": (rise != 0) & ((rise < low) | (rise > high))}, beyond(1)
    masked = np.logical_or.reduce(list(clear.values())) | (np.sum(list(faint.values()), 0) >= 2)
    return {sign: faint[sign] & masked for sign in SIGNS}
