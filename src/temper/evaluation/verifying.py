"""Other tools' adversarial images as evidence: each is checked as Temper's own are, and none is taken on trust."""

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from temper import distribution
from temper.attacks.ball import exact_distance, into_ball, rows
from temper.attacks.crafting import crafting
from temper.attacks.names import SUITE_NAMES
from temper.attacks.verification import Lent
from temper.core.progress import progress_bar
from temper.errors import ArgumentError, TemperWarning
from temper.evaluation.clean import Clean, clean_batch, clean_pass
from temper.evaluation.expected import in_expectation
from temper.evaluation.measurement import identity, network_for
from temper.evaluation.samples import ROUNDING, Samples, from_arrays, on_device
from temper.margins.table import EvidenceTable, Provenance
from temper.threat import Norm, check_norm, format_eps

log = logging.getLogger(__name__)

_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,62}")

AdversarialImages = NDArray[np.generic] | Tensor
"""Float in [0, 1] or uint8, channels first or last: [N, C, H, W] or [N, H, W, C]."""


def check_source(name: str) -> str:
    """Return ``name`` if a tool can be called so; raise ArgumentError otherwise, as of Temper's own suites."""
    if _SOURCE.fullmatch(name) and name not in SUITE_NAMES:
        return name
    fix = "name the tool, in up to 63 letters, digits, spaces and . _ + -"
    raise ArgumentError("source", name, f"{fix}; {', '.join(SUITE_NAMES)} are Temper's own suites")


@dataclass(frozen=True)
class Given:
    """Images that a tool made.

    Attributes:
        images: N of them.
        sample: int64 [N], ids of the samples that they were made from; a sample may have several, or none.
        norm: to measure them in.
        source: the tool's name.

    Raises:
        ArgumentError: images of no usable kind, another number of ids, or a name that does not do.
    """

    images: AdversarialImages
    sample: NDArray[np.int64]
    norm: Norm
    source: str

    def __post_init__(self) -> None:
        check_source(self.source)
        if not isinstance(self.images, np.ndarray | Tensor) or self.images.ndim != 4 or not _is_pixels(self.images):
            what = f"{type(self.images).__name__} {_kind(self.images)}".strip()
            raise ArgumentError("adversarial", what, "give an array or tensor [N, C, H, W], float in [0, 1] or uint8")
        if len(self.images) != len(self.sample):
            fix = f"give one image for each of {len(self.sample):,} samples, in their order"
            raise ArgumentError("adversarial", tuple(self.images.shape), fix)

    def __len__(self) -> int:
        return len(self.sample)

    def take(self, chosen: NDArray[np.bool_]) -> "Given":
        """Those that are chosen: bool [N]. All are the same images, where they lie."""
        if chosen.all():
            return self
        images = self.images[torch.as_tensor(chosen)] if isinstance(self.images, Tensor) else self.images[chosen]
        return Given(images, self.sample[chosen], self.norm, self.source)

    def read(self, places: NDArray[np.intp], like: Tensor) -> Tensor:
        """The images at these places as the model takes them, as ``like`` is: float [N, C, H, W], in its layout."""
        if isinstance(self.images, Tensor):
            part = self.images[torch.as_tensor(places)].detach()
        else:  # torch knows neither other byte orders nor long doubles
            some = self.images[places]
            part = torch.from_numpy(some if some.dtype == np.uint8 else some.astype(np.float32))
        if tuple(part.shape[1:]) != tuple(like.shape[1:]):
            part = part.permute(0, 3, 1, 2)
        part = part.to(like.device)
        return torch.empty_like(like).copy_(part if part.is_floating_point() else part.float() / 255)


@dataclass(frozen=True)
class Checked:
    """What became of images that were given.

    Attributes:
        given: the images.
        table: what they are evidence of, with a row for every sample.
        distance: float64 [N], of each image that flips its sample's decision; inf for the others.
        outside: float64 [N], how far beyond [0, 1] an image reaches that is no evidence for it; nan where it is not
            finite, 0 where it may be evidence.
    """

    given: Given
    table: EvidenceTable
    distance: NDArray[np.float64]
    outside: NDArray[np.float64]

    def in_words(self) -> str:
        """How many images there were, how many flip, and at what distances."""
        flips, norm = np.sort(self.distance[np.isfinite(self.distance)]), self.given.norm
        refused = int((self.outside != 0).sum())
        text = f"{self.given.source}: {len(self.given):,} images, {len(flips):,} flip a decision"
        if len(flips):
            least, middle, most = (format_eps(norm, float(d)) for d in (flips[0], np.median(flips), flips[-1]))
            text += f" ({norm} {least} to {most} away, median {middle})"
        text += f", {len(self.given) - len(flips) - refused:,} do not"
        return text + (f", {refused:,} are no evidence" if refused else "")


