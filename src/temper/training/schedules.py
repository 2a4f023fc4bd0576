"""Epsilon schedules: which share of the target epsilon training asks for, and when (arXiv:2509.23325, section 5)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from temper.errors import ArgumentError

PATIENCE = 5  # epochs without progress after which validation accuracy counts as converged (section 6, "auto")
TOLERANCE = 0.02  # what counts as progress, in accuracy; read as absolute, which the paper leaves open

#: Every schedule, with its own options and their defaults.
SCHEDULES: dict[str, dict[str, float | None]] = {
    "hinge": {"start": 0.25, "end": 0.75},
    "fixed": {},
    "linear": {"end": 0.75},
    "margin": {"end": 0.25},
    "abrupt": {"start": 0.25},
    "uniform": {},
    "auto": {"patience": PATIENCE, "tolerance": TOLERANCE},
    "custom": {"function": None},
}


@dataclass(frozen=True)
class EpsilonSchedule:
    """The share of eps_g that is in force at a moment of training.

    Make one with :meth:`hinge`, :meth:`fixed`, :meth:`linear`, :meth:`margin`, :meth:`abrupt`, :meth:`uniform`,
    :meth:`auto` or :meth:`custom`; ask it with :meth:`fraction`.

    Attributes:
        name: as in a configuration.
        rule: (epoch, epochs, validation accuracies) to the share.
        individual: whether each sample has an epsilon of its own around that in force; see
            :mod:`temper.training.individual`.
    """

    name: str
    rule: Callable[[float, int, Sequence[float]], float]
    individual: bool = False

    def fraction(self, epoch: float, epochs: int, validation: Sequence[float] = ()) -> float:
        """The share of eps_g in force, in [0, 1].

        Args:
            epoch: counts from 1, as in the paper's text; a fraction lies inside an epoch, so 2.5 is the middle of
                the third epoch and 3 its end.
            epochs: length of the training.
            validation: validation accuracy after each finished epoch; only :meth:`auto` reads it.

        Raises:
            ArgumentError: the epoch lies outside the training, or a custom rule left [0, 1].
        """
        if not 0 < epoch <= epochs:
            raise ArgumentError("epoch", epoch, f"must be above 0 and at most epochs = {epochs}")
        share = self.rule(epoch, epochs, validation)
        if not 0 <= share <= 1:
            raise ArgumentError(f"{self.name} schedule at epoch {epoch:g}", share, "must return a share in [0, 1]")
        return share

    @classmethod
    def hinge(cls, start: float = 0.25, end: float = 0.75) -> "EpsilonSchedule":
        """Epsilon-Scheduling (section 5): 0 before T1, then linear, 1 from T2 on.

        Args:
            start: T1; end: T2. Both at most 1: fractions of the training, rounded down to whole epochs, so that
                (0.25, 0.75) over 50 epochs is the paper's (12, 37). Above 1: epochs.

        Raises:
            ArgumentError: start or end is negative, start later than end, or one is a fraction and the other in epochs.
        """
        _check_hinges(start, end)

        def rule(epoch: float, epochs: int, validation: Sequence[float]) -> float:
            return ramp(epoch, *_in_epochs(start, end, epochs))

        return cls("hinge", rule)

    @classmethod
    def fixed(cls) -> "EpsilonSchedule":
        """The whole eps_g from the first step on (T1 = T2 = 0)."""
        return cls("fixed", lambda epoch, epochs, validation: 1.0)

    @classmethod
    def linear(cls, end: float = 0.75) -> "EpsilonSchedule":
        """Linear warm-up from the first step on (T1 = 0); ``end`` as in :meth:`hinge`."""
        return cls("linear", cls.hinge(0, end).rule)

    @classmethod
    def margin(cls, end: float = 0.25) -> "EpsilonSchedule":
        """As :meth:`linear`, and each sample has an epsilon of its own, which follows its margin."""
        return cls("margin", cls.linear(end).rule, individual=True)

    @classmethod
    def abrupt(cls, start: float = 0.25) -> "EpsilonSchedule":
        """From 0 to the whole eps_g at once (T1 = T2); ``start`` as in :meth:`hinge`."""
        return cls("abrupt", cls.hinge(start, start).rule)

    @classmethod
    def uniform(cls, seed: int = 0) -> "EpsilonSchedule":
        """One draw from [0, 1) per epoch, the same for the same seed and epoch (Table 8)."""
        from temper.core import randomness  # and with it torch, which no other schedule needs

        def rule(epoch: float, epochs: int, validation: Sequence[float]) -> float:
            return randomness.number(seed, "epsilon schedule", math.ceil(epoch)) / 2**63

        return cls("uniform", rule)

    @classmethod
    def auto(cls, patience: int = PATIENCE, tolerance: float = TOLERANCE) -> "EpsilonSchedule":
        """0 until validation accuracy has converged, or half of the training is over; then linear to its end (Table 4).

        T1 is the first epoch after which the best accuracy has not risen by more than ``tolerance`` (absolute) for
        ``patience`` epochs. The paper gives 5 and 2 % and does not say whether it is absolute,
        nor what holds where that comes late or never: T1 is at most ``epochs // 2``, so that the second half is
        attacked in training of any length, and its last epoch with the whole eps_g.

        Raises:
            ArgumentError: patience below 1 or tolerance negative.
        """
        if patience < 1:
            raise ArgumentError("schedule.patience", patience, "must be at least 1 epoch")
        if tolerance < 0:
            raise ArgumentError("schedule.tolerance", tolerance, "must be at least 0")

        def rule(epoch: float, epochs: int, validation: Sequence[float]) -> float:
            start, latest = converged(validation, patience, tolerance), epochs // 2
            return ramp(epoch, latest if start is None else min(start, latest), epochs)

        return cls("auto", rule)

    @classmethod
    def custom(cls, function: Callable[[float, int], float]) -> "EpsilonSchedule":
        """Your own: any callable from (epoch, epochs), with the meaning of :meth:`fraction`, to a share in [0, 1]."""
        return cls("custom", lambda epoch, epochs, validation: float(function(epoch, epochs)))


def ramp(epoch: float, start: float, end: float) -> float:
    """0 before ``start``, 1 from ``end`` on, linear between them; no division where they coincide (section 5)."""
    if epoch >= end:
        return 1.0
    return 0.0 if epoch <= start else (epoch - start) / (end - start)


def converged(validation: Sequence[float], patience: int, tolerance: float) -> int | None:
    """The epoch (from 1) at which an accuracy history has converged, or None as long as it has not."""
    best, since = -math.inf, 0
    for epoch, accuracy in enumerate(validation, start=1):
        if accuracy > best + tolerance:
            best, since = accuracy, 0
        else:
            since += 1
        if since >= patience:
            return epoch
    return None


def _check_hinges(start: float, end: float) -> None:
    for name, hinge in (("start", start), ("end", end)):
        if not hinge >= 0:  # which NaN is not
            raise ArgumentError(f"schedule.{name}", hinge, "must be at least 0")
    if start > end:
        raise ArgumentError("schedule.start", start, f"must not be later than schedule.end = {end}")
    if 0 < start < 1 < end:
        raise ArgumentError("schedule.start", start, f"is a fraction but end = {end} is in epochs; use one unit")


def _in_epochs(start: float, end: float, epochs: int) -> tuple[float, float]:
    """Hinges in epochs: above 1 they are already; fractions are rounded down to whole epochs."""
    if end > 1:
        return start, end
    return whole_epochs(start, epochs), whole_epochs(end, epochs)


def ramp_lost(start: float, end: float, epochs: int) -> str | None:
    """Why hinges that leave room for a ramp have none in so many epochs, and the least that has one; None where they do
    as they say. Shares are rounded down to whole epochs."""
    first, last = _in_epochs(start, end, epochs)
    if start == end or first < last:
        return None
    least = in_thousandths((first + 1) / epochs)
    return (
        f"schedule ({start:g}, {end:g}): whole epochs of these shares are {first:g} and {last:g} of {epochs}, so eps "
        f"rises at once and not by and by; give an end of {least:g} or more, or train longer"
    )


def in_thousandths(share: float) -> float:
    """A share rounded up, as whole epochs are rounded down: 0.083 of 12 would be none."""
    return math.ceil(share * 1000 - 1e-6) / 1000


def whole_epochs(share: float, epochs: int) -> int:
    """A share of so many epochs, rounded down."""
    # The small number keeps 0.29 * 100 = 28.999... from losing an epoch to floating point.
    return math.floor(share * epochs + 1e-9)
