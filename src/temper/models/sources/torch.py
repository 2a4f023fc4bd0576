"""Networks in files of torch, TorchScript and torch.export: ``torch:FILE``."""

from dataclasses import replace
from pathlib import Path

from torch import zeros

from temper.core.precision import check_precision
from temper.models.built import Built
from temper.models.programs import read_program
from temper.models.sources.source import FileSource, Request
from temper.models.sources.trial import built_as_it_takes


class TorchSource(FileSource):
    """See :class:`FileSource`."""

    form = "torch:FILE"
    prefix = "torch"
    kind = "a TorchScript or torch.export file"

    def build(self, request: Request) -> Built:
        """See :meth:`ModelSource.build` and :func:`temper.models.programs.read_program`."""
        self.check()
        network, shape = read_program(Path(self.name))
        check_precision(network, self.text)
        if shape is None:
            return built_as_it_takes(self.text, network, request)
        example = request.example
        fits = example is not None and tuple(example.shape[1:]) == shape
        only = replace(request, image_size=None, channels=shape[0], example=example if fits else zeros(2, *shape))
        built = built_as_it_takes(self.text, network, only)
        own = replace(built.preprocessing, image_size=shape[1] if shape[1] == shape[2] else None)
        return replace(built, preprocessing=own)