@torch.inference_mode(False)
def verify(
    model: nn.Module | str | Path,
    images: NDArray[np.uint8] | Tensor,
    adversarial: AdversarialImages,
    labels: NDArray[np.int64] | Tensor | Sequence[int],
    norm: str = "Linf",
    source: str = "other",
    *,
    eot: int | None = None,
) -> EvidenceTable:
    """Evidence from adversarial images that another tool made, to be merged with that of :func:`temper.evaluate`.

    An image is evidence if it lies in the pixel box and the model, asked about it at full precision and then alone,
    gives it another class than the clean image. Its exact distance is then its sample's ``upper``, less what rounding
    may have added: what a tool puts on the surface of a ball lies a float32 rounding outside it, so each image is
    pulled in by 1e-6 of its distance, in Linf by 6e-8 more, and counts there if it still flips. What does not flip is
    no evidence of anything: ``survived`` is 0.

    Args:
        model: as :func:`temper.evaluate` takes it; give it the same, for tables to be merged.
        images: the same.
        labels: the same.
        adversarial: one image for each of ``images``, in their order and as the model takes them: float in [0, 1] (what
            lies outside by rounding alone, 1e-6, is brought back) or uint8, channels first or last. The clean image
            itself where the tool found nothing.
        norm: Linf, L2 or L1, to measure distances in; not necessarily the tool's own.
        source: the tool's name, which the rows of the table have for suite and attack.
        eot: passes for each answer of a random model, as of :func:`temper.evaluate`.

    Raises:
        ArgumentError: images, labels, norm or source cannot be used, or no adversarial image lies in [0, 1].
        ModelError: the model cannot be loaded or gives no usable logits.
    """
    samples = from_arrays(images, labels)
    network = network_for(model, samples)
    if eot is not None:
        network = in_expectation(network, eot, 0, samples.few())
    checked = check(network, samples, Given(adversarial, samples.ids, check_norm(norm), source))
    log.info("%s", checked.in_words())
    return checked.table


def check(model: nn.Module, samples: Samples, given: Given) -> Checked:
    """Check images and say what they are evidence of; see :func:`verify`.

    Raises:
        ArgumentError: they have another shape than the samples, are of samples that there are not, or none lies in
            [0, 1]. ModelError: no usable logits.
    """
    _check_fit(samples, given)
    size = clean_batch(samples)
    clean = clean_pass(model, samples, size, None)
    lent = Lent(model, [], size)
    distance, outside = np.full(len(given), np.inf), np.zeros(len(given))
    forward = np.zeros(len(samples), np.int64)
    with crafting(model), progress_bar(f"checking images of {given.source}", len(given)) as bar:
        for x, y, places in _beside_clean(model, samples, given, clean, size):
            tried = given.read(places, x)
            outside[places] = _outside(tried).cpu().numpy()
            usable = torch.as_tensor(outside[places] == 0, device=x.device)
            found, asked = _distances(lent, x, torch.where(rows(usable, x), tried.clamp(0, 1), x), y, given.norm)
            distance[places] = found.cpu().numpy()
            np.add.at(forward, _places(clean, given.sample[places]), asked.cpu().numpy())
            bar.advance(by=len(places))
    _tell_of_no_evidence(given, outside)
    upper = np.full(len(samples), np.inf)
    np.minimum.at(upper, _places(clean, given.sample), distance)
    table = EvidenceTable(_rows(clean, given, upper, forward), identity(model, samples), _provenance(given, clean))
    return Checked(given, table, distance, outside)


def _beside_clean(
    model: nn.Module, samples: Samples, given: Given, clean: Clean, size: int
) -> Iterator[tuple[Tensor, Tensor, NDArray[np.intp]]]:
    """Batches of clean images [B, C, H, W], the classes that the model gives them [B], and the places of the images
    given that stand beside them."""
    chosen = samples.take(np.unique(given.sample).tolist())
    for x, _, ids in on_device(model, chosen.batches(size)):
        own = ids.cpu().numpy()
        y = torch.as_tensor(clean.columns["prediction"][_places(clean, own)], device=x.device)
        order = np.argsort(own)
        mine = np.flatnonzero(np.isin(given.sample, own))
        for start in range(0, len(mine), size):
            places = mine[start : start + size]
            at = torch.as_tensor(order[np.searchsorted(own, given.sample[places], sorter=order)], device=x.device)
            yield x[at], y[at], places


