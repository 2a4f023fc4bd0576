"""Networks of timm: ``timm:NAME[@weights-file]``."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from temper.core.hub import prompt_hub
from temper.errors import ArgumentError, ModelError
from temper.models.built import Built, classifier_form
from temper.models.heads import configured_head, outputs_of
from temper.models.known import imagenet_names
from temper.models.preprocessing import Preprocessing, for_channels
from temper.models.sources.source import ModelSource, Request
from temper.text import did_you_mean, nearest

if TYPE_CHECKING:
    from timm.models import PretrainedCfg


class TimmSource(ModelSource):
    """With the normalisation, input size and class count of timm's own configuration.

    ``num_classes`` matters only where the pretrained weights come without a classifier, and ``image_size`` only where
    the family's input size is fixed when it is built.
    """

    form = "timm:NAME[@weights-file]"
    prefix = "timm"
    takes_weights_file = True
    takes_arguments = True
    weights_are_optional = True

    def check(self) -> None:
        """See :meth:`ModelSource.check`."""
        self._config()

    def build(self, request: Request) -> Built:
        """See :meth:`ModelSource.build`; it cannot where there are no weights or no way to fetch them, either."""
        self._check_arguments(request)
        config = self._config()
        self._check_weights(config, request)
        network, (height, width) = self._sized(config, request)
        head = configured_head(network)
        if not head:
            raise ModelError(f"{self.text}: gives no logits (it is an encoder); choose a classifier")
        channels = request.model_args.get("in_chans", config.input_size[0])
        assert isinstance(channels, int)
        if request.model_args:  # which may add outputs, such as those of an auxiliary head
            text = f"{self.text} with {dict(request.model_args)}"
            classifier_form(text, network, torch.zeros(2, channels, height, width))
        return Built(
            network,
            Preprocessing(
                for_channels(config.mean, channels),
                for_channels(config.std, channels),
                height if height == width else None,
            ),
            head,
            outputs_of(network.get_submodule(head[0])),
            head_is_fresh=_is_headless(config) and request.pretrained,
        )

    def output_names(self, built: Built) -> list[str]:
        """See :meth:`ModelSource.output_names`; timm's configuration says them, or how many classes of ImageNet."""
        config = self._config()
        said = config.label_descriptions or config.label_names
        if isinstance(said, Mapping):
            return [str(said[name]) for name in config.label_names or said]
        return list(said) if said else imagenet_names(built.num_classes)

    def _check_arguments(self, request: Request) -> None:
        for argument, instead in {"num_classes": "num_classes", "img_size": "image_size"}.items():
            if argument in request.model_args:
                given = dict(request.model_args)
                raise ArgumentError("model_args", given, f"give {instead} by itself, not in here")

    def _check_weights(self, config: "PretrainedCfg", request: Request) -> None:
        if request.pretrained and not config.has_weights:
            raise ModelError(f"{self.text}: timm has no weights for it; use weights='none' or {self.text}@FILE")
        if _is_headless(config) and request.num_classes is None:
            raise ModelError(f"{self.text}: its weights come without a classifier; give num_classes")

    def _config(self) -> "PretrainedCfg":
        """timm's configuration of the network.

        Raises:
            ModelError: there is none; the message names the nearest.
        """
        import timm  # seconds, which no other network need wait for

        architecture, _, tag = self.name.partition(".")
        if not timm.is_model(architecture):
            known = timm.list_models()
            hint = did_you_mean(nearest(architecture, known, 3, 0.5), "timm.list_models() lists the names")
            raise ModelError(f"{self.text}: timm {timm.__version__} has no model {architecture!r}; {hint}")
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
        if tag and tag not in tags:
            raise ModelError(f"{self.text}: no weights tagged {tag!r}; known: {', '.join(tags) or 'none'}")
        config = timm.get_pretrained_cfg(self.name)
        assert config is not None
        return config

    def _sized(self, config: "PretrainedCfg", request: Request) -> tuple[nn.Module, tuple[int, int]]:
        """The network, and the height and width that it was built for.

        A size that can be changed afterwards is left as it is; see :func:`temper.models.built.resize`.
        """
        network = self._created(config, request)
        _, height, width = config.input_size
        wanted = request.image_size
        changeable = not config.fixed_input_size or hasattr(network, "set_input_size")
        if wanted is None or (height, width) == (wanted, wanted) or changeable:
            return network, (height, width)
        return self._created(config, request, img_size=wanted), (wanted, wanted)

    def _created(self, config: "PretrainedCfg", request: Request, **more: int) -> nn.Module:
        from timm import create_model

        arguments: dict[str, Any] = dict(request.model_args)
        if _is_headless(config):
            # timm takes weights strictly only into a network with as many classes as they have: the head comes after.
            arguments["num_classes"] = 0 if request.pretrained else request.num_classes
        arguments |= more
        try:
            with prompt_hub() if request.pretrained else nullcontext():
                network: nn.Module = create_model(self.name, pretrained=request.pretrained, **arguments)
        except OSError as error:  # what the hub's client raises without network and cache
            raise ModelError(self._fetch_by_hand(config)) from error
        except TypeError as error:
            raise ModelError(f"{self.text}: cannot be built with {arguments}: {error}") from error
        except RuntimeError as error:
            if not str(error).startswith("Error(s) in loading state_dict"):  # torch has no class of its own for it
                raise
            reason = " ".join(str(error).split())
            raise ModelError(f"{self.text}: its weights do not fit with {arguments}: {reason[:300]}") from error
        if _is_headless(config) and request.pretrained:
            reset: Callable[[int | None], object] = network.reset_classifier  # type: ignore[assignment]
            reset(request.num_classes)
        return network

    def _fetch_by_hand(self, config: "PretrainedCfg") -> str:
        if config.hf_hub_id:
            what = f"{config.hf_hub_filename or 'model.safetensors'} of {config.hf_hub_id} on the Hugging Face hub"
        else:
            what = str(config.url)
        architecture = self.name.partition(".")[0]
        return (
            f"{self.text}: its weights are not in the cache and could not be fetched (no network?); copy {what}"
            f" to this machine as {architecture}.safetensors and use {self.text}@{architecture}.safetensors"
        )


def _is_headless(config: "PretrainedCfg") -> bool:
    """Whether the weights come without a classifier."""
    return config.num_classes == 0
