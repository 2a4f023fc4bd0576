"""Networks in ONNX files: ``onnx:FILE``."""

from pathlib import Path

import torch

from temper.models.built import Built, classifier_form
from temper.models.heads import find_head, output_of
from temper.models.onnx import read_onnx
from temper.models.preprocessing import Preprocessing
from temper.models.sources.source import FileSource, Request


class OnnxSource(FileSource):
    """See :class:`FileSource`."""

    form = "onnx:FILE"
    prefix = "onnx"
    kind = "an ONNX file"

    def build(self, request: Request) -> Built:
        """See :meth:`ModelSource.build` and :func:`temper.models.onnx.read_onnx`."""
        network, (channels, height, width) = read_onnx(Path(self.name), request.example)
        example = torch.zeros(2, channels, height, width)
        preprocessing = Preprocessing.none(channels, height if height == width else None)
        form = classifier_form(self.text, network, example)
        classes = max(output_of(network, example)[0].numel(), 2)
        return Built(network, preprocessing, find_head(network, example), classes, form)
