"""AutoLoRa's low-rank branch (Xu et al. 2023, arXiv:2310.01818): natural images go through the backbone's weights plus
updates of low rank, attacked ones through the weights alone. The branch lives while the network is trained."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.func import functional_call

from temper.attacks.crafting import crafting
from temper.attacks.losses import predicted
from temper.models import Classifier
from temper.training.batches import batches
from temper.training.objectives.objective import largest
from temper.training.processes import summed
from temper.training.session import Session

NAME = "branch"  # of the classifier's attribute, and so before the names of its parameters


class Branch(nn.Module):
    """Updates ``up @ down / rank`` of the weights of linear and convolution layers, as matrices [outputs, the rest].

    They begin as the authors': ``down`` from a normal distribution, ``up`` at 0.

    Args:
        classifier: whose backbone's weights are updated; the head is shared.
        rank: of the updates.
    """

    def __init__(self, classifier: Classifier, rank: int) -> None:
        super().__init__()
        layers = [name for name, module in classifier.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        weights = dict(classifier.backbone_parameters())
        self.names = tuple(f"{layer}.weight" for layer in layers if f"{layer}.weight" in weights)
        self.rank = rank
        matrices = [weights[name].detach().flatten(1) for name in self.names]
        self.down = nn.ParameterList(torch.randn(rank, matrix.shape[1]) for matrix in matrices)
        self.up = nn.ParameterList(torch.zeros(matrix.shape[0], rank) for matrix in matrices)

    def updates(self) -> Iterator[tuple[str, Tensor]]:
        """(name of the classifier's parameter, what is added to it as a matrix)."""
        for name, down, up in zip(self.names, self.down, self.up, strict=True):
            yield name, up @ down / self.rank


class TwoBranches(nn.Module):
    """A classifier with a branch, as one update asks it: of the images [2N, C, H, W] the first half is natural and goes
    through the branch, the second through the backbone; logits [2N, K]. Each half has its own batch-norm statistics."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """See the class."""
        natural, attacked = images.chunk(2)
        return torch.cat([through_branch(self.classifier, natural), self.classifier(attacked)])


def add_branch(classifier: Classifier, rank: int) -> None:
    """Give a classifier a branch; it answers as before unless asked through it."""
    classifier.add_module(NAME, Branch(classifier, rank))


def drop_branch(classifier: Classifier) -> None:
    """Take the branch away again: what is left is the backbone."""
    delattr(classifier, NAME)


def through_branch(classifier: Classifier, images: Tensor) -> Tensor:
    """Logits [N, K] of the weights with the branch's updates. Gradients reach the branch and the head; the backbone is
    held constant, norms included."""
    branch = classifier.get_submodule(NAME)
    assert isinstance(branch, Branch)
    own = [(name, value) for name, value in classifier.backbone_parameters() if not name.startswith(f"{NAME}.")]
    weights = {name: value.detach() for name, value in own}
    for name, update in branch.updates():
        weights[name] = weights[name] + update.view(weights[name].shape)
    logits: Tensor = functional_call(classifier, weights, (images,))
    return logits


@torch.no_grad()
def natural_accuracy(session: Session, epoch: int) -> float:
    """Accuracy of the branch, in eval mode, on the natural training images of an epoch, shared out over the processes;
    a forward pass of each, which is counted."""
    correct, samples = torch.zeros(2, device=session.fabric.device)
    with crafting(session.classifier), session.fabric.autocast():
        for x, y, _ in batches(session, epoch, 0):
            correct += (predicted(through_branch(session.classifier, x)) == largest(y)).sum()
            samples += len(y)
    right, asked = summed(session.fabric, torch.stack([correct, samples])).tolist()
    session.progress.counted[2] += asked
    return right / asked
