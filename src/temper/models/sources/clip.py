"""Image towers of timm with a zero-shot head: ``clip:NAME+TEXTS.safetensors[@weights-file]``."""

from dataclasses import replace

import torch

from temper.errors import ModelError
from temper.models.built import Built
from temper.models.heads import output_of
from temper.models.preprocessing import Preprocessing, for_channels
from temper.models.sources.source import Request
from temper.models.sources.timm import TimmSource
from temper.models.text_head import TextHead, ZeroShot, read_texts, text_head


class ClipSource(TimmSource):
    """A network of timm whose outputs are embeddings, as those of CLIP are; it keeps its last layer, the projection."""

    form = "clip:NAME+TEXTS.safetensors[@weights-file]"
    prefix = "clip"
    brings_classes = True

    @property
    def name(self) -> str:
        """timm's name of the tower."""
        return super().name.partition("+")[0]

    @property
    def texts(self) -> str:
        """The file of text embeddings; empty in what a saved network is built by again."""
        return super().name.partition("+")[2]

    @property
    def rebuilt_as(self) -> str:
        """Without the texts: a saved network has them among its weights."""
        return f"{self.prefix}:{self.name}"

    def output_names(self, built: Built) -> list[str]:
        """See :meth:`ModelSource.output_names`; its classes are named by texts."""
        return []

    def check(self) -> None:
        """See :meth:`ModelSource.check`."""
        super().check()
        self._check_texts()
        read_texts(self.texts)

    def build(self, request: Request) -> Built:
        """See :meth:`ModelSource.build`."""
        self._check_arguments(request)
        if not request.restores:
            self._check_texts()
        config = self._config()
        if request.pretrained and not config.has_weights:
            raise ModelError(f"{self.text}: timm has no weights for it; use weights='none' or {self.text}@FILE")
        tower, (height, width) = self._sized(config, replace(request, num_classes=0))
        channels = request.model_args.get("in_chans", config.input_size[0])
        assert isinstance(channels, int)
        embedding = output_of(tower, torch.zeros(2, channels, height, width))
        if embedding.dim() != 2:
            raise ModelError(f"{self.text}: gives {list(embedding.shape)} for 2 images, not one embedding each")
        network = self._with_head(tower, embedding.shape[1], request)
        mean, std = (for_channels(values, channels) for values in (config.mean, config.std))
        preprocessing = Preprocessing(mean, std, height if height == width else None)
        return Built(network, preprocessing, ("head",), network.head.out_features)

    def _with_head(self, tower: torch.nn.Module, dimensions: int, request: Request) -> ZeroShot:
        if not self.texts:
            assert request.num_classes is not None
            return ZeroShot(tower, TextHead(torch.zeros(request.num_classes, dimensions)))
        texts = read_texts(self.texts)
        if texts.embeddings.shape[1] != dimensions:
            raise ModelError(
                f"{self.text}: the texts have {texts.embeddings.shape[1]} dimensions, the images {dimensions};"
                " embed the texts with the text tower that belongs to this image tower"
            )
        return ZeroShot(tower, text_head(texts), texts.class_names)

    def _check_texts(self) -> None:
        if not self.texts:
            raise ModelError(f"{self.text}: has no classes; give text embeddings, {self.form}")
