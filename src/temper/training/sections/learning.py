"""What is minimised, over which weights, and by which updates."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from temper.errors import ArgumentError
from temper.training.objectives import OBJECTIVES
from temper.training.sections.section import Section, unused

if TYPE_CHECKING:
    ObjectiveName = str
else:  # choices of the command line, from the table that says what there is
    ObjectiveName = Literal[tuple(OBJECTIVES)]
BETAS = ", ".join(f"{name} {each.beta:g}" for name, each in OBJECTIVES.items() if each.beta is not None)


AWP_WARMUP = 0.05  # 10 of 200 epochs, as in the authors' TRADES-AWP


class ObjectiveConfig(Section):
    """What training minimises."""

    name: ObjectiveName = "at"
    """"standard", "at" (adversarial training), "trades", "trades-guide" (arXiv:2508.14079's), "mart", "autolora"
    (natural images through a low-rank branch), "twins" (half of each batch by the batch-norm statistics of
    pretraining), or "fare" (keeps a zero-shot model's embeddings, without labels)."""
    beta: float | None = Field(
        None, ge=0, le=1e6, description=f"Weight of the KL term; twins: of the frozen wing's loss. By default {BETAS}."
    )

    def completed(self) -> Self:
        """With the objective's own beta."""
        return self.filled({"beta": OBJECTIVES[self.name].beta})


class ProtocolConfig(Section):
    """Which weights are trained."""

    name: Literal["full", "linear", "linear-then-full", "lora"] = "full"
    """All weights; the last linear layer on a frozen backbone; first that, then all; or low-rank updates."""
    linear_share: float = Field(0.25, gt=0, lt=1)
    """linear-then-full: share of the epochs that train the last layer alone."""
    linear_lr: float | None = Field(None, gt=0, le=1e30, exclude_if=unused)
    """linear-then-full: peak learning rate of the last layer while it is trained alone (optimiser.head_lr)."""
    lora_rank: int = Field(8, ge=1, le=65_536)
    """lora: rank of the updates; of the branch of objective autolora, too."""

    @model_validator(mode="after")
    def _only_its_own_options(self) -> Self:
        if self.linear_lr is not None and self.name != "linear-then-full":
            fix = f"protocol {self.name} has no second phase; set optimiser.head_lr"
            raise ArgumentError("linear_lr", self.linear_lr, fix)
        return self


class OptimiserConfig(Section):
    """AdamW and what surrounds it."""

    backbone_lr: float = Field(1e-3, gt=0, le=1e30)
    """Peak learning rate of the backbone."""
    head_lr: float = Field(1e-3, gt=0, le=1e30)
    """Peak learning rate of the last linear layer."""
    backbone_weight_decay: float = Field(1e-4, ge=0, le=1e6)
    """Weight decay of the backbone; biases and norms have none."""
    head_weight_decay: float = Field(1e-4, ge=0, le=1e6)
    """Weight decay of the last linear layer; its bias has none."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's betas."""
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    """Cosine to 0 over the training, or constant; both after the warm-up."""
    warmup: float = Field(0.05, ge=0, lt=1)
    """Share of the training over which the learning rate rises linearly from 0."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of the label spread over all classes."""
    clip_norm: float | None = Field(None, ge=1e-6)  # AdamW adds 1e-8 to what it divides by: below, nothing moves
    """Clip the gradient's norm to this."""
    ema: float | None = Field(None, gt=0, lt=1)
    """Decay per step of an exponential moving average of the weights, which then is what is evaluated and saved."""
    swa: float | None = Field(None, ge=0, lt=1, exclude_if=unused)
    """Share of the training after which the weights at the end of every epoch are averaged instead (SWA)."""
    awp: float | None = Field(None, gt=0, le=1, exclude_if=unused)
    """Gamma of adversarial weight perturbation (AWP), such as 0.005: gradients are taken at weights moved up the loss
    by this share of their norm; a pass more."""
    awp_warmup: float | None = Field(None, ge=0, lt=1, exclude_if=unused)
    """awp: share of the training before it begins (0.05)."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.awp_warmup is not None and self.awp is None:
            raise ArgumentError("awp_warmup", self.awp_warmup, "is of awp, which is not given; leave it out")
        if self.ema is not None and self.swa is not None:
            raise ArgumentError("swa", self.swa, "is another average than ema; leave one of them out")
        return self

    def completed(self) -> Self:
        """With the defaults that depend on other values."""
        return self.filled({"awp_warmup": None if self.awp is None else AWP_WARMUP})
