"""The network that comes with Temper: ``bundled``."""

from temper.models import bundled
from temper.models.built import Built
from temper.models.preprocessing import Preprocessing
from temper.models.sources.source import ModelSource, Request
from temper.models.weights import load_weights

PREPROCESSING = Preprocessing(bundled.MEAN, bundled.STD, bundled.IMAGE_SIZE)


class BundledSource(ModelSource):
    """Pretrained on CIFAR-10 (see its card), or with random weights."""

    form = "bundled"
    prefix = "bundled"
    weights_are_optional = True

    @classmethod
    def names(cls, text: str) -> bool:
        """See :meth:`ModelSource.names`."""
        return text == cls.prefix

    def check(self) -> None:
        """See :meth:`ModelSource.check`; it is always there."""

    def build(self, request: Request) -> Built:
        """See :meth:`ModelSource.build`."""
        network = bundled.BundledNetwork()
        if request.pretrained:
            load_weights(network, bundled.WEIGHTS, ("head",), bundled.NUM_CLASSES)
        return Built(network, PREPROCESSING, ("head",), bundled.NUM_CLASSES)
