"""The one typed schema of a fine-tuning run: YAML files, command-line flags and Python all fill it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from tyro.constructors import PrimitiveConstructorSpec

from temper.core.calls import LARGEST, Count, Helpers, PixelCount, Processes, Seed
from temper.core.files import written
from temper.core.refusals import StrictNumbers, refusal
from temper.errors import ArgumentError
from temper.text import masked
from temper.threat import Norm, parse_eps
from temper.training.inner_attacks import INNER_ATTACKS
from temper.training.objectives import OBJECTIVES
from temper.training.schedules import SCHEDULES

Epsilon = Annotated[
    float,
    BeforeValidator(parse_eps),
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|N/255",
        instance_from_str=lambda words: parse_eps(words[0]),
        is_instance=lambda value: isinstance(value, float | int),
        str_from_instance=lambda value: [str(value)],
    ),
]


# One number, or one per channel.
Statistic = Annotated[tuple[float, ...], BeforeValidator(lambda v: (v,) if isinstance(v, int | float) else v)]

if TYPE_CHECKING:
    ObjectiveName = str
    AttackName = str
    ScheduleName = str
else:  # choices of the command line, from the tables that say what there is
    ObjectiveName, AttackName = Literal[tuple(OBJECTIVES)], Literal[tuple(INNER_ATTACKS)]
    ScheduleName = Literal[tuple(SCHEDULES)]
BETAS = ", ".join(f"{name} {each.beta:g}" for name, each in OBJECTIVES.items() if each.beta is not None)


class Section(StrictNumbers, BaseModel):
    """A part of the configuration; unknown keys are errors, and nothing changes after it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class ModelConfig(Section):
    """Which backbone, with which weights."""

    name: str = "bundled"
    """A run folder, "bundled", "timm:NAME[@weights-file]" or "module:factory"."""
    weights: str | None = None
    """"pretrained" (default), "none", or a .safetensors file or torch checkpoint."""
    args: dict[str, bool | int | float | str] = {}
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


class AttackConfig(Section):
    """The inner attack that crafts the training images."""

    name: AttackName = "apgd"
    """"apgd" (no step size to tune; the paper's) or "pgd"."""
    steps: Count = 7
    """Steps per training image while epsilon is above 0: each a forward and a backward pass (apgd: a forward more)."""
    step_size: float | None = Field(None, ge=1e-9, le=1e6)
    """PGD's step as a share of the epsilon in force; 2.5 / steps by default."""
    random_start: bool | None = None
    """Start at a random point of the ball; by default PGD and TRADES do, APGD does not."""


class ScheduleConfig(Section):
    """Which share of eps training asks for, and when."""

    name: ScheduleName = "hinge"
    """"hinge" is Epsilon-Scheduling: 0 before start, linear until end, then the whole eps."""
    start: float | None = Field(None, ge=0)
    """T1 of hinge (0.25) and abrupt (0.25): at most 1 a share of the training, above 1 epochs."""
    end: float | None = Field(None, ge=0)
    """T2 of hinge (0.75) and linear (0.75), as start."""
    patience: Count | None = None
    """auto: epochs without progress after which validation accuracy has converged (5)."""
    tolerance: float | None = Field(None, ge=0, le=1)
    """auto: rise in validation accuracy that counts as progress (0.02)."""
    function: str | None = None
    """custom: "module:function", called with (epoch, epochs), returns a share in [0, 1]."""
    per: Literal["step", "epoch"] = "step"
    """Move epsilon at every step, or once per epoch as in the paper."""

    @model_validator(mode="after")
    def _only_its_own_options(self) -> Self:
        for option in ("start", "end", "patience", "tolerance", "function"):
            if getattr(self, option) is not None and option not in SCHEDULES[self.name]:
                fix = f"schedule {self.name} has no option {option}; leave it out"
                raise ArgumentError(option, getattr(self, option), fix)
        if self.name == "custom" and self.function is None:
            raise ArgumentError("function", None, "schedule custom needs function, as module:function")
        return self


class ObjectiveConfig(Section):
    """What training minimises."""

    name: ObjectiveName = "at"
    """"standard", "at" (adversarial training), "trades", "trades-guide" (arXiv:2508.14079's) or "mart"."""
    beta: float | None = Field(None, ge=0, le=1e6, description=f"Weight of the KL term: {BETAS} by default.")


