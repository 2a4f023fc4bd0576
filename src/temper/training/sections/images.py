"""Which model, and which images it is trained on."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from temper.core.calls import LARGEST, Count, Helpers, PixelCount, Seed
from temper.errors import ArgumentError
from temper.training.sections.section import Section, unused

# One number, or one per channel.
Statistic = Annotated[tuple[float, ...], BeforeValidator(lambda v: (v,) if isinstance(v, int | float) else v)]


class ModelConfig(Section):
    """Which backbone, with which weights."""

    name: str = "bundled"
    """A run folder, "bundled", "timm:NAME[@weights-file]", "clip:NAME+TEXTS.safetensors[@weights-file]" (zero-shot) or
    "module:factory"."""
    weights: str | None = None
    """"pretrained" (default), "none", or a .safetensors file or torch checkpoint."""
    args: dict[str, bool | int | float | str] = Field({})
    """Further arguments of timm.create_model."""
    mean: Statistic | None = None
    """Normalisation mean in [0, 1] pixel units, one number or one per channel; the model's own by default."""
    std: Statistic | None = None
    """Normalisation standard deviation, as mean."""
    image_size: PixelCount | None = None
    """Height and width in pixels that images are resized to; the model's own by default."""


class DataConfig(Section):
    """Which images, and how they are divided."""

    train: str = "digits"
    """FILE.npz, a folder or zip with one folder per class, "digits", "mnist-5k", "torchvision:NAME", "parquet:DIR", or
    a name of the catalogue, such as "flowers-102"."""
    validation: str | None = None
    """Validation data; by default the source's own validation part, or a stratified share of the training data."""
    test: str | None = None
    """Test data; by default the source's own test part, or a stratified share of the training data."""
    classes: int | None = Field(None, ge=2, le=LARGEST)
    """Keep only the first so many classes."""
    validation_fraction: float = Field(0.1, gt=0, lt=1)
    """Share of the training data held out for validation where there is none."""
    test_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of the training data held out for testing where there is none."""
    split_seed: Seed | None = None
    """Seed of what is held out and of the limits; the run's own by default. Runs that are compared share one."""
    train_limit: Count | None = None
    """Use at most so many training samples, stratified by class."""
    test_limit: Count | None = None
    """Use at most so many test samples, stratified by class."""
    validation_limit: Count | None = Field(None, exclude_if=unused)
    """Use at most so many validation samples, stratified by class: robust validation attacks each of them."""
    extra: str | None = Field(None, exclude_if=unused)
    """Further images to train on, such as generated ones, with the classes of the training data: any data set that
    train can name. An epoch stays as long as the training data."""
    extra_share: float | None = Field(None, gt=0, lt=1, exclude_if=unused)
    """Share of every batch that is drawn from the extra images (0.7 where there are some)."""
    balance: Literal["none", "sampler", "weights"] = Field("none", exclude_if=unused)
    """Classes of unequal size: "sampler" draws all equally often, "weights" weighs the loss of each sample by its
    class."""
    mix: Literal["none", "mixup", "cutmix"] = Field("none", exclude_if=unused)
    """Train on mixtures of two images, whose labels are shares of both classes: torchvision's MixUp or CutMix."""
    mix_alpha: float | None = Field(None, gt=0, le=1e3, exclude_if=unused)
    """The proportion of a mixture is drawn from Beta(alpha, alpha) (1, uniform)."""
    augmentation: Literal["paper", "paper-twice", "crop", "none"] = "paper"
    """"paper" (flip, colour jitter 0.25, rotation 2 degrees), "paper-twice" (arXiv:2508.14079's mistake, to compare),
    "crop" (random crop and flip), or "none"."""
    workers: Helpers = 0
    """Processes that load images beside the training process."""

    @model_validator(mode="after")
    def _only_with_their_own(self) -> Self:
        if self.extra_share is not None and self.extra is None:
            raise ArgumentError("extra_share", self.extra_share, "there are no extra images; name them with extra")
        if self.mix_alpha is not None and self.mix == "none":
            raise ArgumentError("mix_alpha", self.mix_alpha, "nothing is mixed; choose mix mixup or cutmix")
        return self

    def completed(self) -> Self:
        """With the defaults that depend on other values."""
        return self.filled(
            {"extra_share": 0.7 if self.extra else None, "mix_alpha": None if self.mix == "none" else 1.0}
        )
