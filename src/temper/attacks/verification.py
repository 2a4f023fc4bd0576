"""Whether an image flips: asked in the search's precision, at full precision, and alone."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from temper.attacks.crafting import Fold, Pair, folded
from temper.attacks.losses import flipped, predicted
from temper.core.precision import full_precision
from temper.errors import ModelError
from temper.models.expectation import anew, decided, passes_of

# Kernels for fewer images than these round otherwise than those for more: batches on the CPU are filled up to a
# multiple, so that results are bit for bit the same in every batch size.
GRAIN = {"cpu": 16}


class Lent:
    """A model that is lent to a search: how it is asked, and when what it says counts.

    Args:
        model: float [N, C, H, W] in [0, 1] to logits [N, K].
        pairs: convolutions and batch norms to fold while searching, from
            :func:`temper.attacks.crafting.foldable`.
        batch_size: images in flight.
        half: the low precision that the hardware computes (:func:`temper.core.precision.half`), for stages bearing it.
        interrupted: asked between steps; when it says yes, the flow ends and what is in flight is dropped.

    Attributes:
        passes: that an answer takes, and ``deciding`` those that the one about an image alone takes: 1, more for a
            random model in expectation.
    """

    def __init__(
        self,
        model: nn.Module,
        pairs: list[Pair],
        batch_size: int,
        *,
        half: torch.dtype | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model, self.batch_size, self.half, self.interrupted = model, batch_size, half, interrupted
        self.pairs = pairs
        self.passes, self.deciding = passes_of(model)
        self.folds: list[Fold] | None = None
        self.not_finite: set[int] = set()  # ids of samples with logits or gradients without numbers at full precision

    def halve(self, size: int, device: torch.device, error: BaseException) -> None:
        """After so many images were too many for the memory: go on with half of them.

        Raises:
            ModelError: fewer make no difference.
        """
        smallest = GRAIN.get(device.type, 1)
        if size <= smallest:
            raise ModelError(
                f"not even {size} images fit into memory for one pass; use a smaller model or image size"
            ) from error
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        self.batch_size = max(size // 2, smallest)

    @contextmanager
    def searching(self, low: torch.dtype | None, device: torch.device) -> Iterator[nn.Module]:
        """The lent model as it is asked in this precision; None for the full one."""
        precision = torch.autocast(device.type, low) if low else full_precision(device)
        with folded(self.folds or []), precision:
            yield self.model

    @torch.no_grad()
    def verified(self, images: Tensor, y: Tensor) -> Tensor:
        """Which images [N, ...] lie in the box and are classified otherwise at full precision: bool [N]."""
        in_box = ((images >= 0) & (images <= 1)).flatten(1).all(1)
        with full_precision(images.device):
            logits = anew(self.model)(filled(images.float()))[: len(images)]
        return flipped(logits, y) & in_box

    @torch.no_grad()
    def alone(self, image: Tensor, y: Tensor) -> int | None:
        """The class that the plain model gives an image [C, H, W] alone, in its default settings, if that is a flip.

        Kernels round otherwise in a batch of one, and next to the boundary that decides. Of a random model it must be
        one beyond doubt, whatever its draws are.
        """
        logits, sure = decided(self.model, image.float().contiguous()[None], y[None])
        return int(predicted(logits)) if (flipped(logits, y[None]) & sure).item() else None


def filled(images: Tensor) -> Tensor:
    """Images [N, ...], repeated up to a size whose kernels round like those of every larger one."""
    missing = filled_size(len(images), images) - len(images)
    if not missing:
        return images
    layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return torch.cat([images, images[:1].expand(missing, *images.shape[1:])]).contiguous(memory_format=layout)


def filled_size(count: int, like: Tensor) -> int:
    """How many images :func:`filled` makes of so many, on the device of ``like``."""
    grain = GRAIN.get(like.device.type, 1)
    return max(-(-count // grain), 1) * grain
