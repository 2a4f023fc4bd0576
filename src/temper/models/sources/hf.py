"""Image classifiers of transformers: ``hf:FOLDER`` or ``hf:ORG/NAME``, with the extra ``hf``."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors import SafetensorError
from torch import nn

from temper.core.hub import prompt_hub
from temper.errors import MissingExtraError, ModelError
from temper.models.built import Built, classifier_form
from temper.models.heads import find_head, outputs_of
from temper.models.preprocessing import Preprocessing
from temper.models.sources.source import ModelSource, Request
from temper.text import first_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

T = TypeVar("T")

CONFIG = "config"
"""The argument under which a saved model keeps the network's configuration: folder and hub are not asked again."""


class HfSource(ModelSource):
    """With mean, std and size of its image processor; weights are read from safetensors, and no code of a model's own
    is executed.

    The folder is what ``save_pretrained`` writes: config.json, model.safetensors and preprocessor_config.json.
    """

    form = "hf:FOLDER or hf:ORG/NAME"
    prefix = "hf"
    weights_are_optional = True

    def check(self) -> None:
        """See :meth:`ModelSource.check`."""
        self._config()

    def build(self, request: Request) -> Built:
        """See :meth:`ModelSource.build`; it cannot where there are no weights or no way to fetch them, either."""
        kept = request.model_args.get(CONFIG)
        config = _described(kept) if isinstance(kept, Mapping) else self._config()
        # A saved model brings its own preprocessing, and is built where its folder is no more.
        own = Preprocessing.none(_channels(config), None) if kept else self._preprocessing(config)
        network = self._pretrained(config) if request.pretrained else _random(config)
        side = own.image_size or getattr(config, "image_size", None) or 224
        side = side if isinstance(side, int) else side[0]
        images = torch.zeros(2, own.channels, side, side)
        classifier_form(self.text, network, images)
        head = find_head(network, images)
        if not head:
            raise ModelError(f"{self.text}: does not end in a linear layer; choose another image classifier")
        return Built(network, own, head, outputs_of(network.get_submodule(head[0])))

    def rebuilt_with(self, built: Built, request: Request) -> dict[str, object]:
        """The network's configuration."""
        return {CONFIG: _plain(built.network.config)}  # type: ignore[arg-type]

    def output_names(self, built: Built) -> list[str]:
        """See :meth:`ModelSource.output_names`; what transformers calls LABEL_0 has no name."""
        said: Mapping[int, str] = built.network.config.id2label  # type: ignore[union-attr,assignment]
        names = [said[number] for number in range(built.num_classes)] if len(said) == built.num_classes else []
        return [] if any(name.startswith("LABEL_") for name in names) else names

    def _config(self) -> "PretrainedConfig":
        """transformers' configuration of the network."""
        _check_installed(f"model {self.text}")
        from transformers import AutoConfig, AutoModelForImageClassification

        config = self._asked("config.json", lambda: AutoConfig.from_pretrained(self.name))
        if type(config) not in AutoModelForImageClassification._model_mapping:
            raise ModelError(
                f"{self.text}: its model type {config.model_type!r} is no image classifier of transformers; a model of"
                " several inputs or tasks is asked through a module:factory of your own that returns logits"
            )
        return config

    def _preprocessing(self, config: "PretrainedConfig") -> Preprocessing:
        from transformers.image_processing_utils import BaseImageProcessor

        settings, _ = self._asked(
            "preprocessor_config.json", lambda: BaseImageProcessor.get_image_processor_dict(self.name)
        )
        factor = settings.get("rescale_factor", 1 / 255)
        if not settings.get("do_rescale", True) or abs(factor * 255 - 1) > 1e-3 or settings.get("rescale_offset"):
            raise ModelError(
                f"{self.text}: its image processor does not rescale pixels to [0, 1] (rescale_factor {factor:g}); wrap"
                " network and rescaling in a module:factory of your own"
            )
        size = _side(settings)
        if not settings.get("do_normalize", True):
            return Preprocessing.none(_channels(config), size)
        missing = [name for name in ("image_mean", "image_std") if settings.get(name) is None]
        if missing:
            raise ModelError(
                f"{self.text}: preprocessor_config.json has no {missing[0]}; add it, as the model was trained"
            )
        return Preprocessing(tuple(settings["image_mean"]), tuple(settings["image_std"]), size)

    def _pretrained(self, config: "PretrainedConfig") -> nn.Module:
        from transformers import AutoModelForImageClassification

        network: nn.Module
        network, found = self._asked(
            "model.safetensors",
            lambda: AutoModelForImageClassification.from_pretrained(
                self.name, config=config, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            ),
        )
        lost = sorted(found["missing_keys"])
        if lost or found["mismatched_keys"]:
            raise ModelError(
                f"{self.text}: its weights do not fit its config.json ({', '.join(lost[:3]) or 'other shapes'}); is it"
                " a classifier that was fine-tuned, or a bare backbone?"
            )
        return network

    def _asked(self, file: str, ask: Callable[[], T]) -> T:
        """What a folder or the hub answers; a ModelError where the file is not there."""
        if Path(self.name).is_dir() and not any((Path(self.name) / name).exists() for name in _names(file)):
            raise ModelError(
                f"{self.text}: no {file} in it; name a folder that save_pretrained wrote, with its processor"
            )
        try:
            with prompt_hub(), _quiet():
                return ask()
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            told, reason = f"{self.text}: {file} cannot be read from", first_line(error)[:200]
            if Path(self.name).is_dir():
                raise ModelError(f"{told} its folder ({reason})") from error
            where = "the cache, and the hub could not be asked or has none"
            raise ModelError(f"{told} {where} ({reason}); name a folder that has it, hf:FOLDER") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Inside, transformers neither logs nor draws: what is wrong comes as an error."""
    from transformers.utils import logging

    level, drawn = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if drawn:
            logging.enable_progress_bar()


def _names(file: str) -> Sequence[str]:
    """A file, or the index of its parts."""
    return (file, f"{file}.index.json")


def _check_installed(wanted: str) -> None:
    if find_spec("transformers") is None:
        raise MissingExtraError(wanted, "hf")


def _channels(config: "PretrainedConfig") -> int:
    channels: int = getattr(config, "num_channels", 3)
    return channels


def _described(content: Mapping[str, object]) -> "PretrainedConfig":
    """A configuration from its plain form."""
    _check_installed("a model of transformers")
    from transformers import AutoConfig

    settings = dict(content)
    return AutoConfig.for_model(str(settings.pop("model_type")), **settings)


def _plain(config: "PretrainedConfig") -> dict[str, object]:
    """A configuration as JSON has it, without the versions and paths that it was read with."""
    content = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in content.items() if key not in ("_name_or_path", "transformers_version")}


def _random(config: "PretrainedConfig") -> nn.Module:
    from transformers import AutoModelForImageClassification

    network: nn.Module = AutoModelForImageClassification.from_config(config)
    return network


def _side(settings: Mapping[str, object]) -> int | None:
    """Height and width that a processor brings images to; None where they are not the same or are not said."""
    own = settings.get("crop_size") if settings.get("do_center_crop") else settings.get("size")
    if isinstance(own, Mapping):
        sides = {own[name] for name in ("height", "width", "shortest_edge") if own.get(name)}
        own = sides.pop() if len(sides) == 1 else None
    return own if isinstance(own, int) else None
