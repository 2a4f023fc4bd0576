"""Which model, and which images it is trained on."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from temper.core.calls import LARGEST, Count, Helpers, PixelCount, Seed
from temper.training.sections.section import Section

# One number, or one per channel.
Statistic = Annotated[tuple[float, ...], BeforeValidator(lambda v: (v,) if isinstance(v, int | float) else v)]


class ModelConfig(Section):
    """Which backbone, with which weights."""

    name: str = "bundled"
    """A run folder, "bundled", "timm:NAME[@weights-file]" or "module:factory"."""
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
    augmentation: Literal["paper", "paper-twice", "crop", "none"] = "paper"
    """"paper" (flip, colour jitter 0.25, rotation 2 degrees), "paper-twice" (arXiv:2508.14079's mistake, to compare),
    "crop" (random crop and flip), or "none"."""
    workers: Helpers = 0
    """Processes that load images beside the training process."""
