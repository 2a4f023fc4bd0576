"""The command that foretells whether fixed epsilon fails."""

import json
import sys
from pathlib import Path
from typing import Annotated

import tyro
from pydantic.dataclasses import dataclass

from temper.cli import DONE
from temper.cli.measuring import OutputOptions
from temper.core.calls import Count, PixelCount, Seed
from temper.errors import ArgumentError, naming


@dataclass(frozen=True)
class PlanOptions:
    """The training that is planned."""

    model: str | None = None
    """A run folder, timm:NAME[@weights-file], module:factory, bundled, or a name of the catalogue."""
    data: str | None = None
    """FILE.npz, a folder or zip with one folder per class, digits, mnist-5k, torchvision:NAME, parquet:DIR, or a name
    of the catalogue, such as flowers-102."""
    eps: str | None = None
    """Target epsilon in pixel units of [0, 1], as in 8/255."""
    config: Path | None = None
    """YAML file of temper finetune, for all else that is planned: norm, normalisation, learning rates, objective. Its
    epochs, batch, attack and schedule are not those of the short runs."""


@dataclass(frozen=True)
class ShortOptions:
    """How short the runs are."""

    epochs: Count | None = None
    """Epochs of each run; 10 by default."""
    images: Count | None = None
    """Images to train on at most; by default 600, or 5 of each class where that is more."""
    image_size: PixelCount | None = None
    """Height and width in pixels; by default the model's own, but no more than 64. A vision transformer, whose patches
    are large, wants its own."""
    seed: Seed | None = None
    """Seed of all that is random, by default 0 or that of the config."""


@dataclass(frozen=True)
class Diagnose:
    """Foretell whether adversarial training with a fixed epsilon fails on a backbone and data, and which epsilon
    schedule to take. Four short runs (standard fine-tuning; fixed epsilon, half of it and all; then the schedule that
    follows from these) show what clean accuracy fixed epsilon loses and how late it adapts; T1 is where standard
    fine-tuning has 90 % of its accuracy, T2 the mean delay of fixed epsilons (arXiv:2509.23325). The runs are kept
    below OUT; started again, the command continues.

    Example: temper diagnose --model timm:resnet18.a1_in1k --data photos --eps 4/255
    """

    plan: Annotated[PlanOptions, tyro.conf.OmitArgPrefixes]
    """The training that is planned."""
    short: Annotated[ShortOptions, tyro.conf.OmitArgPrefixes] = ShortOptions()
    """How short the runs are."""
    output: Annotated[OutputOptions, tyro.conf.OmitArgPrefixes] = OutputOptions()
    """Where the results go."""

    def run(self) -> int:
        """Train, compare, and print."""
        settings = self._settings()  # what is wrong with the call is told before torch is imported
        from temper.cli.console import say
        from temper.runs.diagnose import EPOCHS, REPORT, diagnose
        from temper.runs.diagnosis import in_words
        from temper.training.config import read_config

        config = read_config(settings)
        out = self.output.folder(f"diagnose-{config.model.name}-{config.data.train}")
        with self.output.reserved(), naming(self._given()):
            found = diagnose(out, config, epochs=self.short.epochs or EPOCHS, images=self.short.images)
        if self.output.json:
            sys.stdout.write(json.dumps(found.to_json()) + "\n")
        else:
            say(*in_words(found), f"runs: {out}", f"report: {out / REPORT}")
        return DONE

    def _given(self) -> dict[str, str]:
        """The options of this command that stand for keys of the configuration, by the key."""
        keys = {"model": "model.name", "data": "data.train"}
        return {key: name for name, key in keys.items() if getattr(self.plan, name) is not None}

    def _settings(self) -> dict[str, object]:
        """The planned configuration, with what the command line says of it."""
        from temper.training.config import read_config

        plan, short = self.plan, self.short
        if plan.config is None:
            for name in ("model", "data", "eps"):
                if getattr(plan, name) is None:
                    raise ArgumentError(name, None, "is missing; name it here, or in a configuration (--config)")
        settings = read_config(plan.config or {}).model_dump()
        model = {"name": plan.model, "image_size": short.image_size}
        settings["model"] |= {key: value for key, value in model.items() if value is not None}
        settings["data"] |= {} if plan.data is None else {"train": plan.data}
        own = {"eps": plan.eps, "seed": short.seed}
        return settings | {key: value for key, value in own.items() if value is not None}