def _distances(lent: Lent, x: Tensor, tried: Tensor, y: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """Distance of each image that flips, inf for the others: float64 [N]; and the passes that each took."""
    reached = exact_distance(x, tried, norm)
    flips, asked = _flips(lent, tried, y)
    flips &= reached > 0  # a batch of another size may round so that the clean image itself is one
    some = flips.nonzero().flatten()
    if not len(some):
        return torch.where(flips, reached, torch.inf), asked
    pulled = into_ball(x[some], tried[some], reached[some] * (1 - 1e-9), norm)
    still, again = _flips(lent, pulled, y[some])
    asked[some] += again
    reached[some] = torch.where(still, exact_distance(x[some], pulled, norm), reached[some])
    return torch.where(flips, reached, torch.inf), asked


def _flips(lent: Lent, images: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Which images flip in their batch and alone: bool [N]; and the passes that each took."""
    flips = lent.verified(images, y)
    asked = lent.passes + lent.deciding * flips
    for place in flips.nonzero().flatten().tolist():
        flips[place] = lent.alone(images[place], y[place]) is not None
    return flips, asked


def _outside(images: Tensor) -> Tensor:
    """By how much each image leaves [0, 1], 0 where rounding explains it, nan where it is not finite: float64 [N]."""
    flat = images.double().flatten(1)
    beyond = torch.maximum(-flat.amin(1), flat.amax(1) - 1)
    return torch.where(flat.isfinite().all(1), torch.where(beyond > ROUNDING, beyond, 0), torch.nan)


def _check_fit(samples: Samples, given: Given) -> None:
    channels, height, width = samples.shape
    if tuple(given.images.shape[1:]) not in ((channels, height, width), (height, width, channels)):
        fix = f"the model sees images of {samples.shape} (channels, height, width): give them in that shape"
        raise ArgumentError("adversarial", tuple(given.images.shape), fix)
    if not len(given):
        raise ArgumentError("adversarial", tuple(given.images.shape), "give at least one image")
    strange = np.setdiff1d(given.sample, samples.ids)
    if len(strange):
        fix = (
            f"is no sample of the data, which has {len(samples):,} of them, {samples.ids.min()} to {samples.ids.max()}"
        )
        raise ArgumentError("sample", int(strange[0]), fix)


def _tell_of_no_evidence(given: Given, outside: NDArray[np.float64]) -> None:
    """Name images that are no evidence, and why; raise ArgumentError where none is."""
    refused = outside != 0
    if not refused.any():
        return
    reasons = []
    for where, reason in (
        (outside > 0, f"leave [0, 1], by up to {np.nanmax(outside):.3g}"),
        (np.isnan(outside), "are not finite"),
    ):
        if where.any():
            reasons.append(f"{int(where.sum()):,} {reason} (sample {given.sample[where][0]} first)")
    told = " and ".join(reasons)
    fix = "pixels are wanted as they were before any normalisation, in [0, 1]"
    if refused.all():
        raise ArgumentError("adversarial", f"{len(given):,} images of {given.source}", f"{told}; {fix}")
    warnings.warn(f"{given.source}: {told}, and are no evidence; {fix}", TemperWarning, stacklevel=3)


def _rows(clean: Clean, given: Given, upper: NDArray[np.float64], forward: NDArray[np.int64]) -> pd.DataFrame:
    attack = np.where(np.isfinite(upper), given.source, "")
    names = {"norm": given.norm, "suite": given.source, "attack": attack}
    passes = {"forward": forward, "backward": 0}
    return pd.DataFrame(clean.columns | names | {"upper": upper, "survived": 0.0, "seed": 0} | passes)


def _provenance(given: Given, clean: Clean) -> Provenance:
    return Provenance(
        suites={given.source: {"name": given.source, "attacks": [], "given": True}},
        radii={},
        seeds=[],
        versions=[distribution.version()],
        precision=sorted(f"{lower} inside the model" for lower in clean.inside),
    )


def _places(clean: Clean, ids: NDArray[np.int64]) -> NDArray[np.intp]:
    """Where samples stand among all, whose ids rise."""
    return np.searchsorted(clean.columns["sample"], ids)


def _is_pixels(images: AdversarialImages) -> bool:
    if isinstance(images, Tensor):
        return images.is_floating_point() or images.dtype == torch.uint8
    return np.issubdtype(images.dtype, np.floating) or images.dtype == np.uint8


def _kind(images: object) -> str:
    return f"{getattr(images, 'dtype', '')} {tuple(getattr(images, 'shape', ()))}"
