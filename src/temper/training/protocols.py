"""Which weights are trained, and when: full fine-tuning, linear probing, both in turn, LoRA."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from temper.errors import ArgumentError
from temper.models import Classifier
from temper.training.sections.learning import OptimiserConfig, ProtocolConfig


@dataclass(frozen=True)
class Phase:
    """Epochs ``first`` to ``last`` (from 1, both included) train ``trained``."""

    first: int
    last: int
    trained: Literal["all", "head", "lora"]


def phases(config: ProtocolConfig, epochs: int) -> list[Phase]:
    """The phases of a training of ``epochs`` epochs.

    Raises:
        ArgumentError: linear-then-full with too few epochs for two phases.
    """
    if config.name == "linear-then-full":
        probe = max(round(config.linear_share * epochs), 1)
        if probe >= epochs:
            raise ArgumentError("epochs", epochs, "linear-then-full needs at least one epoch for each phase")
        return [Phase(1, probe, "head"), Phase(probe + 1, epochs, "all")]
    trained: dict[str, Literal["all", "head", "lora"]] = {"full": "all", "linear": "head", "lora": "lora"}
    return [Phase(1, epochs, trained[config.name])]


def rates(protocol: ProtocolConfig, optimiser: OptimiserConfig, phase: Phase) -> OptimiserConfig:
    """The optimiser's settings in a phase: the last layer may have a learning rate of its own while it is alone."""
    if phase.trained != "head" or protocol.linear_lr is None:
        return optimiser
    return optimiser.model_copy(update={"head_lr": protocol.linear_lr})


def set_trained(classifier: Classifier, trained: Literal["all", "head", "lora"]) -> None:
    """Let the parameters of a phase require gradients, and no others."""
    for name, parameter in classifier.backbone_parameters():
        parameter.requires_grad_(trained == "all" or (trained == "lora" and "lora_" in name))
    for _, parameter in classifier.head_parameters():
        parameter.requires_grad_(True)


def train_mode(classifier: Classifier, trained: Literal["all", "head", "lora"]) -> None:
    """Train mode for what is trained; a frozen backbone stays in eval mode, so that its statistics stay put."""
    classifier.train(trained != "head")
    if trained == "head":
        for name in classifier.head_names:
            classifier.network.get_submodule(name).train()


def add_lora(classifier: Classifier, rank: int) -> Any:
    """Put low-rank updates on every linear and convolution layer of the backbone, in place.

    Returns:
        peft's wrapper, for :func:`merge_lora`.
    """
    import peft

    targets = [
        name
        for name, module in classifier.network.named_modules()
        # peft's low-rank convolution covers neither grouped ones nor subclasses that compute something else.
        if (type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1))
        and name not in classifier.head_names
    ]
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets)
    return peft.get_peft_model(classifier.network, config)


def merge_lora(wrapper: Any, classifier: Classifier) -> None:
    """Add the low-rank updates to the weights; the classifier is a plain one again."""
    classifier.network = wrapper.merge_and_unload()
