"""One corrupted image, and data sets whose images are corrupted when they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from temper.core.randomness import number
from temper.corruptions.catalogue import CORRUPTIONS, EXTRA, GUIDE, GUIDE_SEVERITY, IMAGENET_C
from temper.corruptions.parameters import RULES, SEVERITIES, Rule, table_for
from temper.data import Dataset, Images
from temper.errors import ArgumentError, DataError
from temper.text import did_you_mean, nearest

SMALLEST = 8


def corrupt(
    image: NDArray[np.uint8], name: str, severity: int, seed: int = 0, sample_id: int = 0, *, rule: Rule = "sized"
) -> NDArray[np.uint8]:
    """An image as a camera, the weather or a file format might have spoiled it.

    What comes out depends on the arguments alone: its random numbers are the sample's own, and no global state is
    read or changed. Values are cut, not rounded, to 8 bits, as in the published sets.

    Args:
        image: uint8 [H, W, C], 1 (grey) or 3 (RGB) channels, at least 8 pixels high and wide.
        name: one of :data:`IMAGENET_C` or :data:`EXTRA`.
        severity: 1 to 5.
        seed: of the run.
        sample_id: the sample's id; each sample has its own random numbers.
        rule: which published parameters an image of some size gets, see
            :func:`temper.corruptions.parameters.table_for`.

    Returns:
        uint8 [H, W, C].

    Raises:
        ArgumentError: no such corruption, severity or rule, or an image that is none.
    """
    check_corruption(name, severity, rule)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or min(image.shape[:2]) < SMALLEST:
        fix = f"give uint8 [height, width, 1 or 3], at least {SMALLEST} pixels high and wide"
        raise ArgumentError("image", f"{image.dtype} {image.shape}", fix)
    rng = np.random.default_rng(number(seed, "corruption", name, severity, sample_id))
    pixels = image.astype(np.float32) / 255
    corruption = CORRUPTIONS[name]
    if rule == "imagecorruptions" and corruption.by_imagecorruptions:
        changed = corruption.by_imagecorruptions(pixels, rng, severity)
    else:
        table, unit = table_for(image.shape[0], image.shape[1], rule)
        changed = corruption.function(pixels, rng, unit, *table.rows[name][severity - 1])
    # A thousandth of a level keeps rounding errors from turning a whole level into the one below.
    return (np.clip(changed, 0, 1) * 255 + 1e-3).astype(np.uint8)


def check_corruption(name: str, severity: int, rule: str = "sized") -> None:
    """Raise ArgumentError unless there is such a corruption."""
    if name not in CORRUPTIONS:
        hint = did_you_mean(nearest(name, CORRUPTIONS, cutoff=0.5))
        raise ArgumentError("corruption", name, f"{hint} Choose among {', '.join(IMAGENET_C + EXTRA)}".lstrip())
    if severity not in SEVERITIES:
        raise ArgumentError("severity", severity, "give a whole number from 1 to 5")
    if rule not in RULES:
        raise ArgumentError("rule", rule, f"give one of {', '.join(RULES)}")


@dataclass(frozen=True, eq=False)
class CorruptedImages:
    """Images that are corrupted, at their own size, each time they are asked for.

    Attributes:
        images: the clean ones.
        ids: int64 [N], the samples' ids.
        names: [N], each image's corruption.
        severity, seed, rule: see :func:`corrupt`.
    """

    images: Images
    ids: NDArray[np.int64]
    names: NDArray[np.str_]
    severity: int
    seed: int
    rule: Rule

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        name, sample = str(self.names[index]), int(self.ids[index])
        try:
            return corrupt(self.images[index], name, self.severity, self.seed, sample, rule=self.rule)
        except ArgumentError as error:
            raise DataError(f"{self.where(index)}: {error}") from None

    def where(self, index: int) -> str:
        """See :class:`temper.data.Images`."""
        return self.images.where(index)

    def content(self, index: int) -> bytes:
        """See :class:`temper.data.Images`."""
        how = f"{self.names[index]} {self.severity} {self.seed} {self.rule} "
        return how.encode() + self.images.content(index)

    def take(self, indices: NDArray[np.int64]) -> "CorruptedImages":
        """See :class:`temper.data.Images`."""
        return replace(self, images=self.images.take(indices), ids=self.ids[indices], names=self.names[indices])


def corrupted(dataset: Dataset, name: str, severity: int, seed: int = 0, *, rule: Rule = "sized") -> Dataset:
    """The data set with every image corrupted, at its own size, when it is asked for; see :func:`corrupt`."""
    check_corruption(name, severity, rule)
    return _view(dataset, [name] * len(dataset), severity, seed, rule, f"{dataset.name}, {name} {severity}")


def guide_preset(dataset: Dataset, seed: int = 0) -> Dataset:
    """The corrupted test set of the Guide to robust generalization (arXiv:2508.14079): one corruption an image.

    Its 11 corruptions (:data:`GUIDE`) at severity 3 come in blocks: image i of n gets number
    (i // floor(n / 11)) mod 11, so those that are left over at the end start again from the first. Parameters are
    those of the package ``imagecorruptions``: ImageNet-C's in pixels, whatever the image's size. Fewer than 11
    images get one each, in order.
    """
    block = max(1, len(dataset) // len(GUIDE))
    names = [GUIDE[i // block % len(GUIDE)] for i in range(len(dataset))]
    return _view(dataset, names, GUIDE_SEVERITY, seed, "imagecorruptions", f"{dataset.name}, Guide's corruptions")


def _view(dataset: Dataset, names: Sequence[str], severity: int, seed: int, rule: Rule, title: str) -> Dataset:
    images = CorruptedImages(dataset.images, dataset.ids, np.array(names), severity, seed, rule)
    return replace(dataset, images=images, name=title)
