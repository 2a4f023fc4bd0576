"""The one typed schema of a fine-tuning run: YAML files, command-line flags and Python all fill it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from temper.core.calls import LARGEST, Count, Processes, Seed
from temper.core.files import written
from temper.core.refusals import refusal
from temper.errors import ArgumentError
from temper.text import masked
from temper.threat import Threat, check_norm
from temper.training.objectives import OBJECTIVES
from temper.training.sections.attack import AttackConfig, Epsilon, Norms, ScheduleConfig
from temper.training.sections.images import DataConfig, ModelConfig
from temper.training.sections.learning import ObjectiveConfig, OptimiserConfig, ProtocolConfig
from temper.training.sections.measuring import EvaluationConfig, ValidationConfig
from temper.training.sections.section import Section
from temper.training.yaml_files import WHOLE, read_yaml

#: Settings that come along, by the name that stands for their file.
PRESETS = {file.stem: file for file in sorted(Path(__file__).with_name("presets").glob("*.yaml"))}


class FinetuneConfig(Section):
    """A fine-tuning run; every value has a default, and the resolved configuration repeats the run."""

    out: Path = Path("runs/finetune")
    """Folder of the run."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    norm: Norms = "Linf"
    """Norm of the threat model: Linf, L2 or L1; or several, as Linf,L1, each with its own eps."""
    eps: Epsilon = 8 / 255
    """Target epsilon eps_g in [0, 1] pixel units; 8/255 is accepted, and 4/255,12 for two norms."""
    objective: ObjectiveConfig = ObjectiveConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    attack: AttackConfig = AttackConfig()
    protocol: ProtocolConfig = ProtocolConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    validation: ValidationConfig = Field(ValidationConfig(), exclude_if=ValidationConfig().__eq__)
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

    @property
    def threats(self) -> tuple[Threat, ...]:
        """Every norm with its target epsilon."""
        return tuple(Threat(check_norm(norm), eps) for norm, eps in zip(self.norm.split(","), self._radii, strict=True))

    @property
    def _radii(self) -> tuple[float, ...]:
        return self.eps if isinstance(self.eps, tuple) else (self.eps,)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        objective, attack, radii = OBJECTIVES[self.objective.name], self.attack.facts, self._radii
        if len(radii) != len(self.norm.split(",")):
            raise ArgumentError("eps", self.eps, f"give one for each norm of {self.norm}, as in 4/255,12 for Linf,L1")
        if 0 in radii and (objective.attacked or len(radii) > 1):
            raise ArgumentError("eps", self.eps, "choose objective.name standard, or an eps above 0")
        if self.eps == 0 and self.validation != ValidationConfig():
            raise ArgumentError("eps", self.eps, "is what validation measures robust accuracy at; give one above 0")
        halved = objective.asks == "wings"
        least = 4 if halved else 2
        if self.batch_size < least * self.devices:
            where, needed = f"for each of {self.devices} devices", least * self.devices
            fix = f"leaves less than {least} samples {where}; give at least {needed}"
            raise ArgumentError("batch_size", self.batch_size, fix)
        if halved and self.micro_batch is not None and self.micro_batch < least:
            fix = f"objective {self.objective.name} halves what is in it; give at least {least}"
            raise ArgumentError("micro_batch", self.micro_batch, fix)
        for threat in self.threats:
            if threat.norm == "Linf" and threat.eps > 1:
                fix = f"is beyond the pixel box [0, 1]; did you mean {threat.eps:g}/255?"
                raise ArgumentError("eps", threat.eps, fix)
        if self.attack.union is not None and len(radii) == 1:
            raise ArgumentError("attack.union", self.attack.union, "is for several norms; leave it out")
        if self.objective.beta is not None and objective.beta is None:
            fix = f"objective {self.objective.name} has no beta; leave it out"
            raise ArgumentError("objective.beta", self.objective.beta, fix)
        if self.optimiser.label_smoothing and objective.labels != "shares":
            fix = f"objective {self.objective.name} has no label_smoothing; leave it out"
            raise ArgumentError("optimiser.label_smoothing", self.optimiser.label_smoothing, fix)
        if self.optimiser.awp is not None and not objective.attacked:
            fix = f"objective {self.objective.name} attacks nothing; leave it out"
            raise ArgumentError("optimiser.awp", self.optimiser.awp, fix)
        if objective.beside is not None and self.protocol.name != "full":
            fix = f"objective {self.objective.name} trains all weights and {objective.beside}; choose full"
            raise ArgumentError("protocol.name", self.protocol.name, fix)
        if self.data.mix != "none" and objective.labels == "one":
            fix = (
                f"objective {self.objective.name} needs one label an image; choose objective.name at, or data.mix none"
            )
            raise ArgumentError("data.mix", self.data.mix, fix)
        if self.schedule.individual and objective.labels == "none":
            fix = f"objective {self.objective.name} looks at no label, and so at no margin; choose schedule.name fixed"
            raise ArgumentError("schedule.name", self.schedule.name, fix)
        if not {each.norm for each in self.threats} <= set(attack.norms):
            fix = f"attack {self.attack.name} is made for {', '.join(attack.norms)} alone; take attack.name pgd or apgd"
            raise ArgumentError("norm", self.norm, fix)
        if objective.random_start and self.attack.random_start is False:
            fix = f"objective {self.objective.name} needs attack.random_start: its inner loss has no gradient at x"
            raise ArgumentError("attack.random_start", False, fix)
        return self


def read_config(source: "FinetuneConfig | Mapping[str, object] | str | Path") -> FinetuneConfig:
    """A configuration from itself, a mapping, a YAML file, or the name of a preset: ``paper`` or ``temper``.

    A file of a preset's name goes first.

    Raises:
        ArgumentError: the file is not there or not YAML, a key is unknown (the nearest known one is suggested), or
            a value cannot work.
    """
    if isinstance(source, FinetuneConfig):
        return source
    if not isinstance(source, Mapping):
        source = Path(source)
        source = read_yaml(source if source.exists() else PRESETS.get(str(source), source))
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
    objective = OBJECTIVES[config.objective.name]
    collapsing = config.attack.facts.single and objective.attacked  # which only robust accuracy shows
    filled = {
        "attack": config.attack.completed(random_start=objective.random_start, norms=len(config.threats)),
        "objective": config.objective.completed(),
        "schedule": config.schedule.completed(),
        "optimiser": config.optimiser.completed(),
        "data": config.data.completed(),
        "validation": config.validation.completed(needed=collapsing),
    }
    return config.model_copy(update=filled)


def resolve(config: FinetuneConfig) -> FinetuneConfig:
    """The configuration with every default that depends on other values, or on the machine, filled in."""
    import torch  # seconds, which a benchmark that is only looked at need not wait

    from temper.core.precision import computes_bf16

    precision, threads = config.precision, config.threads or max(torch.get_num_threads() // config.devices, 1)
    if precision == "auto":
        precision = "bf16" if computes_bf16(device_of(config)) else "fp32"
    return completed(config).model_copy(update={"precision": precision, "threads": threads})


def device_of(config: FinetuneConfig) -> str:
    """Where a run computes on this machine: ``cuda`` or ``cpu``."""
    import torch

    return "cuda" if torch.cuda.is_available() and config.accelerator != "cpu" else "cpu"


def config_error(error: ValidationError, section: str = "") -> ArgumentError:
    """The first thing that pydantic found wrong, as one line that names the key, its value and the fix.

    Args:
        error: of a :class:`FinetuneConfig`, or of the part of one that ``section`` names.
        section: as ``data``; empty for the whole.
    """
    return refusal(error, FinetuneConfig, section)
