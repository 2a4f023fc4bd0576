"""A user's own module as the rest of Temper takes it: logits out, and what it is given left as it was."""

import copy
import logging

import torch
from torch import Tensor, nn

from temper.core.precision import check_precision
from temper.errors import ModelError
from temper.models.classifier import Classifier
from temper.models.heads import SHAPE_REFUSALS, check_one_by_one, check_takes_images_alone, evaluating, takes
from temper.models.outputs import Form, as_logits, form_of, main_output
from temper.text import first_line

log = logging.getLogger(__name__)


class Adapted(nn.Module):
    """A module that works in place, or gives something else than one tensor of logits [N, K].

    Args:
        network: from float NCHW images to its output.
        form: how that is to be read.
        copies: whether the network gets copies of its images, because it writes into them.
    """

    def __init__(self, network: nn.Module, form: Form, *, copies: bool) -> None:
        super().__init__()
        self.network, self.form, self.copies = network, form, copies

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K]."""
        output = self.network(images.clone() if self.copies else images)
        logits: Tensor = as_logits(output, self.form, training=self.training)
        return logits


def adapted(model: nn.Module, images: Tensor) -> nn.Module:
    """The model itself, or wrapped where attacks could not work with it as it is.

    A pass over a few images shows it: a model that writes into its input is given copies; one logit or probability per
    image becomes two logits; of named outputs the one called logits is taken; what ``torch.compile`` was given is
    used, and a copy of what was made in inference mode.

    Args:
        model: from float NCHW images in [0, 1].
        images: a few of them, float [N, C, H, W], anywhere.

    Raises:
        ModelError: the model is not in float32, or does not take both one image and several of this shape.
    """
    if isinstance(model, Classifier):
        return model
    model = getattr(model, "_orig_mod", model)
    if any(tensor.is_inference() for tensor in [*model.parameters(), *model.buffers()]):
        model = copy.deepcopy(model)  # no gradient goes through weights that were made in inference mode
    check_precision(model, type(model).__name__)
    tensors = [*model.parameters(), *model.buffers()]
    few = images.to(tensors[0].device if tensors else "cpu")
    few = few if len(few) > 1 else few.repeat(2, 1, 1, 1)
    output, writes = _try(model, few)
    main = main_output(output, training=False)
    form = form_of(main) if isinstance(main, Tensor) and main.dim() and len(main) == len(few) else None
    if form is not None:
        check_one_by_one(model, few, form, type(model).__name__)
    if form not in (None, "logits"):
        log.info("%s: one %s per image, taken as that of class 1 of two", type(model).__name__, form)
    if not writes and main is output and form in (None, "logits"):
        return model  # what is no classifier is refused where its outputs are read
    return Adapted(model, form or "logits", copies=writes)


def _try(model: nn.Module, images: Tensor) -> tuple[object, bool]:
    """What a model gives for images, and whether it writes into them."""
    check_takes_images_alone(model, type(model).__name__)
    x = images.clone().requires_grad_() * 1
    version = x._version
    with evaluating(model), torch.enable_grad():
        try:
            output = model(x)
        except SHAPE_REFUSALS as error:
            count, *shape = images.shape
            size = "x".join(map(str, shape))
            what = (
                "takes one image at a time" if takes(model, images[:1]) else f"does not take {count} images of {size}"
            )
            raise ModelError(
                f"{type(model).__name__}: {what} ({first_line(error)}); make or export it for batches of any size"
            ) from error
    return output, x._version != version