class ProtocolConfig(Section):
    """Which weights are trained."""

    name: Literal["full", "linear", "linear-then-full", "lora"] = "full"
    """All weights; the last linear layer on a frozen backbone; first that, then all; or low-rank updates."""
    linear_share: float = Field(0.25, gt=0, lt=1)
    """linear-then-full: share of the epochs that train the last layer alone."""
    lora_rank: int = Field(8, ge=1, le=65_536)
    """lora: rank of the updates."""


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


class EvaluationConfig(Section):
    """How the finished model is measured on the test data."""

    suite: str = "apgd"
    """Attack suite."""
    points: int = Field(8, ge=1, le=1000)
    """Radii of the accuracy curve, in equal steps up to eps."""
    batch_size: Count | None = None
    """Samples attacked at once; by default that goes by their size."""


class FinetuneConfig(Section):
    """A fine-tuning run; every value has a default, and the resolved configuration repeats the run."""

    out: Path = Path("runs/finetune")
    """Folder of the run."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    norm: Norm = "Linf"
    """Norm of the threat model: Linf, L2 or L1."""
    eps: Epsilon = 8 / 255
    """Target epsilon eps_g in [0, 1] pixel units; 8/255 is accepted."""
    objective: ObjectiveConfig = ObjectiveConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    attack: AttackConfig = AttackConfig()
    protocol: ProtocolConfig = ProtocolConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    epochs: Count = 20
    """Passes over the training data."""
    batch_size: int = Field(128, ge=2, le=LARGEST)
    """Samples per update of the weights, over all devices."""
    micro_batch: Count | None = None
    """Samples per device at once; gradients are accumulated up to batch_size. All of them by default."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """"auto" is bf16 autocast where the hardware computes it, float32 elsewhere."""
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where to compute."""
    devices: Processes = 1
    """Devices, or processes on the CPU."""
    threads: int | None = Field(None, ge=1, le=1024)
    """CPU threads of each process; by default the machine's, shared out. A run keeps the number it was started with:
    on another one sums are rounded otherwise."""
    seed: Seed = 0
    """Seed of everything random."""
    checkpoint_seconds: float = Field(60, ge=0)
    """A checkpoint is saved after every epoch, and within one whenever so much time has passed."""
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ()
    """Experiment trackers that get the metrics too."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        objective, attack = OBJECTIVES[self.objective.name], INNER_ATTACKS[self.attack.name]
        if self.eps == 0 and objective.attacked:
            raise ArgumentError("eps", self.eps, "choose objective.name standard, or an eps above 0")
        if self.batch_size < 2 * self.devices:
            fix = f"leaves less than 2 samples for each of {self.devices} devices; give at least {2 * self.devices}"
            raise ArgumentError("batch_size", self.batch_size, fix)
        if self.norm == "Linf" and self.eps > 1:
            raise ArgumentError("eps", self.eps, f"is beyond the pixel box [0, 1]; did you mean {self.eps:g}/255?")
        if self.objective.beta is not None and objective.beta is None:
            fix = f"objective {self.objective.name} has no beta; leave it out"
            raise ArgumentError("objective.beta", self.objective.beta, fix)
        if self.optimiser.label_smoothing and not objective.smooths_labels:
            fix = f"objective {self.objective.name} has no label_smoothing; leave it out"
            raise ArgumentError("optimiser.label_smoothing", self.optimiser.label_smoothing, fix)
        if self.attack.step_size is not None and attack.stride is None:
            fix = f"attack {self.attack.name} chooses its own step_size; leave it out"
            raise ArgumentError("attack.step_size", self.attack.step_size, fix)
        if objective.random_start and self.attack.random_start is False:
            fix = f"objective {self.objective.name} needs attack.random_start: its inner loss has no gradient at x"
            raise ArgumentError("attack.random_start", False, fix)
        return self


def read_config(source: "FinetuneConfig | Mapping[str, object] | str | Path") -> FinetuneConfig:
    """A configuration from itself, a mapping, or a YAML file.

    Raises:
        ArgumentError: the file is not there or not YAML, a key is unknown (the nearest known one is suggested), or
            a value cannot work.
    """
    if isinstance(source, FinetuneConfig):
        return source
    if not isinstance(source, Mapping):
        source = read_yaml(Path(source))
    try:
        return FinetuneConfig.model_validate(dict(source))
    except ValidationError as error:
        raise config_error(error) from None


