"""A dress rehearsal: what would only show after hours of training shows before it begins."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from temper import models
from temper.errors import ModelError
from temper.models import Classifier
from temper.models.heads import SHAPE_REFUSALS, modes_of
from temper.text import first_line

PARTS = 0.05  # by how much weights are moved, as training would


def rehearse(classifier: Classifier, images: Tensor, smallest: int, *, bf16_on_cpu: bool = False) -> None:
    """Run a classifier as training will, and prove that what would be saved is what would be trained.

    Its weights are moved a little meanwhile, and are afterwards what they were.

    Args:
        classifier: on the CPU.
        images: a few of the training data, float [N, C, H, W] in [0, 1].
        smallest: images in the smallest part of a batch that will go through it at once.
        bf16_on_cpu: whether it is trained in bf16 on the CPU.

    Raises:
        ModelError: no gradient reaches weights or pixels, a part of a batch is too small for its batch norms, bf16
            leaves gradients undefined, or it could not be loaded again.
    """
    spec = classifier.info.get("spec")
    if not any(True for _ in classifier.parameters()):
        raise ModelError(f"{spec}: has no parameters that could be trained; give the network as plain torch modules")
    with _moved(classifier):
        with _refusing_columns(classifier, images) if bf16_on_cpu else nullcontext():
            _check_gradients(classifier, images[:2])
        classifier.train()
        try:
            with torch.no_grad():
                classifier(images[:smallest])
        except SHAPE_REFUSALS as error:
            if str(error).startswith("Expected more than 1 value per channel"):
                raise ModelError(
                    f"{spec}: has a batch norm that needs at least 2 images at once, and the smallest part of a batch"
                    f" has {smallest}; raise micro_batch or batch_size"
                ) from None
            size, reason = "x".join(map(str, images.shape[1:])), first_line(error)
            raise ModelError(
                f"{spec}: takes images of {size} in eval mode, but not in train mode ({reason}); give another"
                " model.image_size"
            ) from error
        classifier.eval()
        models.check_restores(classifier, images)


def _check_gradients(classifier: Classifier, images: Tensor) -> None:
    x = images.clone().requires_grad_()
    with torch.enable_grad():
        logits: Tensor = classifier(x)
        trained = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
        gradients = (
            torch.autograd.grad(logits.float().sum(), [x, *trained], allow_unused=True)
            if logits.requires_grad
            else [None] * (1 + len(trained))
        )
    spec, blind = classifier.info.get("spec"), "detach(), no_grad or NumPy inside its forward pass cuts it off"
    if all(gradient is None for gradient in gradients[1:]):
        raise ModelError(f"{spec}: no gradient reaches its weights, so it cannot be trained; {blind}")
    if gradients[0] is None:
        raise ModelError(f"{spec}: no gradient reaches the pixels, so no attack can be crafted to train on; {blind}")


@contextmanager
def _refusing_columns(classifier: Classifier, images: Tensor) -> Iterator[None]:
    """Refuse convolutions that stride over maps one pixel wide: of these oneDNN's bf16 (torch 2.14) leaves the weights'
    gradients that concern padding alone as they lay in memory, where they are 0."""
    strides_over_column = []

    def look(conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(conv, nn.Conv2d)
        strides_over_column.append(inputs[0].shape[-1] == 1 and conv.stride[1] > 1 and conv.kernel_size[1] > 1)

    hooks = [m.register_forward_pre_hook(look) for m in classifier.modules() if isinstance(m, nn.Conv2d)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if any(strides_over_column):
        spec, size = classifier.info.get("spec"), "x".join(map(str, images.shape[1:]))
        raise ModelError(
            f"{spec}: at images of {size} a convolution strides over a map one pixel wide, whose gradients bf16 leaves"
            " undefined on a CPU; use precision fp32, or a larger model.image_size"
        )


@contextmanager
def _moved(classifier: Classifier) -> Iterator[None]:
    """Parameters moved at random; afterwards they, the buffers and the modes are what they were."""
    modes = modes_of(classifier)
    own = [(tensor, tensor.detach().clone()) for tensor in [*classifier.parameters(), *classifier.buffers()]]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)
        for parameter in classifier.parameters():
            if parameter.is_floating_point():
                parameter.mul_(1 + PARTS * torch.rand_like(parameter)).add_(1e-3 * torch.rand_like(parameter))
        try:
            yield
        finally:
            for tensor, value in own:
                tensor.copy_(value)
            for module, mode in modes:
                module.training = mode
