"""What an objective asks the classifier for: logits, those of two branches or wings, or embeddings."""

import copy

from torch import nn

from temper.models import Classifier
from temper.models.text_head import Tower, ZeroShot
from temper.training import objectives
from temper.training.branch import TwoBranches, add_branch, drop_branch, natural_accuracy
from temper.training.config import FinetuneConfig
from temper.training.crafter import Crafter
from temper.training.objectives import OBJECTIVES
from temper.training.objectives.objective import Objective
from temper.training.session import Session
from temper.training.wings import TwoWings, add_wing, drop_wing


def add_part(classifier: Classifier, config: FinetuneConfig) -> None:
    """Give a classifier what lives while it is trained: AutoLoRa's branch, or the frozen wing of TWINS."""
    asks = OBJECTIVES[config.objective.name].asks
    if asks == "branches":
        add_branch(classifier, config.protocol.lora_rank)
    elif asks == "wings":
        add_wing(classifier)


def drop_part(classifier: Classifier, config: FinetuneConfig) -> None:
    """Take it away again: what is left is a plain classifier."""
    asks = OBJECTIVES[config.objective.name].asks
    if asks == "branches":
        drop_branch(classifier)
    elif asks == "wings":
        drop_wing(classifier)


def trained_as(classifier: Classifier, config: FinetuneConfig) -> nn.Module:
    """The module that updates go through, with the classifier inside."""
    asks = OBJECTIVES[config.objective.name].asks
    if asks == "branches":
        return TwoBranches(classifier)
    if asks == "wings":
        return TwoWings(classifier)
    return attacked_as(classifier, config)


def attacked_as(classifier: Classifier, config: FinetuneConfig) -> nn.Module:
    """The module that inner attacks see, with the classifier inside."""
    return Tower(classifier) if OBJECTIVES[config.objective.name].asks == "embeddings" else classifier


def original_of(classifier: Classifier, config: FinetuneConfig) -> nn.Module | None:
    """A frozen copy of the tower of a classifier that is not yet trained, where the objective looks at it."""
    if OBJECTIVES[config.objective.name].asks != "embeddings":
        return None
    return Tower(copy.deepcopy(classifier).eval().requires_grad_(False))


def begin_epoch(session: Session, epoch: int) -> None:
    """Measure what the objective of an epoch goes by, where it goes by something."""
    if OBJECTIVES[session.task.config.objective.name].asks == "branches":
        session.progress.natural_accuracy = natural_accuracy(session, epoch)


def crafter_of(session: Session) -> Crafter:
    """What crafts the images of an epoch."""
    config = session.task.config
    asked = attacked_as(session.classifier, config)
    slopes = session.progress.slopes if session.task.schedule.individual else None
    return Crafter(asked, session.pairs, config, session.fabric.autocast, session.original, slopes)


def objective_of(session: Session, crafter: Crafter) -> Objective:
    """The objective of an epoch, which crafts with ``crafter``."""
    config, network = session.task.config, session.classifier.network
    return objectives.make(
        config.objective.name,
        crafter.logits,
        config.objective.beta,
        config.optimiser.label_smoothing,
        session.task.class_weights,
        natural_accuracy=session.progress.natural_accuracy,
        original=crafter.original,
        head=network.logits_from if isinstance(network, ZeroShot) else None,
    )