def write_config(config: FinetuneConfig, path: Path) -> None:
    """Write the resolved configuration as YAML that :func:`read_config` reads back to an equal one."""
    content = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, explicit_end=True)
    with written(path) as unfinished:
        unfinished.write_text(WHOLE + masked(content))


def completed(config: FinetuneConfig) -> FinetuneConfig:
    """The configuration with every default that depends on other values filled in."""
    attack, objective, schedule = config.attack, config.objective, config.schedule
    own_attack, own_objective = INNER_ATTACKS[attack.name], OBJECTIVES[objective.name]
    if attack.random_start is None:
        attack = attack.model_copy(update={"random_start": own_attack.random_start or own_objective.random_start})
    if attack.step_size is None and own_attack.stride is not None:
        attack = attack.model_copy(update={"step_size": own_attack.stride / attack.steps})
    if objective.beta is None:
        objective = objective.model_copy(update={"beta": own_objective.beta})
    missing = {k: v for k, v in SCHEDULES[schedule.name].items() if getattr(schedule, k) is None}
    schedule = schedule.model_copy(update=missing)
    return config.model_copy(update={"attack": attack, "objective": objective, "schedule": schedule})


def resolve(config: FinetuneConfig) -> FinetuneConfig:
    """The configuration with every default that depends on other values, or on the machine, filled in."""
    import torch  # seconds, which a benchmark that is only looked at need not wait

    from temper.core.precision import computes_bf16

    precision, threads = config.precision, config.threads or max(torch.get_num_threads() // config.devices, 1)
    if precision == "auto":
        device = "cuda" if torch.cuda.is_available() and config.accelerator != "cpu" else "cpu"
        precision = "bf16" if computes_bf16(device) else "fp32"
    return completed(config).model_copy(update={"precision": precision, "threads": threads})


#: How a configuration that Temper wrote begins. One that was cut short is YAML still, and would mean the defaults.
WHOLE = "# A run of Temper; whole only where the last line is ...\n"

#: A file of settings is no larger, and its aliases stand for no more values: 445 bytes of nested ones can take 2 GB.
YAML_BYTES, YAML_NODES = 10_000_000, 100_000


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also counts what aliases stand for."""

    def compose_document(self) -> yaml.Node | None:
        root = super().compose_document()
        if root is not None and _size(root, {}) > YAML_NODES:
            raise yaml.YAMLError(f"its aliases stand for more than {YAML_NODES:,} values; write them out")
        return root


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Nodes below and with this one, each as often as an alias repeats it; one within itself is endless."""
    if id(node) not in known:
        known[id(node)] = YAML_NODES + 1  # while it is being counted
        below = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = (part for each in below for part in (each if isinstance(each, tuple) else (each,)))
        known[id(node)] = min(1 + sum(_size(part, known) for part in parts), YAML_NODES + 1)
    return known[id(node)]


def read_yaml(path: Path, argument: str = "config") -> Mapping[str, Any]:
    """The mapping in a YAML file; an ArgumentError about ``argument`` where there is none.

    At most :data:`YAML_BYTES` are read, and :data:`YAML_NODES` values, those repeated by aliases included.
    """
    try:
        with path.open("rb") as file:
            text = file.read(YAML_BYTES + 1)
        if len(text) > YAML_BYTES:
            raise ArgumentError(argument, str(path), f"is larger than {YAML_BYTES:,} bytes; name a file of settings")
        if text.startswith(WHOLE.encode()) and not text.rstrip().endswith(b"\n..."):
            raise ArgumentError(argument, str(path), "was cut short (its last line is not ...); restore it")
        content = yaml.load(text.decode(), _Loader)
    except OSError as error:
        raise ArgumentError(argument, str(path), f"cannot be read ({error.strerror}); name a YAML file") from None
    except RecursionError:
        raise ArgumentError(argument, str(path), "is nested too deeply; name a file of settings") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArgumentError(argument, str(path), f"is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        raise ArgumentError(argument, str(path), "is empty; write the settings into it, or restore it")
    if not isinstance(content, Mapping):
        raise ArgumentError(argument, str(path), "must hold key: value lines at its top level")
    return content


def config_error(error: ValidationError, section: str = "") -> ArgumentError:
    """The first thing that pydantic found wrong, as one line that names the key, its value and the fix.

    Args:
        error: of a :class:`FinetuneConfig`, or of the part of one that ``section`` names.
        section: as ``data``; empty for the whole.
    """
    return refusal(error, FinetuneConfig, section)
