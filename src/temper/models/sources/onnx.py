"""Networks in ONNX files: ``onnx:FILE``."""

from pathlib import Path

import torch

from temper.errors import ModelError
from temper.models.built import Built, classifier_form
from temper.models.heads import find_head, output_of
from temper.models.onnx import read_onnx
from temper.models.preprocessing import Preprocessing
from temper.models.sources.source import ModelSource, Request


class OnnxSource(ModelSource):
    """On pixels in [0, 1]: an exported classifier has its normalisation inside."""

    form = "onnx:FILE"
    prefix = "onnx"

    def check(self) -> None:
        """See :meth:`ModelSource.check`."""
        if not Path(self.name).is_file():
            raise ModelError(f"{self.text}: not found; give the path of an ONNX file")

    def build(self, request: Request) -> Built:
        """See :meth:`ModelSource.build` and :func:`temper.models.onnx.read_onnx`."""
        network, (channels, height, width) = read_onnx(Path(self.name), request.example)
        example = torch.zeros(2, channels, height, width)
        preprocessing = Preprocessing.none(channels, height if height == width else None)
        form = classifier_form(self.text, network, example)
        classes = max(output_of(network, example)[0].numel(), 2)
        return Built(network, preprocessing, find_head(network, example), classes, form)
