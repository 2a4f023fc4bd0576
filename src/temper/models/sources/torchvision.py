"""Networks of torchvision: ``torchvision:NAME[@weights-file]``."""

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING
from urllib.error import URLError

import torch
from torch import nn

from temper.errors import ModelError
from temper.models.built import Built
from temper.models.heads import find_head, outputs_of
from temper.models.preprocessing import Preprocessing
from temper.models.sources.source import ModelSource, Request
from temper.text import did_you_mean, first_line, nearest

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

# What these are built with by default depends on whether they get weights; here it is always what the weights are for,
# without the auxiliary heads that only training from scratch has a use for.
_INCEPTION = {"transform_input": True, "aux_logits": False, "init_weights": False}
_DEFAULTS = {"inception_v3": _INCEPTION, "googlenet": _INCEPTION}


class TorchvisionSource(ModelSource):
    """A classifier of ``torchvision.models``, with the normalisation and crop size of its default weights.

    A vision transformer is built for ``image_size``; it takes pretrained weights at its own size alone.
    """

    form = "torchvision:NAME[@weights-file]"
    prefix = "torchvision"
    takes_weights_file = True
    takes_arguments = True
    weights_are_optional = True

    def check(self) -> None:
        """See :meth:`ModelSource.check`."""
        self._weights()

    def build(self, request: Request) -> Built:
        """See :meth:`ModelSource.build`; it cannot where weights are not in the cache and cannot be fetched, either."""
        weights = self._weights()
        network = self._created(weights if request.pretrained else None, request)
        transforms = weights.transforms()
        size = request.image_size if _has_own_size(network) else None
        side = size or transforms.crop_size[0]
        head = find_head(network, torch.zeros(2, 3, side, side))
        if not head:
            raise ModelError(f"{self.text}: does not end in a linear layer; choose another classifier")
        own = Preprocessing(tuple(transforms.mean), tuple(transforms.std), side)
        return Built(network, own, head, outputs_of(network.get_submodule(head[0])))

    def output_names(self, built: Built) -> list[str]:
        """See :meth:`ModelSource.output_names`."""
        return list(self._weights().meta["categories"])

    def _weights(self) -> "WeightsEnum":
        """torchvision's description of the network's default weights.

        Raises:
            ModelError: there is no such classifier; the message names the nearest.
        """
        from torchvision import models

        known = models.list_models(module=models)
        if self.name not in known:
            hint = did_you_mean(nearest(self.name, known, 3, 0.5), "torchvision.models.list_models() lists the names")
            raise ModelError(f"{self.text}: torchvision has no classifier {self.name!r}; {hint}")
        return models.get_model_weights(self.name).DEFAULT

    def _created(self, weights: "WeightsEnum | None", request: Request) -> nn.Module:
        from torchvision import models

        arguments: dict[str, object] = {**_DEFAULTS.get(self.name, {}), **request.model_args}
        if request.image_size is not None and self.name.startswith("vit_") and weights is None:
            arguments.setdefault("image_size", request.image_size)
        try:
            with redirect_stdout(sys.stderr):  # torch says there what it fetches
                network: nn.Module = models.get_model(self.name, weights=weights, **arguments)
        except URLError as error:
            assert weights is not None  # nothing else is fetched
            raise ModelError(
                f"{self.text}: its weights are not in the cache and could not be fetched (no network?); copy"
                f" {weights.url} to this machine and use {self.text}@FILE"
            ) from error
        except (TypeError, ValueError) as error:
            raise ModelError(f"{self.text}: cannot be built with {arguments}: {first_line(error)}") from error
        return network


def _has_own_size(network: nn.Module) -> bool:
    """Whether a network takes images of the one size that it was built for."""
    return hasattr(network, "image_size")
