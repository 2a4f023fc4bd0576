"""TWINS's two wings (Two-WIng NormliSation; Liu et al., CVPR 2023, arXiv:2303.11135): one network twice, all layers
shared but the batch norms. The frozen wing lives while the network is trained; what is kept is the adaptive one.

What each wing is was read off the authors' public code (github.com/ziquanliu/CVPR2023-TWINS at d68a49b). The caption of
their figure 2, as a review quotes it, agrees on statistics, halves, attack and evaluation, and has all layers but the
batch norms shared:

- The frozen wing's batch norms normalise by the running mean and variance of pretraining, which no update changes
  (``FixBatchNorm2d`` in ``robustness/imagenet_models/resnet.py``); the adaptive wing's are plain ones: batch statistics
  in updates, running ones elsewhere, which begin as pretraining's.
- Scale and shift of a batch norm are not shared: each wing has its own, loaded with those of pretraining
  (``robustness/model_utils.py``) and trained. All other layers, the head included, are the same parameters.
- Of a batch the first half goes through the frozen wing and the second through the adaptive one
  (``MixBatchNorm2d``), each image through one of them.
- In eval mode there is the adaptive wing alone (``AdvResNet.forward``): the attack of the whole batch climbs its loss
  (PGD from a random start; one attack, whichever wing an image is for), and it is what is evaluated.

Not established, because only abstract, caption and that code could be read: what the paper's text says of scale and
shift, and how it chose the weight of the loss. Of the attack's file the copy beside their plain adversarial training
was read, and of the network's that for high-resolution data.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from temper.models import Classifier
from temper.training.objectives.twins import halves

NAME = "wing"  # of the classifier's attribute, and so before the names of its parameters


class Held(nn.Module):
    """What the frozen wing has in place of one batch norm's own: scale and shift, which are trained, and the running
    mean and variance, which stay. Both begin as the batch norm's are."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        for name, value in norm.named_parameters(recurse=False):
            self.register_parameter(name, nn.Parameter(value.detach().clone()))
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, norm.get_buffer(name).clone())


class Wing(nn.Module):
    """The frozen wing of a classifier: what its batch norms hold, and of which of them.

    Args:
        classifier: as it came from pretraining.
    """

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        norms = statistical(classifier)
        self.names = tuple(norms)
        self.held = nn.ModuleList(Held(norm) for norm in norms.values())

    def values(self) -> dict[str, Tensor]:
        """What takes the place of the classifier's own parameters and buffers, by their names."""
        return {
            f"{name}.{own}": value
            for name, held in zip(self.names, self.held, strict=True)
            for own, value in held.state_dict(keep_vars=True).items()
        }


class TwoWings(nn.Module):
    """A classifier with both wings, as one update asks it: of the images [N, C, H, W] the first half goes through the
    frozen wing and the second through the adaptive one; logits [N, K]."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        frozen, adaptive = halves(images)
        return torch.cat([through_frozen(self.classifier, frozen), self.classifier(adaptive)])


def statistical(classifier: Classifier) -> dict[str, _BatchNorm]:
    """The batch norms that have running statistics, by their names."""
    norms = {name: each for name, each in classifier.named_modules() if isinstance(each, _BatchNorm)}
    return {name: each for name, each in norms.items() if each.running_mean is not None}


def add_wing(classifier: Classifier) -> None:
    """Give a classifier a frozen wing; it answers as before unless asked through it."""
    classifier.add_module(NAME, Wing(classifier))


def drop_wing(classifier: Classifier) -> None:
    """Take the frozen wing away again: what is left is the adaptive one."""
    delattr(classifier, NAME)


def through_frozen(classifier: Classifier, images: Tensor) -> Tensor:
    """Logits [N, K] of the frozen wing, whatever the mode; the batch norms' own statistics do not move."""
    wing = classifier.get_submodule(NAME)
    assert isinstance(wing, Wing)
    with _by_running_statistics(wing, classifier):
        logits: Tensor = functional_call(classifier, wing.values(), (images,))
    return logits


@contextmanager
def _by_running_statistics(wing: Wing, classifier: Classifier) -> Iterator[None]:
    """Its batch norms in eval mode, and everything else as it is."""
    modes = [(norm, norm.training) for norm in map(classifier.get_submodule, wing.names)]
    try:
        for norm, _ in modes:
            norm.training = False
        yield
    finally:
        for norm, mode in modes:
            norm.training = mode
